"""Task files, read without lmms-eval: where a task is defined, and what a local one is made of. Imports no torch.

A task in the folder $VIDEONSA_TASKS counts before a shipped one of its name: it was put there for that. Where no folder
is named, those count that `python -m evals.data prepare` wrote below $HF_HOME.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from glob import glob
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from evals.shipped import hf_home
from videonsa.commands import to_install
from videonsa.config import SettingsError, SuiteSettings
from videonsa.identity import effect
from videonsa.places import place

OURS = Path(__file__).parent / "tasks"
TASKS = "VIDEONSA_TASKS"  # environment variable: a folder of task YAML files
PREPARED = "videonsa_tasks"  # below $HF_HOME: those of prepared benchmarks
BUILDERS = ("csv", "json", "parquet", "text", "pandas", "arrow")  # of datasets: `dataset_path` names no data set
PLACES = ("data_files", "data_dir", "cache_dir")  # of dataset_kwargs: where something lies, not what it is
SKIPPED = ("__pycache__", ".ipynb_checkpoints")  # folders that lmms-eval does not enter


@dataclass(frozen=True)
class Function:
    """`!function module.name` of a YAML file."""

    name: str
    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name.rpartition('.')[0]}.py"


class _Loader(yaml.SafeLoader):
    folder = Path()


def _function(loader: _Loader, node: yaml.Node) -> Function:
    return Function(str(loader.construct_scalar(node)), loader.folder)  # type: ignore[arg-type]


_Loader.add_constructor("!function", _function)


def local_folder() -> Path | None:
    """The folder of local tasks."""
    if name := os.environ.get(TASKS):
        return place(name)
    prepared = prepared_folder()
    return prepared if prepared.is_dir() else None


def prepared_folder() -> Path:
    """Where tasks of prepared benchmarks lie, where $VIDEONSA_TASKS names no other folder."""
    return hf_home() / PREPARED


def local_file(task: str) -> Path | None:
    """The YAML file of a local task; None when there is none. Of several the one that lmms-eval takes: the last."""
    folder = local_folder()
    found = None
    for file in _yaml_files(folder) if folder else ():
        try:
            name = read_config(file).get("task")
        except (OSError, yaml.YAMLError):
            name = None  # another task's trouble
        found = file if name == task else found
    return found


@lru_cache
def shipped_folder() -> Path:
    """Where lmms-eval's tasks lie."""
    spec = find_spec("lmms_eval")
    if spec is None or spec.origin is None:
        raise SettingsError(f"lmms-eval is not installed: {to_install()}")
    return Path(spec.origin).parent / "tasks"


@lru_cache
def shipped_file(task: str) -> Path | None:
    """The YAML file of a shipped task, found by its text: reading all of lmms-eval's takes long."""
    line = re.compile(rf"""^task:\s*["']?{re.escape(task)}["']?\s*(#.*)?$""", re.MULTILINE)
    for file in _yaml_files(shipped_folder()):
        if line.search(file.read_text(encoding="utf-8", errors="replace")):
            return file
    return None


def task_config(task: str) -> dict[str, Any]:
    """What the task's YAML file says, with its includes; empty where no file is found."""
    file = local_file(task) or shipped_file(task)
    return {} if file is None else read_config(file)


def read_config(file: Path) -> dict[str, Any]:
    """A task's YAML file over those that it includes, as lmms-eval reads them."""

    class Loader(_Loader):
        folder = file.parent

    own = yaml.load(file.read_text(encoding="utf-8"), Loader)
    if not isinstance(own, dict):
        return {}
    included = own.pop("include", [])
    config: dict[str, Any] = {}
    for name in reversed(included if isinstance(included, list) else [included]):
        config |= read_config(Path(name) if os.path.isfile(name) else file.parent / name)
    config |= own
    return _anchored(config, file.parent)


def task_content(suite: SuiteSettings) -> str | None:
    """12 digits for all that a task of ours or a local one is made of; None for a shipped one, with data on the hub.

    That is its YAML with its includes, the Python files that it names, and its files of questions, all by content:
    where they lie does not count. Videos are named in the questions.

    Raises SettingsError, one line, for a file that cannot be read.
    """
    ours = OURS / f"{suite.task}.yaml"
    file = ours if ours.is_file() else local_file(suite.task)
    if file is None:
        return None
    try:
        config = read_config(file)
        digest = hashlib.sha256(json.dumps(_plain(config), sort_keys=True, default=str).encode())
        for code in sorted(set(_code_files(config)) if file != ours else ()):  # ours count as code
            digest.update(code.name.encode() + effect(code.name, code.read_text(encoding="utf-8")).encode())
        for data in data_files(config):
            digest.update(_file_digest(data, *_stamp(data)))
    except (OSError, yaml.YAMLError, SyntaxError) as error:
        reason = " ".join(str(error).split())
        raise SettingsError(f"local task {suite.task!r} ({file.name}): {reason}") from None
    return digest.hexdigest()[:12]


def data_files(config: Mapping[str, Any]) -> list[Path]:
    """Files of questions that lie on this machine, in order. Raises FileNotFoundError for one that is named and absent.

    Relative names are anchored at the YAML file where a file is there, else at the working directory, as in lmms-eval
    and datasets.
    """
    source, kwargs = config.get("dataset_path"), config.get("dataset_kwargs") or {}
    if isinstance(source, str) and source not in BUILDERS:
        return _below(Path(source)) if Path(source).exists() else []  # a folder; else a data set of the hub
    base = Path(kwargs.get("data_dir") or "")
    names = list(_leaves(kwargs.get("data_files")))
    if not names:
        return _below(base) if kwargs.get("data_dir") else []
    return [path for name in names if "://" not in name for path in _matching(base / name)]


def _matching(name: Path) -> list[Path]:
    found = sorted(Path(path) for path in glob(str(name), recursive=True))
    if not found:
        raise FileNotFoundError(f"its data file {str(name)!r} is not there")
    return [file for path in found for file in _below(path)]


def _below(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def _leaves(value: Any) -> Iterator[str]:
    """Names in a text, a list, or a mapping of splits, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(inner)


def _anchored(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Relative data files made absolute where they lie beside the YAML file."""
    kwargs = config.get("dataset_kwargs")
    if config.get("dataset_path") not in BUILDERS or not isinstance(kwargs, dict) or "data_files" not in kwargs:
        return config

    def place(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: place(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [place(inner) for inner in value]
        beside = folder / str(value)
        return str(beside) if isinstance(value, str) and "://" not in value and beside.is_file() else value

    return {**config, "dataset_kwargs": {**kwargs, "data_files": place(kwargs["data_files"])}}


def _plain(value: Any, inside: str = "") -> Any:
    """The configuration without places: functions by name, data files by their splits."""
    if isinstance(value, Function):
        return f"!function {value.name}"
    if isinstance(value, Mapping):
        kept = {key: inner for key, inner in value.items() if inside != "dataset_kwargs" or key not in PLACES}
        plain = {str(key): _plain(inner, str(key)) for key, inner in kept.items()}
        files = value.get("data_files") if inside == "dataset_kwargs" else None
        return plain | ({"splits": sorted(map(str, files))} if isinstance(files, Mapping) else {})
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    local = inside == "dataset_path" and isinstance(value, str) and Path(value).exists()
    return "local" if local else value


def _code_files(value: Any) -> Iterator[Path]:
    """Python files that functions come from, and those beside them that they import; lmms-eval's own aside."""
    if isinstance(value, Function):
        if value.file.is_file() and not value.file.resolve().is_relative_to(shipped_folder().resolve()):
            yield from _with_imports(value.file, set())
    elif isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _code_files(inner)


def _with_imports(file: Path, seen: set[Path]) -> Iterator[Path]:
    if file in seen or not file.is_file():
        return
    seen.add(file)
    yield file
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):  # a module, or modules of a package
            package = [node.module] if node.module else []
            names += [*package, *(".".join([*package, alias.name]) for alias in node.names)]
        for name in names:
            yield from _with_imports(file.parent / f"{name.replace('.', '/')}.py", seen)


def _yaml_files(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in SKIPPED]
        yield from (Path(root) / name for name in files if name.endswith(".yaml"))


def _stamp(file: Path) -> tuple[int, int]:
    about = file.stat()
    return about.st_size, about.st_mtime_ns


@lru_cache(maxsize=256)
def _file_digest(file: Path, size: int, changed: int) -> bytes:
    """SHA-256 of a whole file; `size` and `changed` tell one state of it from another."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()
