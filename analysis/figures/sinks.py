"""Attention sinks (paper, figures 7 to 9): keys that many queries look at and whose value says little.

A key is a sink when alpha, the mean attention probability that it receives, is above 0.1 and the norm of its value is
below median - 2 x interquartile range of its head; for compression, keys are blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from analysis.figures import style
from analysis.figures.probes import COLUMNS, ORDER, by_branch, draw_probes, first_probe, tell

WIDE = 20  # times the smallest share: beyond, shares are shown on a logarithmic axis
LINEAR = 0.5  # of a decade's height, from 0 to the smallest share's decade
POWERS = 5  # of ten at such an axis
ALPHA = 0.1  # a sink's least mean attention probability


def draw(sinks: pd.DataFrame) -> Figure:
    """Sink ratio by layer, one panel a probe, from Results.sinks. Raises ValueError when there is none."""
    return draw_probes(sinks[sinks["ratio"].notna()], "with sinks", "sinks (% of keys)", _ratios, _scale)


def _ratios(axes: Axes, here: pd.DataFrame) -> None:
    branches = list(by_branch(here))
    for i, (rows, look) in enumerate(branches):
        nudge = 0.09 * (i - (len(branches) - 1) / 2)  # so that the many zeros stay visible beside each other
        axes.plot(rows["layer"] + nudge, 100 * rows["ratio"].astype(float), clip_on=False, **look)


def _scale(axes: Axes, every: pd.DataFrame) -> None:
    """From 0, as many layers have no sink; logarithmic above the smallest share where shares are of several sizes."""
    shares = 100 * every["ratio"].astype(float)
    top, least = float(shares.max()), float(shares[shares > 0].min()) if shares.any() else 0.0
    if top <= WIDE * least or not least:
        axes.set_ylim(0, max(0.1, 1.1 * top))
        return
    power = int(np.floor(np.log10(least)))
    axes.set_yscale("symlog", linthresh=10.0**power, linscale=LINEAR)
    powers = range(power, int(np.ceil(np.log10(top))) + 1)
    step = -(-len(powers) // POWERS)
    axes.yaxis.set_major_locator(FixedLocator([0, *(10.0**n for n in powers[::step])]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylim(0, 1.5 * top)


def draw_points(points: pd.DataFrame) -> Figure:
    """Value norm against alpha of sampled keys of the first probe, one panel a branch, coloured by position.

    From Results.points. Raises ValueError when there is none.
    """
    points = points.dropna(subset=["alpha", "v_norm"])
    points, label = first_probe(points)
    branches = [branch for branch in ORDER if branch in set(points["branch"])]
    if not branches:
        raise ValueError("no probe with sampled keys")
    columns = min(COLUMNS, len(branches))
    width = style.COLUMN_WIDTH if columns == 1 else style.TEXT_WIDTH
    figure, panels = style.panels(len(branches), columns, width, 2.1, sharex=True, sharey=True)
    for i, (branch, axes) in enumerate(zip(branches, panels, strict=True)):
        _scatter(axes, points[points["branch"] == branch], points)
        axes.set_title(style.BRANCH_NAMES[branch])
        axes.set_xlabel("attention received α")
        axes.tick_params(labelbottom=True)
        if i % columns == 0:
            axes.set_ylabel("value norm |v|")
    bar = style.colour_bar(figure, Normalize(0, 1), panels, "position in the video", pad=0.015, aspect=25)
    bar.set_ticks([0, 1], labels=["start", "end"])
    ring = Line2D([], [], ls="", marker="o", ms=4, mfc="none", mec=style.VERMILION, mew=0.6)
    line = Line2D([], [], color=style.GREY, lw=0.7, ls=":")
    style.legend(figure, [ring, line], ["sink (kept first; the others are a sample)", f"α = {ALPHA}"])
    tell(figure, label)
    return figure


def _scatter(axes: Axes, here: pd.DataFrame, every: pd.DataFrame) -> None:
    alpha = here["alpha"].astype(float).clip(lower=1e-6)
    axes.scatter(alpha, here["v_norm"], c=here["position"], cmap=style.SCORES, vmin=0, vmax=1, s=5, lw=0)
    sinks = here["sink"].astype(bool).to_numpy()
    axes.scatter(alpha[sinks], here["v_norm"][sinks], s=14, facecolors="none", edgecolors=style.VERMILION, lw=0.6)
    axes.axvline(ALPHA, color=style.GREY, lw=0.7, ls=":", zorder=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: style.power_of_ten(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    low = 10 ** np.floor(np.log10(max(1e-6, float(every["alpha"].min()))))
    axes.set_xlim(low, max(1.5, 1.3 * float(every["alpha"].max())))  # the gated sum may exceed 1
    axes.set_ylim(0, 1.05 * float(every["v_norm"].max()))


def draw_positions(arrays: Mapping[str, Any]) -> Figure:
    """Density of sinks over the video, a panel a branch: the share of keys at a place that are sinks over that of all.

    From the arrays of the observer `sinks`, over layers. Raises ValueError when no key was counted.
    """
    counts = {branch: arrays[branch].sum(0) for branch in ORDER if branch in arrays}
    branches = [branch for branch in counts if counts[branch][1].any()]
    if not branches:
        raise ValueError("no probe with places of sinks")
    columns = min(COLUMNS, len(branches))
    width = style.COLUMN_WIDTH if columns == 1 else style.TEXT_WIDTH
    figure, panels = style.panels(len(branches), columns, width, 1.75, sharex=True)
    for i, (branch, axes) in enumerate(zip(branches, panels, strict=True)):
        _density(axes, counts[branch], branch)
        axes.tick_params(labelbottom=True)
        axes.set_xticks([0, 0.5, 1], ["start", "middle", "end"])
        if i % columns == 0:
            axes.set_ylabel("sinks, density")
    line = Line2D([], [], color=style.GREY, lw=0.7, ls=":")
    style.legend(figure, [line], ["1: as many as at any place, were they spread evenly"])
    tell(figure, arrays.get("label", ""))
    return figure


def _density(axes: Axes, counts: np.ndarray, branch: str) -> None:
    sinks, keys = counts
    there = keys > 0  # a short video has places without a block
    places = ((np.arange(len(keys)) + 0.5) / len(keys))[there]
    share = sinks.sum() / keys.sum()
    density = sinks[there] / keys[there] / (share or 1)
    colour = style.BRANCH_COLOURS[branch]
    axes.fill_between(places, density, color=colour, alpha=0.15, lw=0)
    axes.plot(places, density, color=colour, lw=0.9, clip_on=False)
    axes.axhline(1, color=style.GREY, lw=0.7, ls=":", zorder=0)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, max(1.5, 1.05 * float(density.max())))
    axes.set_title(f"{style.BRANCH_NAMES[branch]}: " + (f"{100 * share:.2g} % of keys" if share else "no sinks"))
