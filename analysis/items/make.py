"""Items made from an out folder: their files in <out>/paper, their state, and the whole as one HTML file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from analysis.figures import module
from analysis.items import Item, catalog
from analysis.items.drawn import draw
from analysis.items.found import Found, find
from analysis.items.measured import measured as measurements
from analysis.items.places import Ours, Place, commands, status
from analysis.items.probes import probes
from analysis.items.scores import scores, settings
from analysis.items.written import TRAINED, Page, page, to_csv, to_markdown
from analysis.load import load
from analysis.paper.questions import OWN
from analysis.parts import part_number
from analysis.rows import each
from analysis.tables import compare
from videonsa.record import write_text

log = logging.getLogger("analysis")
FOLDER = "paper"  # in the out folder
MAKERS: Mapping[str, Callable[[Item, Found], list[Place]]] = {
    "scores": scores,
    "settings": settings,
    "cells": scores,
    "probes": probes,
    "measured": measurements,
}


class Made(NamedTuple):
    """An item as it was made."""

    item: Item
    page: Page
    paths: list[Path]


def places(item: Item, found: Found) -> list[Place]:
    """The item's; [] of one that nothing of ours makes."""
    return MAKERS[item.kind](item, found) if item.kind in MAKERS else []


def listing(out: Path, measured: Path) -> list[str]:
    """A line for each item with its state, and the commands that fill what it lacks."""
    found = find(out, measured)
    lines = []
    for item in catalog().items.values():
        here = places(item, found)
        lines.append(f"  {item.name:<8} {f'{item.shows}: ' if item.shows else ''}{status(item, here)}")
        lines += [f"           {command}" for command in commands(here)]
    return lines


def make(names: Sequence[str], out: Path, measured: Path) -> tuple[list[Made], bool]:
    """Write these items, of the records of `out` and the measurements of `measured`; and whether all could be made."""
    found = find(out, measured)
    several = {name: places(catalog().items[name], found) for name in names}
    filled = with_numbers(several, found)
    made: list[Made] = []
    whole = True
    for name in names:
        item = catalog().items[name]
        paths, drawn = _write(item, filled[name], found)
        made.append(Made(item, page(item, filled[name]), paths))
        whole &= drawn
    return made, whole


def with_numbers(several: dict[str, list[Place]], found: Found) -> dict[str, list[Place]]:
    """The places with the numbers of the cells that fill them."""
    ids = dict.fromkeys(cell for here in several.values() for place in here for cell in place.cells)
    results = load(found.out, {"cells": [{"id": cell} for cell in ids]})
    rows = {row.id: row for row in each(compare(results, None))}
    asked = dict(iter(results.questions.groupby("cell")))

    def ours(place: Place) -> tuple[Ours, ...]:
        return place.ours or tuple(_ours(place, rows[cell], asked.get(cell)) for cell in place.cells)

    return {name: [replace(place, ours=ours(place)) for place in here] for name, here in several.items()}


def _ours(place: Place, row: Any, questions: Any) -> Ours:
    of = part_number(row, questions, place.part) if place.part else row
    value = row.parts[place.part]["score"] if place.part else row.accuracy
    low, high = (None if number != number else 100 * number for number in (of.low, of.high))
    text = f"{100 * value:.1f}" + ("" if low is None else f" [{low:.1f}–{high:.1f}]")
    notes = [f"record {row.id}"] if len(place.cells) > 1 else []
    notes += [TRAINED] if row.weights in OWN else []
    notes += [f"{int(row.errors)} questions ended in an error"] if row.errors else []
    return Ours(100 * value, text, row.id, low, high, "; ".join(notes))


def _write(item: Item, here: Sequence[Place], found: Found) -> tuple[list[Path], bool]:
    """The item's files, and whether all that it has could be made."""
    folder = found.out / FOLDER
    if not here:
        return [], False
    paths = [folder / f"{item.name}.md", folder / f"{item.name}.csv"]
    write_text(paths[0], to_markdown(page(item, here)))
    write_text(paths[1], to_csv(item, here))
    if not item.draws:
        return paths, True
    style = module("style")
    try:
        with style.style():
            return [*style.save(draw(item, found), folder, item.name), *paths], True
    except ValueError as error:
        log.info("%s: %s", item.name, error)
    for kind in style.FORMATS:  # an older one would show other records
        (folder / f"{item.name}.{kind}").unlink(missing_ok=True)
    return paths, False
