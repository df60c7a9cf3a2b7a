"""Accuracy of every variant with its interval, one panel a suite: the figure that any sweep has.

Where the variants are subsets of the branches, a matrix of dots at the left says which branches each has.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import style
from analysis.rows import each
from analysis.stats import SIGNIFICANT

BRANCHES = ("cmp", "slc", "swa")
COLUMNS = 4  # suites side by side
WIDE = 5  # inches that the legend's row needs


def draw(rows: pd.DataFrame) -> Figure:
    """Every variant of the sweep by its label, in the sweep's order."""
    labels = list(dict.fromkeys(rows["label"]))
    names = style.names(labels)
    return _draw(rows, labels, names, label_width=style.widest(names))


def draw_branches(rows: pd.DataFrame) -> Figure:
    """The subsets of the branches, single branches first, with their matrix of dots; dense attention last if there."""
    subsets = rows[(rows["attention"] != "dense") & rows["branches"].notna()].drop_duplicates("label")
    if subsets["branches"].nunique() < 2:
        raise ValueError("fewer than two subsets of the branches")
    order = sorted(each(subsets), key=lambda row: (row.branches.count("+"), _places(row.branches)))
    labels = [row.label for row in order]
    figure = _draw(rows[rows["label"].isin(labels)], labels, [""] * len(labels), label_width=0.75)
    for axes in figure.axes:
        if axes.get_gid() == "first":
            _matrix(axes, [row.branches for row in order])
    return figure


def _places(branches: str) -> list[int]:
    return [BRANCHES.index(name) for name in branches.split("+")]


def _draw(rows: pd.DataFrame, labels: Sequence[str], names: Sequence[str], label_width: float) -> Figure:
    suites = list(dict.fromkeys(rows.loc[rows["status"] == "done", "suite"]))
    if not suites:
        raise ValueError("no finished cell")
    most = min(COLUMNS, max(1, int((style.TEXT_WIDTH - label_width) / 1.2)))
    height = 0.85 + 0.17 * len(labels)
    columns = style.side_by_side(len(suites), most, style.TEXT_WIDTH / most, height)
    width = min(style.text_width(columns, most), max(style.COLUMN_WIDTH, label_width + 1.65 * columns + 0.2))
    legend = 0.15 if width > WIDE else 0.4 / -(-len(suites) // columns)
    figure, panels = style.panels(len(suites), columns, width, height + legend, sharey=True)
    for i, (suite, axes) in enumerate(zip(suites, panels, strict=True)):
        here = rows[rows["suite"] == suite].set_index("label").reindex(labels)
        _forest(axes, here)
        style.reference_lines(axes, rows[rows["suite"] == suite], vertical=True)
        axes.set_title(style.suite_title(suite), pad=9)
        axes.set_xlabel("accuracy (%)")
        if i % columns == 0:
            axes.set_gid("first")
        axes.set_yticks(range(len(labels)), names)
        axes.tick_params(axis="y", length=0)
    _legend(figure, rows)
    return figure


def _legend(figure: Figure, rows: pd.DataFrame) -> None:
    if not rows["p"].notna().any():
        return
    entries = {
        style.names(rows["reference"], style.LEGEND_WIDTH)[0]: Line2D(
            [], [], color=style.VERMILION, marker="o", ms=4.2, lw=1.1
        ),
        f"differs from it (paired test, Holm p < {SIGNIFICANT})": Line2D(
            [], [], color=style.BLUE, marker="o", ms=4.2, lw=1.1
        ),
        "no sure difference": Line2D([], [], color=style.BLUE, marker="o", ms=4.2, lw=1.1, mfc="white"),
    }
    style.legend(figure, list(entries.values()), list(entries), columnspacing=1.2)


def _forest(axes: Axes, here: pd.DataFrame) -> None:
    for _, own in here[here["is_reference"].eq(True) & (here["status"] == "done")].iterrows():
        axes.axvspan(100 * own["low"], 100 * own["high"], color=style.SKY, alpha=0.22, lw=0, zorder=0)
    for place, (_, row) in enumerate(here.iterrows()):
        if row["status"] == "done":
            colour = style.VERMILION if row["is_reference"] else style.BLUE
            sure = row["p_holm"] < SIGNIFICANT
            if not np.isnan(row["low"]):
                axes.plot([100 * row["low"], 100 * row["high"]], [place] * 2, color=colour, lw=1.1, zorder=2)
            face = colour if sure or row["is_reference"] else "white"
            axes.plot([100 * row["accuracy"]], [place], "o", ms=4.2, mfc=face, mec=colour, mew=1.0, zorder=3)
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
    axes.set_ylim(len(here) - 0.4, -0.6)
    axes.margins(x=0.06)


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
