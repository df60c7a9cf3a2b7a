"""What accuracy costs: accuracy against the share of dense attention, and against prefill time, one column a suite.

No front is drawn through the best points: where intervals overlap, which point is best is a matter of luck. In a sweep
of groups (a grid's `within`) shapes tell these apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import style
from analysis.rows import each, groups_of

COLUMNS = 4  # suites side by side
COSTS = {"attention_fraction": ("attention (% of dense)", 100.0), "prefill_ms": ("prefill (ms)", 1.0)}


def draw(rows: pd.DataFrame) -> Figure:
    """From the tidy table; ValueError when no cost was measured at which the finished cells differ."""
    done = rows[rows["status"] == "done"]
    costs = [name for name in COSTS if done[name].dropna().nunique() > 1]
    if not costs:
        raise ValueError("no cost that differs between finished cells")
    width = min(style.TEXT_WIDTH, 1.85 * min(COLUMNS, done["suite"].nunique()))
    panel = partial(_panel, groups=groups_of(done))
    figure = panels(done, costs, panel, COLUMNS, max(style.COLUMN_WIDTH, width), 1.7, 0.3)
    _legend(figure, done)
    return figure


def panels(
    done: pd.DataFrame,
    costs: Sequence[str],
    panel: Callable[[Axes, pd.DataFrame, str], None],
    columns: int,
    width: float,
    height: float,
    below: float,
) -> Figure:
    """A figure of so many columns at most: suites side by side, a panel for each cost below one another.

    panel(axes, cells of a suite, cost) draws one; width, height of a panel, and room below for a legend, in inches.
    """
    suites = list(dict.fromkeys(done["suite"]))
    most, columns = columns, style.side_by_side(len(suites), columns, style.TEXT_WIDTH / columns, height * len(costs))
    width *= max(1.0, columns / most)
    bands = -(-len(suites) // columns)
    figure = style.new_figure(width, height * bands * len(costs) + below)
    grid = figure.subplots(bands * len(costs), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_visible(False)
    for i, suite in enumerate(suites):
        for j, cost in enumerate(costs):
            axes = grid[len(costs) * (i // columns) + j][i % columns]
            axes.set_visible(True)
            panel(axes, done[done["suite"] == suite], cost)
            if j == 0:
                axes.set_title(style.suite_title(suite, width / columns))
            if i % columns == 0:
                axes.set_ylabel("accuracy (%)")
    return figure


def _panel(axes: Axes, here: pd.DataFrame, cost: str, groups: Sequence[Any]) -> None:
    name, factor = COSTS[cost]
    known = here[here[cost].notna()]
    for row in each(known.sort_values("is_reference")):  # the reference last, on top
        colour, marker = _look(row, groups)
        x, y = factor * getattr(row, cost), 100 * row.accuracy
        if not np.isnan(row.low):
            axes.plot([x, x], [100 * row.low, 100 * row.high], color=colour, lw=0.8, alpha=0.5, zorder=2)
        axes.plot([x], [y], marker, ms=4.2, mfc=colour, mec="white", mew=0.4, zorder=3)
    values = factor * known[cost].astype(float)
    if len(values) and values.max() > 1.5 * values.min() > 0:
        style.log_scale(axes, "x")
    axes.set_xlabel(name)
    axes.margins(x=0.08)


def _look(row: Any, groups: Sequence[Any]) -> tuple[str, str]:
    colour = style.VERMILION if row.is_reference else style.BLACK if row.attention == "dense" else style.BLUE
    if len(groups) > 1:
        return colour, style.MARKERS[groups.index(row.group) % len(style.MARKERS)]
    return colour, "D" if colour == style.BLACK else "o"


def _legend(figure: Figure, done: pd.DataFrame) -> None:
    entries, groups = {}, groups_of(done)
    if done["is_reference"].any():
        named = done.loc[done["is_reference"], "name"] if len(groups) > 1 else done["reference"]
        reference = style.names(named, style.LEGEND_WIDTH)[0]
        entries[reference] = Line2D([], [], color=style.VERMILION, marker="o", ms=4.2, lw=0.8)
    if (~done["is_reference"] & (done["attention"] != "dense")).any():
        entries["other variants"] = Line2D([], [], color=style.BLUE, marker="o", ms=4.2, lw=0.8)
    if (~done["is_reference"] & (done["attention"] == "dense")).any():
        marker = "D" if len(groups) < 2 else "o"
        entries["dense"] = Line2D([], [], color=style.BLACK, marker=marker, ms=4.2, lw=0.8)
    if len(groups) > 1:
        entries |= style.shapes(groups)
    style.legend(figure, list(entries.values()), list(entries))
