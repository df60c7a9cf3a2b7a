"""Methods of other packages: what their entries must state, and the code that their numbers depend on. No torch."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib.metadata import EntryPoint
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any

from videonsa.config import require
from videonsa.git import ROOT
from videonsa.identity import CODE, effect, part_of
from videonsa.methods.entries import Entry, MethodSettings
from videonsa.values import SettingsError

OURS = ("videonsa", "evals")  # packages of ours that a method may import
# What the parts of a setting's name mean elsewhere; a method is asked by its name there.
NOT_FREE = ("nsa", "train", "suite", "suites", "seeds", "slurm", "checkpoint", "method", "label")


def read_entry(point: EntryPoint, taken: tuple[str, ...]) -> Entry:
    """The method of an entry point. Raises SettingsError for one that could not be asked; `taken`: names of others."""
    cls = point.load()
    entry: Any = vars(cls).get("entry") if isinstance(cls, type) else None
    if not isinstance(entry, Entry):
        raise SettingsError("it is no class made by @method")
    free = re.fullmatch("[a-z][a-z0-9_]*", entry.name) and entry.name not in (*taken, *NOT_FREE)
    same = f"the entry point's name, {point.name}" if entry.name != point.name else ""
    valid = same or "a free one of small letters, digits and _"
    require(bool(free) and not same, "its name", entry.name, valid)
    _check_settings(cls)
    known = ", ".join(name for name in CODE)
    unknown = [part for part in entry.parts if part not in CODE]
    require(not unknown, "parts", entry.parts, f"some of {known}")
    module, _, runs = entry.runs.partition(":")
    require(bool(module and runs), "runs", entry.runs, "package.module:Class")
    if _place(module) is None:
        raise SettingsError(f"runs={entry.runs!r} is not valid: there is no module {module}")
    return entry


def _check_settings(cls: type) -> None:
    """Refuse a class whose fields nothing would check, record or tell from others."""
    made = vars(cls).get("__dataclass_params__")
    if not (issubclass(cls, MethodSettings) and made is not None and made.frozen):
        raise SettingsError(f"{cls.__name__} is no @dataclass(frozen=True) of MethodSettings")
    for item in dataclasses.fields(cls):
        bare = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        require(not bare, item.name, "no default", "a default")
        is_free = item.name != "entry" and not hasattr(MethodSettings, item.name)
        require(is_free, "field", item.name, "another name: MethodSettings has it")
    cls()  # the defaults are valid


def parts_of(entry: Entry) -> list[str]:
    """The parts of identity.CODE in which what its class imports counts, besides its own files."""
    ours = (path for path, is_own in _reached(entry) if not is_own)
    parts = {part_of(_ours(path)) for path in ours}
    return sorted({*entry.parts, *(part for part in parts if part is not None)})


def version_of(entry: Entry) -> str:
    """12 hexadecimal digits of what its own files do: those that its class imports, and the settings' functions."""
    own = {path: False for path, is_own in _reached(entry) if is_own}
    settings = _place(entry.settings.__module__)
    if settings is not None:
        own.setdefault(settings, True)  # what its fields declare are inputs
    digest = hashlib.sha256()
    for path in sorted(own, key=lambda path: path.parts):
        digest.update(path.name.encode())
        is_python = path.suffix == ".py"
        text = effect(path.name, path.read_text(encoding="utf-8"), own[path]) if is_python else ""
        digest.update(text.encode() if is_python else path.read_bytes())
    return digest.hexdigest()[:12]


def _reached(entry: Entry) -> Iterator[tuple[Path, bool]]:
    """(file, it is of the method's package) of all modules that running it imports: its own and ours."""
    start = entry.runs.partition(":")[0]
    top = start.partition(".")[0]
    seen: set[str] = set()
    todo = [start]
    while todo:
        name = todo.pop()
        is_own = name.partition(".")[0] == top
        if name in seen or not (is_own or name.partition(".")[0] in OURS):
            continue
        seen.add(name)
        path = _place(name)
        if path is None or not (is_own or _counts(path)):
            continue
        yield path, is_own
        todo += _imports(name, path, path.stat().st_mtime_ns)
        if is_own and "." in name:
            todo.append(name.rpartition(".")[0])  # runs first


def _counts(path: Path) -> bool:
    """A file of ours counts in a part; a package's own does not: it names more than is used."""
    return path.name != "__init__.py" and part_of(_ours(path)) is not None


def _ours(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _place(module: str) -> Path | None:
    """The file of a module, without importing it; None: there is none."""
    top, *rest = module.split(".")
    folders: Iterable[str | Path] = (ROOT / top,)
    if top not in OURS:
        try:
            spec = find_spec(top)
        except (ImportError, ValueError):
            return None
        if spec is None or (not rest and spec.origin):
            return Path(spec.origin) if spec and spec.origin else None
        folders = spec.submodule_search_locations or ()
    for folder in folders:
        place = Path(folder).joinpath(*rest)
        compiled = sorted(place.parent.glob(f"{place.name}.*.so"))
        for path in (place / "__init__.py", place.with_name(f"{place.name}.py"), *compiled):
            if path.is_file():
                return path
    return None


@lru_cache
def _imports(module: str, path: Path, changed: int) -> tuple[str, ...]:
    """The modules that a file names in imports; of `from x import y` both x and x.y, which may be one."""
    if path.suffix != ".py":
        return ()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module or ""
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(found)
