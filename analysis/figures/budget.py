"""Attention allocation (paper, figures 3 and 16): how should a budget be split between chosen blocks and local window?

Above, every setting at its window and block count, coloured by accuracy, with the curves on which the budget is equal.
Below, the same accuracies with their intervals against the share of the budget that is local. Suites have their own
levels, but the same number of points per colour and per inch, so that steps compare across panels. A sweep of groups (a
grid's `within`: context lengths) has such a pair for each suite in each group.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis.figures import style
from analysis.rows import each

COLUMNS, WITHIN = 3, 4  # suites side by side; in a sweep of groups
SHAPES = ("o", "s", "^", "D", "v", "P")  # budgets, the ringed one's first
NEAR = 0.02  # budgets this close count as equal: the paper's own rows, whole blocks, are 1.4 % apart
OTHER = "X"  # settings whose budget no other setting has
DASHES = (0, (4, 2))


def usable(rows: pd.DataFrame) -> pd.DataFrame:
    """The cells that have a place on the two axes: sparse attention, all branches, a block count and a window."""
    sparse = (rows["attention"] != "dense") & rows["block_count"].notna() & (rows["window"].fillna(0) > 0)
    all_branches = rows["branches"].isna() | (rows["branches"] == "cmp+slc+swa")
    return rows[sparse & all_branches]


def draw(rows: pd.DataFrame) -> Figure:
    """From the tidy table (analysis.compared.compare); ValueError when its cells have no place on the two axes."""
    cells = usable(rows)
    ringed, ring_name = _ringed(cells)
    cells = cells.assign(ringed=ringed)
    done = cells[cells["status"] == "done"]
    if not len(done):
        raise ValueError("no finished cell with a block count and a window")
    if done["block_size"].nunique() > 1:
        raise ValueError("no budget curve with several block sizes")
    shapes = _shapes(done)
    cells = cells.assign(curve=cells["budget"].map(lambda budget: _curve(budget, shapes)))
    places = list(dict.fromkeys(zip(done["group"].fillna(""), done["suite"], strict=True)))
    columns = COLUMNS if done["group"].isna().all() else WITHIN
    figure, pairs = _panels(len(places), columns)
    span = _span(done)
    for (group, suite), (upper, lower) in zip(places, pairs, strict=True):
        here = cells[(cells["suite"] == suite) & (cells["group"].fillna("") == group)]
        finished = here[here["status"] == "done"]
        middle = 50 * float(finished["accuracy"].max() + finished["accuracy"].min())
        middle = min(max(middle, span / 2), 100 - span / 2)  # equal spans, and none beyond 0 or 100 %
        norm = Normalize(middle - span / 2, middle + span / 2)
        _plane(upper, cells, here, shapes, norm)
        _shares(lower, finished, shapes, norm)
        style.reference_lines(lower, rows[(rows["suite"] == suite) & (rows["group"].fillna("") == group)])
        more = f", {group}" * bool(group)
        title = style.suite_title(suite, style.TEXT_WIDTH / columns - style.widest([more]))
        upper.set_title(title + more)
        style.colour_bar(figure, norm, upper, "accuracy (%)", location="bottom", aspect=22, pad=0.02)
    _legend(figure, shapes, cells, ring_name)
    return figure


def _panels(count: int, most: int) -> tuple[Figure, list[tuple[Axes, Axes]]]:
    """A figure with a pair of panels, one above the other, for each suite in each group."""
    columns = style.side_by_side(count, most, style.TEXT_WIDTH / most, 4.2)
    bands = -(-count // columns)
    width = style.text_width(columns, most) if columns > 2 else 2.1 * columns + 0.4
    figure = style.new_figure(width, 4.2 * bands + 0.3)
    grid = figure.subplots(2 * bands, columns, squeeze=False)
    pairs = [(grid[2 * band][column], grid[2 * band + 1][column]) for band in range(bands) for column in range(columns)]
    for upper, lower in pairs[count:]:
        upper.set_visible(False)
        lower.set_visible(False)
    for upper, lower in pairs[::columns]:
        upper.set_ylabel("block count b")
        lower.set_ylabel("accuracy (%), 95 % interval")
    return figure, pairs[:count]


def _ringed(cells: pd.DataFrame) -> tuple[pd.Series, str]:
    """Which cells get a ring, and what it means: asked as trained; where variants were each trained, the reference."""
    trained = cells["as_trained"].fillna(False).astype(bool)
    trainings = cells[["train_block_count", "train_window"]].dropna().drop_duplicates()
    if len(trainings) == 1:
        return trained, "training setting"
    return cells["is_reference"], "reference setting"


def _span(done: pd.DataFrame) -> float:
    """Points of accuracy that a panel's colours cover: the widest suite's range, at least 4."""
    per_suite = done.groupby(["suite", done["group"].fillna("")])["accuracy"]
    return max(4.0, 100 * float((per_suite.max() - per_suite.min()).max()))


def _shapes(done: pd.DataFrame) -> dict[float, str]:
    """A marker for each budget that gets a curve: the ringed cells', then those of two or more settings."""
    budgets = done.drop_duplicates(["block_count", "window"])["budget"].astype(float)
    own = list(done.loc[done["ringed"], "budget"].unique())
    shared: list[float] = []
    counts = budgets.value_counts()
    for budget in sorted(map(float, counts.index), key=lambda value: (-counts[value], value)):
        others = (budgets / budget - 1).abs() < NEAR
        if others.sum() > 1 and not any(abs(budget / known - 1) < NEAR for known in [*own, *shared]):
            shared.append(budget)
    return dict(zip([*own, *sorted(shared)], SHAPES, strict=False))


def _curve(budget: float, shapes: Mapping[float, str]) -> float | None:
    """The curve's budget that this one is nearly equal to."""
    return next((known for known in shapes if abs(budget / known - 1) < NEAR), None)


def _plane(
    axes: Axes,
    every: pd.DataFrame,
    here: pd.DataFrame,
    shapes: Mapping[float, str],
    norm: Normalize,
) -> None:
    windows, counts = every["window"].astype(float), every["block_count"].astype(float)
    style.log_axis(axes, "x", windows)
    style.log_axis(axes, "y", counts)
    axes.set_xlabel("window w (tokens)")
    size = float(every["block_size"].dropna().iloc[0])
    for budget in shapes:
        _equal_budget(axes, budget, size)
    for row in each(here):
        if row.status == "done":
            face = colormaps[style.SCORES](norm(100 * row.accuracy))
            _mark(axes, row.window, row.block_count, shapes.get(row.curve, OTHER), face, row.ringed)
        elif row.status == "failed":
            axes.plot([row.window], [row.block_count], "x", color=style.GREY, ms=5, mew=1.1)


def _mark(axes: Axes, x: float, y: float, shape: str, face: Any, trained: bool) -> None:
    axes.plot([x], [y], shape, ms=5.5, mfc=face, mec="black", mew=0.5, zorder=3)
    if trained:
        axes.plot([x], [y], "o", ms=10, mfc="none", mec=style.VERMILION, mew=1.2, zorder=4)


def _equal_budget(axes: Axes, budget: float, block_size: float) -> None:
    """The curve block count x block size + window = budget, inside the panel."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    steep = budget - block_size * np.geomspace(low, high, 200)  # where the curve falls, counts sample it better
    windows = np.concatenate([np.geomspace(left, min(right, 0.99 * budget), 200), steep])
    windows = np.sort(windows[(windows >= left) & (windows <= right)])
    counts = (budget - windows) / block_size
    inside = (counts >= low) & (counts <= high)
    axes.plot(windows[inside], counts[inside], color=style.GREY, lw=0.7, ls=DASHES, zorder=1)
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)


def _shares(axes: Axes, done: pd.DataFrame, shapes: Mapping[float, str], norm: Normalize) -> None:
    """Accuracy with its interval against the local share; settings of one budget are joined."""
    done = done.assign(alone=done["curve"].isna()).sort_values(["local_share", "alone", "block_count"])
    same = done.groupby("local_share")["local_share"]
    nudges = 1.14 ** (same.cumcount() - (same.transform("size") - 1) / 2)  # intervals at one share stand side by side
    done = done.assign(place=done["local_share"] * nudges)
    for budget in shapes:
        equal = done[done["curve"] == budget]
        axes.plot(equal["place"], 100 * equal["accuracy"].astype(float), color=style.GREY, lw=0.7, ls=DASHES)
    for row in each(done):
        accuracy, low, high = 100 * row.accuracy, 100 * row.low, 100 * row.high
        if not np.isnan(low):
            axes.plot([row.place] * 2, [low, high], color="#555555", lw=0.8, zorder=2)
        style.seed_ticks(axes, row, row.place, "#555555", vertical=True)
        face = colormaps[style.SCORES](norm(accuracy))
        _mark(axes, row.place, accuracy, shapes.get(row.curve, OTHER), face, row.ringed)
    half = 100 * float((done["high"] - done["low"]).max()) / 2
    reach = (norm.vmax - norm.vmin) / 2 + (0 if np.isnan(half) else half) + 3  # type: ignore[operator]
    middle = (norm.vmax + norm.vmin) / 2  # type: ignore[operator]
    top = min(103.0, middle + reach)
    axes.set_ylim(max(-3.0, top - 2 * reach), top)
    axes.set_xscale("log")  # along a curve of equal budget, windows double
    low = float(done["local_share"].min()) / 1.4
    axes.set_xlim(low, 1.1)
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in (0.01, 0.03, 0.1, 0.3, 1) if tick >= low]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("local share α = w / K")


def _legend(figure: Figure, shapes: Mapping[float, str], cells: pd.DataFrame, ring_name: str) -> None:
    entries: list[tuple[str, Line2D]] = []
    if cells["ringed"].any():
        ring = Line2D([], [], ls="", marker="o", ms=8, mfc="none", mec=style.VERMILION, mew=1.2)
        entries.append((ring_name, ring))
    for budget, shape in shapes.items():
        near = cells.loc[cells["curve"] == budget, "budget"].nunique() > 1
        entries.append((f"K {'≈' if near else '='} {style.plain(budget)}", _grey(shape)))
    if cells["curve"].isna().any():
        entries.append(("other K", _grey(OTHER)))
    entries.append(("equal budget K = b·s + w", Line2D([], [], color=style.GREY, lw=0.7, ls=DASHES)))
    entries += style.seeds_entry(cells, vertical=True).items()
    if (cells["status"] == "failed").any():
        entries.append(("failed", Line2D([], [], ls="", marker="x", color=style.GREY, ms=5)))
    names, handles = zip(*entries, strict=True)
    style.legend(figure, handles, names)


def _grey(shape: str) -> Line2D:
    return Line2D([], [], ls="", marker=shape, ms=5.5, mfc="#CCCCCC", mec="black", mew=0.5)
