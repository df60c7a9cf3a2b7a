"""The figures of items, from the cells and probes that they are about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from analysis.arrays import of_observer
from analysis.compared import compare
from analysis.figures import module
from analysis.items import Item
from analysis.items.found import Asked, Found
from analysis.items.probes import probes_of
from analysis.items.scores import base_questions
from analysis.load import load
from analysis.paper.questions import Question
from analysis.pooled import cells_of
from analysis.probes import probe_tables, read_probes
from videonsa.arrays import NoArrays

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LONGEST = 131_072  # tokens of a context in the paper, as it counts them: frames x tokens a frame
TABLES = ("gates", "sinks", "points", "recall", "content", "latency")  # in the order of probe_tables


def draw(item: Item, found: Found) -> Figure:
    """The item's figure. Raises ValueError where there is nothing to draw."""
    return DRAWERS[item.kind](item, found)


def _drawer(item: Item) -> Callable[[Any], Figure]:
    place, _, function = item.draws.partition(":")
    return getattr(module(place), function)


def _cells(item: Item, found: Found) -> Figure:
    bases = base_questions(item.of["like"])
    near = [asked for base in bases.values() for asked in _cells_near(item, found, base)]
    if not near:
        raise ValueError("no cell is asked so")
    plan = {"cells": [{"id": asked.row.id} for asked in near]}
    return _drawer(item)(cells_of(compare(load(found.out, plan), None)))


def _cells_near(item: Item, found: Found, base: Question) -> list[Asked]:
    also, near = item.of.get("also"), found.near(base, item.of["vary"])
    contexts = [(asked.question["frames"] or 0) * (asked.question["tokens_per_frame"] or 0) for asked in near]
    near = [asked for asked, context in zip(near, contexts, strict=True) if context <= LONGEST]
    return near + (found.near({**base, **also}, ()) if also else [])


def _probes(item: Item, found: Found) -> Figure:
    if observer := item.of.get("arrays"):
        return _observed(item, found, observer)
    near = {asked.row.id: asked.row for asked in probes_of(item, found)}
    if not near:
        raise ValueError("no probe looked at it")
    labels = {probe: module("style").suite_title(row.suite) for probe, row in near.items()}
    records = read_probes(found.out, labels, [])
    tables = dict(zip(TABLES, probe_tables(records, labels, {}, []), strict=True))
    rows = tables[item.of["tables"]]
    sizes = {name: [getattr(near[probe], name) for probe in rows["probe"]] for name in ("block_size", "window")}
    return _drawer(item)(rows.assign(**sizes))


def _observed(item: Item, found: Found, observer: str) -> Figure:
    """Of arrays, those of the first place's probe; of every place's, by its suite, where there are to be several."""
    near = probes_of(item, found)
    if not near:
        raise ValueError("no probe looked at it")
    if "each" in item.of:
        title = module("style").suite_title
        return _drawer(item)({title(asked.row.suite): _arrays(found, asked, observer) for asked in near})
    arrays = _arrays(found, near[0], observer)
    return _drawer(item)(arrays, *[item.of[name] for name in ("part",) if name in item.of])


def _arrays(found: Found, asked: Asked, observer: str) -> dict[str, Any]:
    try:
        return of_observer(found.out, asked.row.id, asked.arrays, observer)
    except NoArrays as error:
        found.problems.append(str(error))
        raise


def _measured(item: Item, found: Found) -> Figure:
    table = module(item.draws.partition(":")[0]).read(found.measured / item.of["file"])
    (across, columns) = next(iter(item.of["columns"].items()))
    return _drawer(item)(table[table[across].isin(columns.values())])


DRAWERS: Mapping[str, Callable[[Item, Found], Figure]] = {"cells": _cells, "probes": _probes, "measured": _measured}
