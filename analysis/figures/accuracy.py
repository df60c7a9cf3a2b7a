"""Accuracy of every variant with its interval, one panel a suite: the figure that any sweep has.

Where the variants are subsets of the branches, a matrix of dots at the left says which branches each has. In a sweep of
groups (a grid's `within`: context lengths) a variant has a mark in each group, told apart by shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import style
from analysis.rows import each, groups_of
from analysis.stats import SIGNIFICANT

BRANCHES = ("cmp", "slc", "swa")
COLUMNS = 4  # suites side by side
WIDE = 5  # inches that the legend's row needs
APART = 0.72  # of a row's height, over which the marks of its groups are spread


def draw(rows: pd.DataFrame) -> Figure:
    """Every variant of the sweep by its name, in the sweep's order."""
    rows = rows.assign(row=_rows(rows))
    places = list(dict.fromkeys(rows["row"]))
    names = style.names(places)
    return _draw(rows, places, names, label_width=style.widest(names))


def _rows(rows: pd.DataFrame) -> pd.Series:
    """The row of a panel in which a cell stands: its label; in a sweep of groups what is one there for all of them."""
    of_seed = [label.removeprefix(variant) for label, variant in zip(rows["label"], rows["variant"], strict=True)]
    return rows["label"].where(rows["group"].isna(), rows["name"] + pd.Series(of_seed, index=rows.index, dtype=object))


def draw_branches(rows: pd.DataFrame) -> Figure:
    """The subsets of the branches, single branches first, with their matrix of dots; dense attention last if there."""
    rows = rows.assign(row=_rows(rows))
    subsets = rows[(rows["attention"] != "dense") & rows["branches"].notna()].drop_duplicates("row")
    if subsets["branches"].nunique() < 2:
        raise ValueError("fewer than two subsets of the branches")
    if subsets["branches"].duplicated().any():
        raise ValueError("several variants of one subset of the branches: dots do not tell them apart")
    order = sorted(each(subsets), key=lambda row: (row.branches.count("+"), _places(row.branches)))
    places = [row.row for row in order]
    figure = _draw(rows[rows["row"].isin(places)], places, [""] * len(places), label_width=0.75)
    for axes in figure.axes:
        if axes.get_gid() == "first":
            _matrix(axes, [row.branches for row in order])
    return figure


def _places(branches: str) -> list[int]:
    return [BRANCHES.index(name) for name in branches.split("+")]


def _draw(rows: pd.DataFrame, places: Sequence[str], names: Sequence[str], label_width: float) -> Figure:
    suites = list(dict.fromkeys(rows.loc[rows["status"] == "done", "suite"]))
    if not suites:
        raise ValueError("no finished cell")
    most = min(COLUMNS, max(1, int((style.TEXT_WIDTH - label_width) / 1.2)))
    groups = groups_of(rows)
    height = 0.85 + (0.17 if len(groups) < 2 else 0.07 + 0.11 * len(groups)) * len(places)
    columns = style.side_by_side(len(suites), most, style.TEXT_WIDTH / most, height)
    width = min(style.text_width(columns, most), max(style.COLUMN_WIDTH, label_width + 1.65 * columns + 0.2))
    legend = 0.15 if width > WIDE else 0.4 / -(-len(suites) // columns)
    legend += 0.2 if len(groups) > 1 else 0
    figure, panels = style.panels(len(suites), columns, width, height + legend, sharey=True)
    for i, (suite, axes) in enumerate(zip(suites, panels, strict=True)):
        here = rows[rows["suite"] == suite]
        for number, group in enumerate(groups):
            own = here if len(groups) < 2 else here[here["group"] == group]
            apart = (number - (len(groups) - 1) / 2) * APART / len(groups)
            _forest(
                axes,
                own.set_index("row").reindex(places),
                style.MARKERS[number % len(style.MARKERS)],
                apart,
                len(groups) < 2,
            )
        axes.set_ylim(len(places) - 0.4, -0.6)
        axes.margins(x=0.06)
        style.reference_lines(axes, rows[rows["suite"] == suite], vertical=True)
        axes.set_title(style.suite_title(suite, (width - label_width) / columns), pad=9)
        axes.set_xlabel("accuracy (%)")
        if i % columns == 0:
            axes.set_gid("first")
        axes.set_yticks(range(len(places)), names)
        axes.tick_params(axis="y", length=0)
    _legend(figure, rows, groups)
    return figure


def _legend(figure: Figure, rows: pd.DataFrame, groups: Sequence[str]) -> None:
    several = len(groups) > 1
    entries: dict[str, Line2D] = {}
    if rows["p"].notna().any():
        reference = style.names(_reference(rows), style.LEGEND_WIDTH)[:1]
        other = f"{'it' if reference else 'the reference'}{' there' * several}"
        entries = {
            **{name: _mark(style.VERMILION) for name in reference},
            f"differs from {other} (paired test, Holm p < {SIGNIFICANT})": _mark(style.BLUE),
            "no sure difference": _mark(style.BLUE, mfc="white"),
        }
    entries |= style.seeds_entry(rows)
    if several:
        entries |= style.shapes(groups)
    if entries:
        style.legend(figure, list(entries.values()), list(entries), columnspacing=1.2)


def _reference(rows: pd.DataFrame) -> pd.Series:
    """What the others are compared with, as a panel's rows are called."""
    return rows.loc[rows["is_reference"], "name"] if rows["group"].notna().any() else rows["reference"].dropna()


def _mark(colour: str, **options: Any) -> Line2D:
    return Line2D([], [], color=colour, marker="o", ms=4.2, lw=1.1, **options)


def _forest(axes: Axes, here: pd.DataFrame, marker: str, apart: float, banded: bool) -> None:
    """A line of each row of `here`, by its place, `apart` from the row's middle; `banded`: the reference's interval
    reaches through the panel."""
    for _, own in here[banded & here["is_reference"].eq(True) & (here["status"] == "done")].iterrows():
        axes.axvspan(100 * own["low"], 100 * own["high"], color=style.SKY, alpha=0.22, lw=0, zorder=0)
    for number, (_, row) in enumerate(here.iterrows()):
        place = number + apart
        if row["status"] == "done":
            colour = style.VERMILION if row["is_reference"] else style.BLUE
            sure = row["p_holm"] < SIGNIFICANT
            if not np.isnan(row["low"]):
                axes.plot([100 * row["low"], 100 * row["high"]], [place] * 2, color=colour, lw=1.1, zorder=2)
            style.seed_ticks(axes, row, place, colour)
            face = colour if sure or row["is_reference"] else "white"
            axes.plot([100 * row["accuracy"]], [place], marker, ms=4.2, mfc=face, mec=colour, mew=1.0, zorder=3)
        elif row["status"] in ("failed", "missing"):
            text = "failed" if row["status"] == "failed" else "not run"
            axes.text(
                0.5,
                place,
                text,
                fontsize=6,
                color=style.GREY,
                ha="center",
                va="center",
                transform=axes.get_yaxis_transform(),
            )


def _matrix(axes: Axes, subsets: Sequence[str]) -> None:
    """Dots left of the panel: one column a branch, filled where the subset has it."""
    place = axes.get_yaxis_transform()
    for column, branch in enumerate(BRANCHES):
        x = -0.42 + 0.14 * column
        for y, subset in enumerate(subsets):
            has = branch in subset.split("+")
            face = style.BRANCH_COLOURS[branch] if has else "#DDDDDD"
            axes.plot([x], [y], "o", ms=5, mfc=face, mec="none", transform=place, clip_on=False)
        axes.text(x, len(subsets) - 0.3, branch, rotation=90, ha="center", va="top", transform=place, fontsize=6.5)
