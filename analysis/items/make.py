"""Items made from an out folder: their files in <out>/paper, their state, and the whole as one HTML file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from analysis.compared import compare
from analysis.figures import module
from analysis.items import Item, catalog
from analysis.items.drawn import draw
from analysis.items.found import Found
from analysis.items.measured import measured as measurements
from analysis.items.places import DONE, Ours, Place, commands, stand_ins, status
from analysis.items.probes import probes
from analysis.items.scores import scores, settings
from analysis.items.written import TRAINED, Page, page, to_csv, to_markdown
from analysis.load import load
from analysis.numbers import by_cell
from analysis.paper.questions import OWN
from analysis.parts import part_number
from analysis.rows import each
from videonsa.disk import write_bytes
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
    whole: bool  # all that it has could be made


def places(item: Item, found: Found) -> list[Place]:
    """The item's; [] of one that nothing of ours makes."""
    return MAKERS[item.kind](item, found) if item.kind in MAKERS else []


def listing(found: Found) -> list[str]:
    """A line for each item with its state, and the commands that fill what it lacks."""
    lines = []
    for item in catalog().items.values():
        here = places(item, found)
        odd = sum(bool(place.marks) for place in here)
        marked = f"; something is to be known of {odd} of its numbers (†)" if odd else ""
        lines.append(f"  {item.name:<8} {f'{item.shows}: ' if item.shows else ''}{status(item, here)}{marked}")
        lines += [f"           {command}" for command in commands(here)]
    meant = stand_ins(lines)
    return [*lines, f"In these commands {meant}"] if meant else lines


def make(names: Sequence[str], found: Found) -> list[Made]:
    """Write these items. What is odd in the records is added to found.problems."""
    several = {name: places(catalog().items[name], found) for name in names}
    filled = with_numbers(several, found)
    made: list[Made] = []
    for name in names:
        item, here = catalog().items[name], filled[name]
        paths = _write(item, here, found.out / FOLDER)
        figure = _same(item, made, found) or _draw(item, here, found) if here and item.draws else []
        made.append(Made(item, page(item, here), [*figure, *paths], bool(figure if item.draws else paths)))
    return made


def with_numbers(several: dict[str, list[Place]], found: Found) -> dict[str, list[Place]]:
    """The places with the numbers of the cells that fill them."""
    ids = dict.fromkeys(cell for here in several.values() for place in here for cell in place.cells)
    results = load(found.out, {"cells": [{"id": cell} for cell in ids]})
    found.problems.extend(line for line in results.problems if line not in found.problems)
    rows = {row.id: row for row in each(compare(results, None))}
    asked = by_cell(results.questions)

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


def _write(item: Item, here: Sequence[Place], folder: Path) -> list[Path]:
    """The item's table, as Markdown and as CSV; of one that has no places, nothing."""
    if not here:
        return []
    write_text(folder / f"{item.name}.md", to_markdown(page(item, here)))
    write_text(folder / f"{item.name}.csv", to_csv(item, here))
    return [folder / f"{item.name}.md", folder / f"{item.name}.csv"]


def _draw(item: Item, here: Sequence[Place], found: Found) -> list[Path]:
    """The item's figure; no path where there is nothing to draw, or where it fails, which is logged.

    Why something that was found cannot be drawn is added to found.problems.
    """
    folder, style = found.out / FOLDER, module("style")
    try:
        with style.style():
            return style.save(draw(item, found), folder, item.name)
    except ValueError as error:
        log.info("%s: %s", item.name, error)
        if str(error) not in found.problems and any(place.state == DONE for place in here):
            why = str(error).replace(f"{found.measured}/", "")
            found.problems.append(f"{item.name} is not drawn: {why}")
    except OSError:  # of the disk, which keeps the older one
        raise
    except Exception:
        log.exception("%s could not be drawn", item.name)
    for kind in style.FORMATS:  # an older one would show other records
        (style.place(folder) / f"{item.name}.{kind}").unlink(missing_ok=True)
    return []


def _same(item: Item, made: Sequence[Made], found: Found) -> list[Path]:
    """The figure that another item made just now of the same cells, under this one's name."""
    same = next((one for one in made if (one.item.of, one.item.draws) == (item.of, item.draws)), None)
    copies = []
    for path in same.paths if same else ():
        if path.suffix.removeprefix(".") in module("style").FORMATS:
            copies.append(path.with_name(f"{item.name}{path.suffix}"))
            write_bytes(copies[-1], path.read_bytes())
    return copies
