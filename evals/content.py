"""What a task asks, where its own file says so: the content of task and data, wherever they lie. Imports no torch.

A task that lmms-eval ships is named by lmms-eval's version; its data set on the hub is not looked at.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from videonsa.config import SuiteSettings
from videonsa.identity import identity

OURS = Path(__file__).parent / "tasks"
MORE_TASKS = "VIDEONSA_TASKS"  # environment variable: a folder of task YAML files beside lmms-eval's own
DATA = ("dataset_path", "dataset_kwargs")  # keys that name files and folders of data
NO_CONTENT = ("include", "cache_dir")  # keys that say where something lies
READ = 1 << 24  # bytes of a file of data that are read whole; of a longer one its size and both ends


class _Loader(yaml.SafeLoader):
    """Takes lmms-eval's `!function module.name` as text."""


_Loader.add_multi_constructor("!", lambda loader, tag, node: f"{tag} {getattr(node, 'value', '')}")


def task_content(suite: SuiteSettings) -> str | None:
    """12 digits for a task file of ours or of $VIDEONSA_TASKS, what it includes and its data; None: a shipped task."""
    file = task_file(suite.task)
    return None if file is None else identity({"task": _content(file, file.parent)})


def task_file(name: str) -> Path | None:
    """The file of a task of ours, or of the folder $VIDEONSA_TASKS; None for a shipped one."""
    if (OURS / f"{name}.yaml").is_file():
        return OURS / f"{name}.yaml"
    more = os.environ.get(MORE_TASKS)
    found = sorted(Path(more).expanduser().rglob("*.y*ml")) if more else []
    return next((file for file in found if _read(file).get("task") == name), None)


def _content(file: Path, base: Path) -> dict[str, Any]:
    """A task file as it acts: its settings with data by content, code beside it, what it includes."""
    settings = _read(file)
    kept = {
        key: _by_content(value, base) if key in DATA else str(value)
        for key, value in settings.items()
        if key not in NO_CONTENT
    }
    code = {path.name: _digest(path) for path in sorted(file.parent.glob("*.py"))} if file.parent != OURS else {}
    return {"settings": kept, "code": code, "included": [_content(path, base) for path in _included(settings, file)]}


def _included(settings: dict[str, Any], file: Path) -> Iterator[Path]:
    names = settings.get("include") or []
    for name in [names] if isinstance(names, str) else names:
        path = file.parent / str(name)
        if path.is_file() and not _is_shipped(path):
            yield path


def _by_content(value: Any, base: Path) -> Any:
    """The value with each file or folder that it names replaced by its content."""
    if isinstance(value, dict):
        return {str(key): _by_content(item, base) for key, item in value.items() if key not in NO_CONTENT}
    if isinstance(value, list):
        return [_by_content(item, base) for item in value]
    for path in (Path(str(value)).expanduser(), base / str(value)):
        if path.is_file():
            return _digest(path)
        if path.is_dir():
            files = sorted(item for item in path.rglob("*") if item.is_file())
            return [[item.relative_to(path).as_posix(), _digest(item)] for item in files]
    return value if isinstance(value, int | float | None) else str(value)


def _digest(file: Path) -> str:
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(file, "rb") as stream:
        digest.update(stream.read(READ))
        stream.seek(max(0, size - READ))
        digest.update(stream.read(READ) if size > READ else b"")
    return digest.hexdigest()[:12]


def _is_shipped(path: Path) -> bool:
    spec = find_spec("lmms_eval")
    return spec is not None and path.resolve().is_relative_to(Path(str(spec.origin)).resolve().parent)


def _read(file: Path) -> dict[str, Any]:
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}
