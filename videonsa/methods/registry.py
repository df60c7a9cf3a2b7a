"""Which methods there are, and what is asked by name. Imports no torch.

Ours stand in settings.py. A package outside of the repository adds one by an entry point of the group
`videonsa.methods` that names its settings class (CONTRIBUTING.md shows one whole).
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from importlib.metadata import entry_points
from typing import Any

from videonsa.config import NSASettings, SettingsError, attention_differences, from_dict, to_dict
from videonsa.identity import OWN, part_version
from videonsa.methods.entries import Entry, MethodSettings
from videonsa.methods.outside import parts_of, read_entry, version_of
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
            found[point.name] = read_entry(point, tuple(found))
        except Exception as error:
            kind = "" if isinstance(error, SettingsError) else f"{type(error).__name__}: "
            wrong[point.name] = one_line(f"{point.value} of a package that is installed cannot be asked: {kind}{error}")
    return found, wrong


def names() -> list[str]:
    """The names of all methods."""
    return list(entries())


def fields(name: str) -> list[str]:
    """The settings of a method that are its own, without their prefix; none of those that nsa.* describes."""
    return [] if name in OF_NSA else [item.name for item in dataclasses.fields(entries()[name].settings)]


def is_own(name: str) -> bool:
    """A method with settings of its own, which nsa.* does not describe."""
    return name in entries() and name not in OF_NSA


def texts() -> set[str]:
    """Where text is meant, whatever it looks like: `method`, and whole names of fields. `NAME.` alone says that those
    are all of a method's, whatever a field of the same name is elsewhere (values.means_text)."""
    found = {"method"}
    for name, entry in entries().items():
        if name not in OF_NSA:
            found |= {f"{name}.", *(f"{name}.{field}" for field in text_fields(entry.settings))}
    return found


def check_name(name: Any, where: str = "") -> str:
    """The name, or SettingsError that lists all."""
    if not isinstance(name, str) or name not in entries():
        if isinstance(name, str) and name in _found()[1]:
            raise SettingsError(f"method={name!r} is not valid: {_found()[1][name]}")
        prefix = f"{where}: " if where else ""
        near = unknown(name, names()) or "; another package's must be installed"
        raise SettingsError(f"{prefix}method={name!r} is not valid: choose one of {', '.join(names())}{near}")
    return str(name)


def make(name: str, values: Mapping[str, Any], where: str = "") -> MethodSettings:
    """A method's settings from their plain values. Raises SettingsError for a name or a value that is not valid."""
    entry = entries()[check_name(name, where)]
    if name in OF_NSA:
        raise SettingsError(f"method={name!r} has no settings of its own: its settings are nsa.*")
    prefix = f"{where}: " if where else ""
    for field in values:
        if field not in fields(name):
            raise SettingsError(f"{prefix}unknown setting {f'{name}.{field}'!r}; {known_fields(name, field)}")
    settings: MethodSettings = from_dict(entry.settings, values, where)
    return settings


def known_fields(name: str, given: str) -> str:
    """The settings of a method, and which of them may be meant: how a message on an unknown one ends."""
    known = [f"{name}.{field}" for field in fields(name)]
    if not known:
        return f"method {name} has no settings"
    return f"known: {', '.join(known)}{unknown(f'{name}.{given}', known)}"


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
    """The class that runs a method; imports torch. Raises SettingsError for what is none."""
    module, _, name = entry.runs.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SettingsError(f"method={entry.name!r} cannot run: {entry.runs}: {one_line(str(error))}") from error
    if not (isinstance(found, type) and hasattr(found, "attend")):  # contract.py is not imported here: torch
        raise SettingsError(f"method={entry.name!r} cannot run: {entry.runs} is no subclass of contract.Method")
    return found


def code_of(settings: MethodSettings, look: Callable[[str, Callable[[], Any]], Any]) -> dict[str, str]:
    """The versions of the code that only this method runs; look(part, find) gives what is known of a part, or finds it.

    Of a method of another package the files that it imports count, its own and ours.
    """
    entry, own = settings.entry, f"{OWN}{settings.name}"
    if entry in ENTRIES:
        return {part: look(part, partial(part_version, part)) for part in (*entry.parts, own)}
    parts = look(f"{own}: parts", partial(parts_of, entry))
    return {part: look(part, partial(part_version, part)) for part in parts} | {
        own: look(own, partial(version_of, entry))
    }
