"""An item as text: ours and the published numbers, row by row, and what to know of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from analysis.cell_text import markdown_row
from analysis.items import Item
from analysis.items.places import ALONE, DONE, FAILED, MISSING, Ours, Place, commands, stand_ins, status
from analysis.items.scores import PLANE
from analysis.paper import SOURCE
from videonsa.text import markdown

TRAINED = "trained here"  # of weights that repeat the paper's
COLUMNS = [
    *("item", "row", "column", "state", "ours", "low", "high", "shown", "from", "settings"),
    *("published", "as_published", "notes", "command"),
]
NOTHING = {MISSING: "-", FAILED: "failed", ALONE: "", DONE: ""}


class Line(NamedTuple):
    """One line of a table: ours or the published numbers of a row."""

    row: str
    whose: str  # "ours", "published"
    cells: list[str]


@dataclass(frozen=True)
class Page:
    """What a reader sees of an item."""

    title: str
    status: str
    columns: Sequence[str]
    lines: Sequence[Line]
    notes: Sequence[str]
    commands: Sequence[str]


def page(item: Item, places: Sequence[Place]) -> Page:
    """The item's table (of a figure: what it is drawn from) with its notes."""
    marks = {text: number for number, text in enumerate(_unique(mark for place in places for mark in place.marks), 1)}
    columns = _unique(place.column for place in places)
    if item.kind == "scores" and item.of["columns"][0] in PLANE:
        columns.sort(key=lambda column: int(column.split()[0]))
    lines = [line for row in _unique(place.row for place in places) for line in _lines(row, columns, places, marks)]
    notes = [f"†{number} {text}" for text, number in marks.items()]
    return Page(
        title=f"{item.title}: {item.shows}" if item.shows else item.title,
        status=status(item, places),
        columns=columns,
        lines=lines,
        notes=[*_general(item, places), *notes],
        commands=commands(places),
    )


def to_markdown(shown: Page) -> str:
    """The page as Markdown."""
    lines = [f"**{markdown(shown.title)}**", "", markdown(shown.status), ""]
    if shown.lines:
        headings = ["", "", *map(markdown, shown.columns)]
        lines += [markdown_row(headings), markdown_row(["---"] * len(headings))]
        lines += [markdown_row(map(_markdown, (line.row, line.whose, *line.cells))) for line in shown.lines]
        lines.append("")
    lines += [f"- {markdown(note)}" for note in shown.notes]
    if shown.commands:
        lines += ["", filled_by(shown.commands), "", *(f"    {text}" for text in shown.commands)]
    return "\n".join(lines).rstrip("\n") + "\n"


def filled_by(commands: Sequence[str]) -> str:
    """What stands above the commands that fill what is missing."""
    meant = stand_ins(commands)
    return f"What is missing is filled by{f' ({meant})' if meant else ''}:"


def to_csv(item: Item, places: Iterable[Place]) -> str:
    """Tidy, every digit, one row a place; scores in %."""
    rows = []
    for place in places:
        ours = place.ours[0] if place.ours else None
        number = (ours.value, ours.low, ours.high) if ours else (None, None, None)
        shown = "; ".join(_ours(one) for one in place.ours)
        source = " ".join(one.source for one in place.ours)
        about = [item.name, place.row, place.column, place.state, *number, shown, source, place.detail]
        rows.append([*about, place.value, place.published, "; ".join(place.marks), place.command])
    return pd.DataFrame(rows, columns=COLUMNS).to_csv(index=False, lineterminator="\n")


def _markdown(cell: str) -> str:
    return cell if cell == NOTHING[MISSING] else markdown(cell)


def _unique(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _lines(row: str, columns: Sequence[str], places: Sequence[Place], marks: dict[str, int]) -> list[Line]:
    here = {place.column: place for place in places if place.row == row}
    of = [here.get(column) for column in columns]
    lines = []
    if any(place.state != ALONE for place in here.values()):
        detail = next((place.detail for place in here.values() if place.detail), "")
        whose = f"ours, {detail}" if detail else "ours"
        lines.append(Line(row, whose, [_own(place, marks) for place in of]))
    if any(place.published for place in here.values()):
        lines.append(Line("" if lines else row, "published", [_published(place, marks) for place in of]))
    return lines


def _own(place: Place | None, marks: dict[str, int]) -> str:
    if place is None:
        return ""
    text = "; ".join(_ours(one) for one in place.ours) or NOTHING[place.state]
    return text if place.published else _marked(text, place, marks)


def _ours(one: Ours) -> str:
    return f"{one.text} ({one.note})" if one.note else one.text


def _published(place: Place | None, marks: dict[str, int]) -> str:
    return _marked(place.published, place, marks) if place and place.published else ""


def _marked(text: str, place: Place, marks: dict[str, int]) -> str:
    return " ".join([text, *(f"†{marks[mark]}" for mark in place.marks)]).strip()


def _general(item: Item, places: Sequence[Place]) -> list[str]:
    lines = [item.why] if item.why else []
    if any(place.published for place in places):
        lines.append(SOURCE)
    if any(one.low is not None for place in places for one in place.ours):
        lines.append("ours: scores in % [95 % interval, by video where questions share one]")
    if any(TRAINED in one.note for place in places for one in place.ours):
        lines.append(f"{TRAINED}: by the paper's recipe; whose data it was trained on cannot be seen")
    if any(place.state in (MISSING, FAILED) for place in places):
        lines.append("-: not there yet")
    if any(place.detail for place in places):
        lines.append("the paper does not state the settings of other methods: ours are named beside them")
    return lines
