"""Which methods there are, and what is asked by name. Imports no torch.

Ours stand in settings.py. A package outside of the repository adds one by an entry point of the group
`videonsa.methods` that names its settings class (CONTRIBUTING.md shows one whole).
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from videonsa.config import NSASettings, SettingsError, attention_differences, from_dict, to_dict
from videonsa.identity import OWN, part_version
from videonsa.methods.entries import Entry, MethodSettings
from videonsa.methods.settings import ENTRIES
from videonsa.values import one_line, text_fields, unknown

GROUP = "videonsa.methods"  # of entry points
OF_NSA = ("paper", "release", "dense")  # that NSASettings ask for: their fields are nsa.*


def entries() -> dict[str, Entry]:
    """All methods by name, ours first."""
    return _found()[0]


@lru_cache
def _found() -> tuple[dict[str, Entry], dict[str, str]]:
    """(methods by name, what is wrong with those of other packages that cannot be asked: nothing else suffers)."""
    found, wrong = {entry.name: entry for entry in ENTRIES}, {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            entry: Entry = point.load().entry
            if entry.name != point.name or entry.name in found or "." in entry.name:
                raise SettingsError(f"it calls itself {entry.name!r}: the entry point's name, and one that is free")
            found[entry.name] = entry
        except Exception as error:
            wrong[point.name] = one_line(f"{point.value} is no class made by @method ({type(error).__name__}: {error})")
    return found, wrong


def names() -> list[str]:
    """The names of all methods."""
    return list(entries())


def fields(name: str) -> list[str]:
    """The settings of a method that are its own, without their prefix; none of those that nsa.* describes."""
    return [] if name in OF_NSA else [item.name for item in dataclasses.fields(entries()[name].settings)]


def texts() -> set[str]:
    """Fields of methods that hold text, whatever it looks like."""
    own = [text_fields(entry.settings) for name, entry in entries().items() if name not in OF_NSA]
    return {"method"}.union(*own)


def check_name(name: Any, where: str = "") -> str:
    """The name, or SettingsError that lists all."""
    if name not in entries():
        if name in _found()[1]:
            raise SettingsError(f"method={name!r} is not valid: {_found()[1][name]}")
        prefix = f"{where}: " if where else ""
        near = unknown(name, names())
        raise SettingsError(f"{prefix}method={name!r} is not valid: choose one of {', '.join(names())}{near}")
    return str(name)


def make(name: str, values: Mapping[str, Any], where: str = "") -> MethodSettings:
    """A method's settings from their plain values. Raises SettingsError for a name or a value that is not valid."""
    entry = entries()[check_name(name, where)]
    if name in OF_NSA:
        raise SettingsError(f"method={name!r} has no settings of its own: its settings are nsa.*")
    settings: MethodSettings = from_dict(entry.settings, values, where)
    return settings


def from_record(recorded: Mapping[str, Any] | None, where: str = "method") -> MethodSettings | None:
    """What `as_record` gave; None of None."""
    if recorded is None:
        return None
    if not isinstance(recorded, Mapping) or "name" not in recorded:
        raise SettingsError(f"{where}: {recorded!r} is not valid: a mapping with a name, one of {', '.join(names())}")
    return make(recorded["name"], {key: value for key, value in recorded.items() if key != "name"}, where)


def as_record(settings: MethodSettings) -> dict[str, Any]:
    """The settings as records and config.json keep them: the name, then every field."""
    return {"name": settings.name, **to_dict(settings)}


def described(settings: MethodSettings) -> str:
    """'tri_shape n_local=2176': the method's name, and what of its settings is not the default."""
    usual = as_record(settings.entry.settings())
    given = {name: value for name, value in as_record(settings).items() if value != usual[name]}
    return " ".join([settings.name, *(f"{name}={value}" for name, value in given.items())])


def entry_of(settings: NSASettings | MethodSettings) -> Entry:
    """The method that settings ask for."""
    if isinstance(settings, MethodSettings):
        return settings.entry
    if settings.attention == "dense":
        return entries()["dense"]
    return entries()["release" if attention_differences(settings.semantics) else "paper"]


def load(entry: Entry) -> type:
    """The class that runs a method; imports torch."""
    module, _, name = entry.runs.partition(":")
    return getattr(importlib.import_module(module), name)


def code_of(settings: MethodSettings, look: Callable[[str, Callable[[], str]], str]) -> dict[str, str]:
    """The versions of the code that only this method runs; look(part, find) gives what is known of a part, or finds it.

    Of a method of another package the files of its class and settings count.
    """
    entry, own = settings.entry, f"{OWN}{settings.name}"
    finds = {part: partial(part_version, part) for part in (*entry.parts, own)}
    if not entry.runs.startswith("videonsa.methods."):
        finds[own] = partial(_files_of, entry)
    return {part: look(part, find) for part, find in finds.items()}


def _files_of(entry: Entry) -> str:
    spec = find_spec(entry.runs.partition(":")[0])
    source = Path(spec.origin).read_bytes() if spec and spec.origin and Path(spec.origin).is_file() else b""
    settings = find_spec(entry.settings.__module__)
    if settings and settings.origin and spec and settings.origin != spec.origin:
        source += Path(settings.origin).read_bytes()
    return hashlib.sha256(source).hexdigest()[:12]
