"""Records: one JSON file a result, with its settings, numbers and provenance. Imports no torch.

A result exists when its record exists: it is written under a temporary name, flushed to the disk, then renamed.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import traceback
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from videonsa.disk import write_bytes
from videonsa.git import ROOT, git

SCHEMA = 1
PACKAGES = ("torch", "triton", "transformers", "lmms-eval", "numpy", "av")


def write_record(path: Path, record: dict[str, Any], replace: bool = True) -> None:
    """Write the record so that a reader, also on another node, sees all of it or nothing.

    Raises DiskError (an OSError) when the disk is full or fails, OSError when the folder may not be written; the record
    that was there, if any, is then untouched. Without `replace` FileExistsError where there is one.
    """
    write_bytes(path, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode(), replace)


def write_text(path: Path, text: str) -> None:
    """Replace a file's text atomically and durably; raises as write_record.

    UTF-8; what it cannot spell (bytes of a file name that are none) is written as \\udcff.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def read_record(path: Path) -> dict[str, Any] | None:
    """The record at path; None when there is none or the file is not a whole record."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    return record if isinstance(record, dict) and "kind" in record and "status" in record else None


def failure(error: BaseException) -> dict[str, str]:
    """An exception as the `error` entry of a record; paths are cut to the file's place in the project."""
    text = "".join(traceback.format_exception(error))
    return {
        "type": type(error).__name__,
        "message": without_paths(str(error)),
        "traceback": without_paths(text),
    }


def without_paths(text: str) -> str:
    """The text without this machine's folders: records are shared between people."""
    for folder, name in (
        (str(ROOT), "."),
        (os.path.realpath(sys.prefix), "<venv>"),
        (sys.prefix, "<venv>"),
        (os.path.expanduser("~"), "~"),
    ):
        if len(folder) > 1:
            text = text.replace(folder, name)
    return text


@lru_cache
def provenance() -> dict[str, Any]:
    """Where a number comes from: commit, versions, machine. Times are added by whoever measures them."""
    return {
        "commit": (git("rev-parse", "HEAD") or "").strip(),
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
