"""Accuracy against the length of the context, a line a variant and a panel a suite (the paper's scaling to 128K).

Of sweeps whose groups (a grid's `within`) are context lengths. Behind the dotted line are lengths that no training has
shown. K is 1,024 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from analysis.figures import style
from analysis.rows import each, groups_of

COLUMNS = 4  # suites side by side
NEXT = 0.035  # octaves between the intervals of two variants
TRAINED = "trained"  # marks a panel with the line that says how long training videos were
ROOM = 9  # points of accuracy below the lowest interval: for the name of a line there
HEIGHT = 1.75  # inches of a panel


def draw(rows: pd.DataFrame) -> Figure:
    """From the tidy table (analysis.compared.compare); ValueError where groups are no lengths, or lines too many."""
    done = rows[(rows["status"] == "done") & rows["group"].notna()]
    done = done.assign(tokens=done["frames"].astype(float) / 2 * done["tokens_per_frame"].astype(float))
    done = done.dropna(subset="tokens")  # what was not asked here does not say
    if len(groups_of(done)) < 2 or done.groupby("group")["tokens"].nunique().max() > 1 or done["tokens"].nunique() < 2:
        raise ValueError("no groups of two or more context lengths")
    names = style.reference_first(done["name"], done["is_reference"])
    if len(names) > len(style.SERIES):
        raise ValueError(f"{len(names)} variants are more lines than can be told apart")
    suites = list(dict.fromkeys(done["suite"]))
    columns = style.side_by_side(len(suites), COLUMNS, style.TEXT_WIDTH / COLUMNS, HEIGHT)
    width = max(style.COLUMN_WIDTH, style.text_width(columns, COLUMNS) * columns / COLUMNS)
    figure, panels = style.panels(len(suites), columns, width, HEIGHT + 0.3, sharey=True)
    low, high = 100 * done["low"].astype(float).min(), 100 * done["high"].astype(float).max()
    panels[0].set_ylim(max(-3, low - ROOM), min(103, high + 5))
    for number, (suite, axes) in enumerate(zip(suites, panels, strict=True)):
        here = done[done["suite"] == suite]
        _lines(axes, here, names)
        level = rows[(rows["suite"] == suite) & (rows["attention"] != "dense")]
        style.reference_lines(axes, level, below=True, left=_near_chance_at_the_end(here))
        axes.set_title(style.suite_title(suite, style.TEXT_WIDTH / COLUMNS), pad=9)
        axes.set_xlabel("vision tokens")
        if number % columns == 0:
            axes.set_ylabel("accuracy (%)")
    _legend(figure, names, style.seeds_entry(done, vertical=True), any(axes.get_gid() == TRAINED for axes in panels))
    return figure


def _near_chance_at_the_end(here: pd.DataFrame) -> bool:
    """A point stands where the line of chance would be named."""
    last = here[here["tokens"] == here["tokens"].max()]
    return bool(((last["accuracy"] - last["chance"]).abs() < ROOM / 100).any())


def _lines(axes: Axes, here: pd.DataFrame, names: Sequence[str]) -> None:
    axes.set_xscale("log", base=2)
    for number, name in enumerate(names):
        own = here[here["name"] == name].sort_values("tokens")
        colour, marker = style.SERIES[number], style.MARKERS[number]
        beside = 2 ** ((number - (len(names) - 1) / 2) * NEXT * 2)
        scores = 100 * own["accuracy"].astype(float)
        axes.plot(own["tokens"] * beside, scores, color=colour, marker=marker, ms=3.6, lw=1.1, zorder=3)
        for row in each(own):
            if pd.notna(row.low):
                ends = [100 * row.low, 100 * row.high]
                axes.plot([row.tokens * beside] * 2, ends, color=colour, lw=0.8, alpha=0.6)
            style.seed_ticks(axes, row, row.tokens * beside, colour, vertical=True)
    ticks = sorted(set(here["tokens"]))
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ticks, [style.short(tick) for tick in ticks])
    trained = (here["train_frames"].astype(float) / 2 * here["tokens_per_frame"].astype(float)).max()
    if ticks[0] <= trained < ticks[-1]:
        axes.axvline(trained * 2**0.5, color=style.GREY, lw=0.7, ls=":", zorder=1)
        axes.set_gid(TRAINED)
    axes.set_xlim(ticks[0] / 2**0.35, ticks[-1] * 2**0.35)


def _legend(figure: Figure, names: Sequence[str], entries: dict[str, Line2D], beyond: bool) -> None:
    lines = [
        Line2D([], [], color=style.SERIES[number], marker=style.MARKERS[number], ms=3.6, lw=1.1)
        for number in range(len(names))
    ]
    if beyond:
        entries["right of it: longer than in training"] = Line2D([], [], color=style.GREY, lw=0.7, ls=":")
    style.legend(figure, [*lines, *entries.values()], [*style.names(names, style.LEGEND_WIDTH), *entries])
