"""How the commands of this folder open: their options, the device, the software, and the file that gets the rows."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch

from videonsa.bench import rows
from videonsa.git import git
from videonsa.options import Parser, folder

SOFTWARE = ("gpu", "torch", "triton", "commit")  # columns of every table that is measured on a GPU


@dataclass(frozen=True)
class Table:
    """Rows as they come, each with what was measured on; kept in a file, where one was named."""

    columns: tuple[str, ...]
    path: Path | None
    about: Mapping[str, str]  # the columns that all rows share

    def add(self, *made: Mapping[str, object]) -> None:
        """Append rows. Raises DiskError."""
        if self.path is not None:
            rows.append([{**row, **self.about} for row in made], self.columns, self.path)


def parser(name: str, about: str | None) -> Parser:
    """The options of `python -m name`: --commit and --out, and what is added to them."""
    raw = argparse.RawDescriptionHelpFormatter
    made = Parser(prog=f"python -m {name}", description=about, formatter_class=raw)
    made.add_argument("--commit", default=None, help="recorded in the rows; read from git when not given")
    made.add_argument("--out", type=folder, metavar="FILE", help="CSV file to append to")
    return made


def opened(name: str, columns: tuple[str, ...], options: argparse.Namespace) -> Table | None:
    """The table of a command that measures on a GPU. None, and a line that says why, where there is no device, and
    where the file holds other columns, or another card's rows."""
    if not has_device(name):
        return None
    return table(columns, options.out, software(options.commit))


def has_device(name: str) -> bool:
    """Whether torch finds a CUDA device; else a line says so."""
    found = torch.cuda.is_available()
    if not found:
        print(f"{name} measures on CUDA, and torch finds no CUDA device", file=sys.stderr)
    return found


def table(columns: tuple[str, ...], path: Path | None, about: Mapping[str, str]) -> Table | None:
    """A table of rows of `about["gpu"]`; None, and a line that says why, where the file cannot take them."""
    if refused := rows.refusal(path, columns, about["gpu"]):
        print(refused, file=sys.stderr)
        return None
    return Table(columns, path, about)


def software(commit: str | None, *packages: str) -> dict[str, str]:
    """What SOFTWARE names, of this process's GPU ("cpu" where a command is tried without one), and more packages."""
    return {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "triton": version("triton") if find_spec("triton") else "",
        "commit": commit or this_commit(),
        **{name: version(name) for name in packages},
    }


def this_commit() -> str:
    """The checkout's commit, with "-dirty" where it was changed since; "unknown" where git does not say."""
    return (git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*") or "").strip() or "unknown"
