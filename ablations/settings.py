"""Settings by their dotted names, as grids and --set write them: nsa.window, train.nsa.window. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ablations.checks import text_or_none
from ablations.profile import TEXTS
from slurm.profile import TEXTS as SLURM_TEXTS
from videonsa.config import NSASettings, SettingsError, SuiteSettings, TrainSettings
from videonsa.methods import registry
from videonsa.values import means_text, none_fields, read_value, scalar, unknown

_FIELDS = {
    "nsa": [f.name for f in dataclasses.fields(NSASettings)],
    "train": [f.name for f in dataclasses.fields(TrainSettings) if f.name not in ("nsa", "seed")],
    "suite": [f.name for f in dataclasses.fields(SuiteSettings) if f.name != "name"],
}
_FIELDS |= {name: registry.fields(name) for name in registry.names() if name not in registry.OF_NSA}
OF_VARIANTS = ("checkpoint", "method", "start")  # settings without a group: text, or null
SETTINGS = (*OF_VARIANTS, *(f"{group}.{name}" for group, names in _FIELDS.items() for name in names))
SETTINGS += tuple(f"train.nsa.{name}" for name in _FIELDS["nsa"])
MAY_BE_NONE = {
    *(*OF_VARIANTS, "suites", "seeds", "probe.suite", "probe.label"),
    *(f"nsa.{name}" for name in none_fields(NSASettings)),
    *(f"train.{name}" for name in none_fields(TrainSettings)),
    *(f"suite.{name}" for name in none_fields(SuiteSettings)),
}
OF_PROBES = ("probe.suite", "probe.videos", "probe.observers", "probe.label")
OF_GRIDS = ("asks", "suites", "seeds", *OF_PROBES)  # keys of a grid that --set changes, too


def flatten(mapping: Any, where: str, is_rule: bool = False) -> dict[str, Any]:
    """{'nsa': {'window': 8}} and {'nsa.window': 8} -> {'nsa.window': 8}; a name that is no setting is refused.

    In a rule of `exclude` a list stands for any of its values.
    """
    if not isinstance(mapping, Mapping):
        raise SettingsError(f"{where}: expected settings such as nsa.window: 8")
    flat = dict(_leaves(mapping))
    for key, value in flat.items():
        check_setting(key, where)
        if key in OF_VARIANTS and not is_rule:
            text_or_none(value, f"{where}: {key}")
    return flat


def _leaves(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value); an empty mapping, or one in place of a setting's value, is a value."""
    for key, value in mapping.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value and name not in SETTINGS:
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def check_setting(key: str, where: str) -> None:
    """Refuse a dotted name that is no setting, listing those near it."""
    group, _, name = key.partition(".")
    if key in OF_VARIANTS or name in _FIELDS.get(group, ()):
        return
    if group == "train" and name.startswith("nsa.") and name[4:] in _FIELDS["nsa"]:
        return
    if group in _FIELDS and name:
        if group not in ("nsa", "train", "suite"):
            raise SettingsError(f"{where}: unknown setting {key!r}; {registry.known_fields(group, name)}")
        known = ", ".join(f"{group}.{known}" for known in _FIELDS[group])
        raise SettingsError(f"{where}: unknown setting {key!r}; known: {known}{_nearest(key, where)}")
    more = ", and with --set slurm.*" if where == "--set" else ""
    methods = (
        f", method, and an installed method's own such as {others[0]}.*"
        if (others := list(_FIELDS)[3:])
        else ", method"
    )
    settings = f"settings are nsa.*, train.*, suite.*, checkpoint, start{methods}{more}"
    raise SettingsError(f"{where}: unknown setting {key!r}; {settings}{_nearest(key, where)}")


def _nearest(key: str, where: str) -> str:
    return unknown(key, (*SETTINGS, *OF_GRIDS) if where == "--set" else SETTINGS)


def parse_changes(pairs: list[str]) -> dict[str, Any]:
    """The values of repeated --set key=value; lists as in YAML ([1, 2]), suites and branches joined with +.

    Those of slurm.* are about machines and checked by the Slurm profile; all others are settings.
    """
    changes: dict[str, Any] = {}
    texts = TEXTS | SLURM_TEXTS
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise SettingsError(f"--set {pair}: give key=value, such as nsa.window=8")
        if key in changes:
            raise SettingsError(f"--set {key}: given twice")
        if key not in OF_GRIDS and not key.startswith("slurm."):
            check_setting(key, "--set")
        if not text.strip() and key in MAY_BE_NONE:
            raise SettingsError(f"--set {key}: no value is given; write null for none, or leave it out")
        value = read_value(text, f"--set {key}", means_text(key, texts), texts)
        if key in OF_VARIANTS:
            text_or_none(value, f"--set {key}")
        elif key in ("suites", "seeds") and isinstance(value, str):
            value = [scalar(part.strip(), f"--set {key}", key == "suites") for part in value.split("+")]
        changes[key] = value
    return changes
