"""Places that the files of benchmarks/ fill."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from analysis.figures.measured import read_table
from analysis.items import Item
from analysis.items.found import Found
from analysis.items.places import ALONE, DONE, MEASURED, MISSING, Ours, Place, shared
from analysis.items.published import Number, numbers
from analysis.paper.questions import plain

LAYERS = 28  # of Qwen2.5-VL-7B


def measured(item: Item, found: Found) -> list[Place]:
    """A place for each row and column that the item declares, and for published numbers that stand in none of them."""
    table = measurements(item, found)
    (by, rows), (across, columns) = (next(iter(item.of[name].items())) for name in ("rows", "columns"))
    places = []
    for row, value in rows.items():
        here = table[table[by] == value] if len(table) else table
        places += [_place(item, here, (row, value), (column, across, of)) for column, of in columns.items()]
    places = _with_commands(item, found, places)
    rest = [] if item.draws else numbers([item.number])
    beside = {(number.row.method, number.row.metric): number for number in rest}
    places = [_beside(place, beside.get((place.row, place.column))) for place in places]
    alone = beside.keys() - {(place.row, place.column) for place in places}
    return places + [_alone(number) for number in rest if (number.row.method, number.row.metric) in alone]


def measurements(item: Item, found: Found) -> pd.DataFrame:
    """The item's measurements, with what it shows in the column `number`; empty where there is no such file."""
    path = found.measured / item.of["file"]
    if not path.is_file():
        return pd.DataFrame()
    where, number = item.of["where"], item.of["number"]
    plain_number = [number] if number not in NUMBERS else []
    table = read_table(path, [*item.of["rows"], *item.of["columns"], *where, *plain_number])
    for name, value in where.items():
        table = table[table[name] == value]
    of = NUMBERS.get(number, lambda rows: rows[number])
    return table.assign(number=of(table)).dropna(subset=["number"])


def _place(item: Item, here: pd.DataFrame, row: tuple[str, Any], column: tuple[str, str, Any]) -> Place:
    """Of several measurements the newest counts."""
    if row[1] is None:
        return Place(row[0], column[0], ALONE)
    values = [float(value) for value in here.loc[here[column[1]] == column[2], "number"]] if len(here) else []
    if not values:
        return Place(row[0], column[0], MISSING)
    return Place(row[0], column[0], DONE, ours=(Ours(values[-1], f"{values[-1]:.3g}", item.of["file"]),))


def _with_commands(item: Item, found: Found, places: Sequence[Place]) -> list[Place]:
    """Rows that lack the same columns are measured by one command, where it takes several rows."""
    rows, columns = (next(iter(item.of[name].values())) for name in ("rows", "columns"))
    lacking = {row: [place.column for place in places if place.row == row and place.state == MISSING] for row in rows}

    def command(place: Place) -> str:
        same = [str(value) for row, value in rows.items() if lacking[row] == lacking[place.row]]
        values = " ".join(str(columns[name]) for name in lacking[place.row])
        said = item.command.format(row=rows[place.row], rows=" ".join(same), columns=values)
        return f"{said} --out {shared(found.measured, MEASURED)}/{item.of['file']}"

    return [replace(place, command=command(place)) if place.state == MISSING else place for place in places]


def _beside(place: Place, number: Number | None) -> Place:
    if number is None:
        return place
    return replace(place, published=number.text, value=number.row.value, marks=number.marks)


def _alone(number: Number) -> Place:
    """A published number in a place of its own; the note of one that has several says which it is."""
    row, note = number.row, str(plain(number.row.note) or "").partition(", ")
    label, column = (note[0], note[2].partition(" (")[0]) if note[2] else (row.method, row.metric)
    return Place(label, column, ALONE, published=number.text, value=row.value, marks=number.marks)


def _attention_pflop(table: pd.DataFrame) -> pd.Series:
    """4 x heads x head size x pairs of query and key, of all layers."""
    pairs = table["density"] * table["length"] * (table["length"] + 1) / 2
    return 4 * LAYERS * table["heads"] * table["head_dim"] * pairs / 1e15


NUMBERS: Mapping[str, Callable[[pd.DataFrame], pd.Series]] = {"attention_pflop": _attention_pflop}
