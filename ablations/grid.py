"""Grids: which settings vary, written as YAML (ablations/grids/<profile>/*.yaml). Imports no torch.

    question: How should a fixed budget be split between blocks and window?     # one line, shown by --list
    asks: test              # test: NSA settings change only at evaluation, on one trained model; train: each is trained
    base: {nsa.window: 8}   # settings of every variant, over the profile's
    axes:                   # one entry an axis; variants are the product of the axes (or `combine: zip`)
      nsa.block_count: [1, 2, 4]             # the name is the setting
      split:                                 # or any name, and rows of several settings that move together
        - {nsa.block_count: 1, nsa.window: 16, label: local}
    exclude: [{nsa.block_count: 4, nsa.window: [8, 16]}]    # variants left out: where all of these hold
    labels: {nsa.block_count: b}             # short names in tables
    suites: [synth_needle]  # instead of the profile's; or a mapping with settings of each
    seeds: [0, 1]           # instead of the profile's
    reference: b=4          # the variant that the others are compared with; else the one asked as its model was made
    within: frames          # an axis: variants are compared where they agree on it, each with the one that is like the
                            # reference in all else; figures tell its points apart
    checkpoints: {me/model: {semantics: release}}   # what given weights were made with, over the profile's
    probe: {suite: synth_order, videos: 4, observers: [gates], label: b=4}   # what is looked at inside, over the
                            # profile's; label: in which variant, else the reference

Settings are dotted: nsa.* (attention at test time; with `asks: train` also while training), train.* (also train.nsa.*),
suite.* (frames, fps, tokens_per_frame, limit, ...), checkpoint (a hub name or folder: nothing is trained), start (a
variant's label: the training begins with the weights that it was trained to), method and the settings of one
(ablations/attention.py).
"""

from __future__ import annotations

import itertools
import json
import os
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablations.attention import check_groups
from ablations.checkpoints import check_checkpoints
from ablations.checks import check_keys, mapping_at, text_or_none, whole_numbers
from ablations.profile import load_yaml, one_of_labels, read_probe
from ablations.settings import OF_PROBES, check_setting, flatten
from ablations.settings import parse_changes as parse_changes  # named here, too
from videonsa.config import SettingsError, one_of
from videonsa.places import place
from videonsa.values import unknown

FOLDER = Path(__file__).parent / "grids"
KEYS = (
    *("question", "asks", "base", "axes", "combine", "exclude", "labels", "suites", "seeds"),
    *("reference", "within", "checkpoints", "probe"),
)
EXAMPLE = ", as in {nsa.window: ...}"
SHORT = {
    "nsa.block_count": "b",
    "nsa.window": "w",
    "nsa.block_size": "s",
    "nsa.branches": "",
    "nsa.gate_mode": "gate",
    "nsa.gate_values": "gates",
    "nsa.attention": "",
    "method": "",
    "start": "from",
    "suite.tokens_per_frame": "tokens",
}


@dataclass(frozen=True)
class Variant:
    """One point of a grid: a label and the settings that make it."""

    label: str
    settings: Mapping[str, Any]  # dotted name -> value, the grid's base included
    group: str | None = None  # the label of its point on the grid's `within` axis
    name: str | None = None  # and of its points on the others


@dataclass(frozen=True)
class Grid:
    """A checked grid."""

    name: str
    question: str
    asks: str
    variants: tuple[Variant, ...]
    suites: Mapping[str, Mapping[str, Any]] | None = None  # None: the profile's
    seeds: tuple[int, ...] | None = None
    axes: tuple[str, ...] = field(default=())  # settings that vary
    base: Mapping[str, Any] = field(default_factory=dict)  # settings of every variant, where it has no others
    reference: str | None = None  # label of the variant that the others are compared with; None: ablations/reference.py
    within: str | None = None  # the axis on which variants agree that are compared
    checkpoints: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # what given weights were made with
    probe: Mapping[str, Any] = field(default_factory=dict)  # fields of Profile, over the profile's own


def grid_names(profile: str) -> list[str]:
    """The grids that come with the project at this profile's scale."""
    return sorted(path.stem for path in (FOLDER / profile).glob("*.yaml"))


def find_grid(name: str, profile: str) -> Path:
    """The file of a grid given by name or by path."""
    path = place(name) if name.endswith((".yaml", ".yml")) else FOLDER / profile / f"{name}.yaml"
    if not os.path.isfile(path):  # False also for what can be no path
        known = ", ".join(grid_names(profile)) or "none"
        near = unknown(name, grid_names(profile))
        raise SettingsError(f"no grid {name!r}; grids of profile {profile}: {known}; or the path of a YAML file{near}")
    return path


def load_grid(name: str, profile: str, changes: Mapping[str, Any] | None = None) -> Grid:
    """Read and check a grid; `changes` (of --set) go over its base, and may not touch what it varies.

    A setting that only some rows name, all alike, is not varied: a change goes over it there too. But a row's own
    checkpoint is its model, and stays.
    """
    path = find_grid(name, profile)
    content = load_yaml(path)
    where = path.name
    check_keys(content, KEYS, where)
    changes = dict(changes or {})
    asks = changes.pop("asks", content.get("asks", "test"))
    one_of(f"{where}: asks", asks, ("test", "train"))
    one_of(f"{where}: combine", content.get("combine", "product"), ("product", "zip"))
    named = mapping_at(content, "axes", where, EXAMPLE)
    axes = [_axis(key, values, where) for key, values in named.items()]
    _check_axes(axes, where)
    asked_probe = {key.partition(".")[2]: changes.pop(key) for key in OF_PROBES if key in changes}
    suites, seeds = changes.pop("suites", content.get("suites")), changes.pop("seeds", content.get("seeds"))
    for key in changes:
        if any(_varies(axis, key) for axis in axes):
            raise SettingsError(f"--set {key}: grid {path.stem} varies it; choose among its values with --only")
    common = [key for key in changes if key != "checkpoint"]
    axes = [[{key: value for key, value in row.items() if key not in common} for row in axis] for axis in axes]
    varied = tuple(dict.fromkeys(key for axis in axes for row in axis for key in row if key != "label"))
    base = flatten(mapping_at(content, "base", where, EXAMPLE), f"{where}: base") | changes
    labels = SHORT | _labels(content, where)
    points = _combine(axes, content.get("combine", "product"), where)
    excluded = [flatten(rule, f"{where}: exclude", is_rule=True) for rule in _rules(content.get("exclude"), where)]
    kept = [point for point in points if not any(_matches(base | _merge(point), rule) for rule in excluded)]
    within = content.get("within")
    variants = _variants(kept, base, labels, where, _place_of(within, list(named), where))
    check_groups((variant.settings for variant in variants), where)
    _check_starts(variants, where)
    names, reference = [variant.label for variant in variants], content.get("reference")
    reference = reference if reference is None else one_of_labels(reference, names, f"{where}: reference")
    if within is not None:
        _check_groups_have(variants, reference, within, where)
    return Grid(
        name=path.stem,
        question=re.sub(r"[ \t\n]+", " ", text_or_none(content.get("question"), f"{where}: question") or "").strip(),
        asks=asks,
        variants=variants,
        suites=_suites(suites, where),
        seeds=None if seeds is None else whole_numbers(seeds, f"{where}: seeds"),
        axes=varied,
        base=base,
        reference=reference,
        within=within,
        checkpoints=check_checkpoints(content.get("checkpoints"), where),
        probe=read_probe(content, where, names) | read_probe({"probe": asked_probe}, "--set", names),
    )


def _labels(content: Mapping[str, Any], where: str) -> dict[str, str]:
    labels = mapping_at(content, "labels", where, EXAMPLE)
    for key, label in labels.items():
        check_setting(key, f"{where}: labels")
        if not isinstance(label, str):
            raise SettingsError(f"{where}: labels: {key}={label!r} is not valid: text")
    return labels


def _rules(rules: Any, where: str) -> list[Any]:
    if not isinstance(rules, list | None):
        raise SettingsError(f"{where}: exclude: expected a list of settings, as in [{{nsa.window: 4}}]")
    return rules or []


def _axis(name: str, values: Any, where: str) -> list[dict[str, Any]]:
    """One axis as rows of settings (and perhaps a label)."""
    if not isinstance(values, list) or not values:
        raise SettingsError(f"{where}: axes: {name}: expected a list of values, as in [1, 2, 4]")
    rows = []
    for value in values:
        if isinstance(value, Mapping):
            settings = flatten({k: v for k, v in value.items() if k != "label"}, f"{where}: axes: {name}")
            rows.append(
                settings | ({"label": _label(value["label"], f"{where}: axes: {name}")} if "label" in value else {})
            )
        else:
            rows.append(flatten({name: value}, f"{where}: axes"))
    return rows


def _label(label: Any, where: str) -> str:
    """As it was written: a label is text for people."""
    if not isinstance(label, str) or not label.strip() or not {"\n", "\t"}.isdisjoint(label):
        raise SettingsError(f"{where}: label={label!r} is not valid: one line of text")
    return label


def _seen_as(label: str) -> str:
    """What a reader of a table tells labels apart by: not by spaces, nor by how a character is composed."""
    return " ".join(unicodedata.normalize("NFC", label).split())


def _check_axes(axes: list[list[dict[str, Any]]], where: str) -> None:
    """Refuse a setting that two axes set: the later one would win in silence."""
    for first, second in itertools.combinations(axes, 2):
        both = {key for row in first for key in row} & {key for row in second for key in row} - {"label"}
        if both:
            raise SettingsError(f"{where}: axes: two axes set {min(both)}; give it to one")


def _varies(axis: list[dict[str, Any]], key: str) -> bool:
    """Whether the rows of an axis differ in this setting by their own values, not only by having one."""
    own = [row[key] for row in axis if key in row]
    alike = all(value == own[0] for value in own)
    return len(own) == len(axis) or (bool(own) and key != "checkpoint" and not alike)


def _combine(axes: list[list[dict[str, Any]]], how: str, where: str) -> list[tuple[dict[str, Any], ...]]:
    if how == "product":
        return list(itertools.product(*axes))
    if len({len(axis) for axis in axes}) > 1:
        lengths = ", ".join(str(len(axis)) for axis in axes)
        raise SettingsError(f"{where}: combine: zip needs axes of one length, not {lengths}")
    return list(zip(*axes, strict=True))


def _merge(point: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    return {key: value for row in point for key, value in row.items() if key != "label"}


def _matches(settings: Mapping[str, Any], rule: Mapping[str, Any]) -> bool:
    """All of the rule's settings hold; a list in the rule means any of its values."""
    return all(
        settings.get(key) in value if isinstance(value, list) else settings.get(key) == value
        for key, value in rule.items()
    )


def _variants(
    points: list[tuple[dict[str, Any], ...]],
    base: Mapping[str, Any],
    labels: Mapping[str, str],
    where: str,
    within: int | None,
) -> tuple[Variant, ...]:
    """The variants of these points; `within`: which of the axes groups them."""
    if not points:
        raise SettingsError(f"{where}: no variant is left: exclude removes them all")
    variants = []
    for point in points:
        said = [_row_label(row, labels) for row in point]
        group = None if within is None else said[within]
        name = None if within is None else " ".join(said[:within] + said[within + 1 :]) or "base"
        variants.append(Variant(" ".join(said) or "base", dict(base) | _merge(point), group, name))
    seen: set[str] = set()
    for variant in variants:
        _label(variant.label, where)
        if _seen_as(variant.label) in seen:
            raise SettingsError(f"{where}: two variants are called {variant.label!r}; give rows a label")
        seen.add(_seen_as(variant.label))
    return tuple(variants)


def _place_of(within: Any, axes: list[str], where: str) -> int | None:
    """Which of the axes `within` names."""
    if within is not None and within not in axes:
        raise SettingsError(f"{where}: within: {within!r} is no axis; axes: {', '.join(axes) or 'none'}")
    return None if within is None else axes.index(within)


def _check_groups_have(variants: tuple[Variant, ...], reference: str | None, within: str, where: str) -> None:
    """Refuse groups whose variants would be compared with nothing."""
    if reference is None:
        raise SettingsError(f"{where}: within: {within} needs a reference: the label of a variant")
    name = next(variant.name for variant in variants if variant.label == reference)
    having = {variant.group for variant in variants if variant.name == name}
    lacking = [str(group) for group in dict.fromkeys(variant.group for variant in variants) if group not in having]
    if lacking:
        raise SettingsError(f"{where}: within: {within}: no variant is like {reference!r} at {', '.join(lacking)}")
    names = [(variant.group, variant.name) for variant in variants]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise SettingsError(f"{where}: within: {within}: two variants are called {twice[1]!r} there; give rows a label")
    if len({variant.group for variant in variants}) == len(variants):
        raise SettingsError(f"{where}: within: {within}: at each of its points is one variant: nothing is compared")


def _check_starts(variants: tuple[Variant, ...], where: str) -> None:
    """Refuse a start that is no variant, or that comes back to where it began."""
    starts = {variant.label: variant.settings.get("start") for variant in variants}
    for label, start in starts.items():
        passed = [label]
        while start is not None:
            if start not in starts:
                near = unknown(start, starts)
                raise SettingsError(
                    f"{where}: start: no variant is called {start!r}; variants: {', '.join(starts)}{near}"
                )
            if start in passed:
                raise SettingsError(
                    f"{where}: start: {' from '.join([*passed, start])}: a training begins with another"
                )
            passed.append(start)
            start = starts[start]


def _row_label(row: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    if "label" in row:
        return str(row["label"])
    return " ".join(_setting_label(key, value, labels) for key, value in row.items())


def _setting_label(key: str, value: Any, labels: Mapping[str, str]) -> str:
    short = labels.get(key, key.rpartition(".")[2])
    text = "+".join(map(_spelled, value)) if isinstance(value, list) else _spelled(value)
    return f"{short}={text}" if short else text


def _spelled(value: Any) -> str:
    """As it is written in a grid."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def _suites(suites: Any, where: str) -> dict[str, dict[str, Any]] | None:
    if suites is None:
        return None
    if isinstance(suites, str):
        suites = [suites]
    names = suites if isinstance(suites, list | Mapping) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise SettingsError(f"{where}: suites: give a list of suites, or a mapping of suites to their settings")
    if len(set(names)) < len(names):
        raise SettingsError(f"{where}: suites: {', '.join(names)}: give each suite once")
    settings = suites if isinstance(suites, Mapping) else dict.fromkeys(names)
    return {name: mapping_at(settings, name, f"{where}: suites") for name in names}
