"""The sweep table: variants x suites; the terminal, Markdown and CSV write the rows of analysis/compared.py."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from analysis.cell_text import cost_text, costs_of, markdown_row, score_text
from analysis.notes import notes
from analysis.pooled import shown
from analysis.rows import AGGREGATE, OF_PAGES, each
from analysis.stats import SIGNIFICANT
from analysis.titles import sweep_title
from videonsa.text import line_of, markdown, told_apart

SUITES_A_TABLE = 4  # more suites than this are stacked as further tables
TEXT_WIDTH = 140  # characters of table.txt
LABEL_WIDTH = 48  # columns of a label in it


def to_csv(rows: pd.DataFrame) -> str:
    """Tidy, every digit, one row a cell and one a mean over seeds (column `unit`); tracebacks and notes stay in the
    records, sub-scores have their own table."""
    return rows.drop(columns=["traceback", *AGGREGATE, *OF_PAGES, "base", "seeds_accuracies"]).to_csv(
        index=False, lineterminator="\n"
    )


def rich_table(rows: pd.DataFrame, plan: Mapping[str, Any], problems: Sequence[str] = ()) -> RenderableType:
    """The table for a terminal; it folds to the terminal's width."""
    body = shown(rows)
    suites = list(dict.fromkeys(body["suite"]))
    chunks = [suites[i : i + SUITES_A_TABLE] for i in range(0, len(suites), SUITES_A_TABLE)]
    parts: list[RenderableType] = [Text(line_of(sweep_title(plan)), style="bold")]
    parts += [_rich_part(body, chunk, plan) for chunk in chunks]
    lines = [*notes(rows, plan), *problems, *_cut(body)]
    parts += [Text(line_of(note), style="dim") for note in lines]
    return Group(*parts)


def _rich_part(rows: pd.DataFrame, suites: Sequence[str], plan: Mapping[str, Any]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    names = _names(rows)
    table.add_column("variant", no_wrap=True, min_width=max(map(cell_len, names.values()), default=0))
    for suite in suites:
        table.add_column(
            Text(line_of(suite)), min_width=12, overflow="fold"
        )  # "91.0 [86–94]"; the difference folds below it on a narrow terminal
    for heading, _ in costs_of(rows).values():
        table.add_column(heading, justify="right", no_wrap=True)
    for label, group in rows.groupby("label", sort=False):
        here = {row.suite: row for row in each(group)}
        cells = [Text(score_text(here.get(suite)), style=_style(here.get(suite))) for suite in suites]
        asked = group[group["suite"].isin(suites)]
        costs = [cost_text(asked[column], factor) for column, (_, factor) in costs_of(rows).items()]
        name = Text(names[str(label)], style="bold" if group["is_reference"].any() else "")
        table.add_row(name, *cells, *costs)
    return table


def _names(rows: pd.DataFrame) -> dict[str, str]:
    """Label -> what stands for it where there is little room."""
    labels = list(dict.fromkeys(map(str, rows["label"])))
    return dict(zip(labels, told_apart(labels, LABEL_WIDTH), strict=True))


def _cut(rows: pd.DataFrame) -> list[str]:
    """A note where labels are not whole."""
    cut = any(line_of(label) != name for label, name in _names(rows).items())
    return ["labels are shortened here; table.csv has them whole"] if cut else []


def _style(row: Any) -> str:
    if row is None or row.status == "missing":
        return "dim"
    if row.status == "failed":
        return "red"
    if not np.isnan(row.difference) and row.p_holm < SIGNIFICANT:
        return "green" if row.difference > 0 else "yellow"
    return ""


def to_text(rows: pd.DataFrame, plan: Mapping[str, Any], problems: Sequence[str] = ()) -> str:
    """The terminal's table as plain text."""
    stream = io.StringIO()
    about: dict[str, Any] = {"width": TEXT_WIDTH, "height": 100, "color_system": None, "force_terminal": False}
    about |= {"highlight": False, "legacy_windows": False, "_environ": {}}  # not what COLUMNS or TERM say
    Console(file=stream, **about).print(rich_table(rows, plan, problems))
    return "\n".join(line.rstrip() for line in stream.getvalue().split("\n")).rstrip("\n") + "\n"


def to_markdown(rows: pd.DataFrame, plan: Mapping[str, Any], problems: Sequence[str] = ()) -> str:
    """The same table for a README or a pull request; intervals with one decimal."""
    body = shown(rows)
    suites = list(dict.fromkeys(body["suite"]))
    headings = ["variant", *suites, *(heading for heading, _ in costs_of(body).values())]
    lines = [f"**{markdown(sweep_title(plan))}**", "", markdown_row(map(markdown, headings))]
    lines.append(markdown_row(["---"] * len(headings)))
    for label, group in body.groupby("label", sort=False):
        here = {row.suite: row for row in each(group)}
        cells = [score_text(here.get(suite), decimals=1) for suite in suites]
        costs = [cost_text(group[column], factor) for column, (_, factor) in costs_of(body).items()]
        name = markdown(label)
        lines.append(markdown_row([f"**{name}**" if group["is_reference"].any() else name, *cells, *costs]))
    return "\n".join([*lines, "", *(f"- {markdown(note)}" for note in [*notes(rows, plan), *problems])]) + "\n"
