"""Places that probes of VideoNSA fill."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from analysis.arrays import holds
from analysis.items import Item
from analysis.items.found import Asked, Found
from analysis.items.places import DONE, MISSING, Ours, Place, sweep_command
from analysis.items.scores import base_questions, sampled
from analysis.paper.questions import SAMPLING, suite_of

ELSEWHERE = (*SAMPLING, "task", "limit")  # what a probe of the same model may have otherwise


def probes(item: Item, found: Found) -> list[Place]:
    """A place for each of the values that a probe is wanted of; one where there are none."""
    return [_place(item, found, values) for values in _each(item.of.get("each", {}))]


def probes_of(item: Item, found: Found) -> list[Asked]:
    """The probes that the item draws, one a place."""
    chosen = (_chosen(item, found, values) for values in _each(item.of.get("each", {})))
    return [asked for asked in chosen if asked is not None]


def _place(item: Item, found: Found, values: Mapping[str, Any]) -> Place:
    label = ", ".join(str(value) if name == "benchmark" else f"{name}={value}" for name, value in values.items())
    place = Place(label or "VideoNSA", "probe", MISSING)
    if asked := _chosen(item, found, values):
        seen = f"{asked.row.suite}, {asked.videos} videos, {sampled(asked.question)}"
        return replace(place, state=DONE, ours=(Ours(None, seen, asked.row.id),))
    suite = suite_of(values["benchmark"]) if "benchmark" in values else ""
    looks_at = item.of.get("label", "").format(**values)
    return replace(place, command=sweep_command(item, found.out, suite=suite, label=looks_at))


def _chosen(item: Item, found: Found, values: Mapping[str, Any]) -> Asked | None:
    """Of the probes of these values the one that looked at most videos."""
    fields = (*ELSEWHERE, *item.of.get("vary", ()))
    near = found.probes_near(base_questions([3])["timescope"], fields)
    fitting = [asked for asked in near if _shows(item, asked) and _has(asked, values)]
    return max(fitting, key=lambda asked: asked.videos, default=None)


def _shows(item: Item, asked: Asked) -> bool:
    if observer := item.of.get("arrays"):
        return holds(asked.arrays, f"{observer}/{item.of['part']}" if "part" in item.of else observer)
    table = item.of["tables"]
    return asked.points > 0 if table == "points" else any(layer.get(table) for layer in asked.layers)


def _each(values: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    return (dict(zip(values, chosen, strict=True)) for chosen in product(*values.values()))


def _has(asked: Asked, values: Mapping[str, Any]) -> bool:
    given = {**asked.question, "benchmark": asked.row.suite}
    return all(given.get(name) == (suite_of(value) if name == "benchmark" else value) for name, value in values.items())
