"""Sinks by block size and window (paper, figure 27), a panel a branch: the share of keys, as a mean over layers."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import style
from analysis.figures.probes import COLUMNS, ORDER


def draw(sinks: pd.DataFrame) -> Figure:
    """From Results.sinks with the columns block_size and window of each probe. ValueError where there is none."""
    means = sinks.groupby(["branch", "block_size", "window"])["ratio"].mean().mul(100).reset_index()
    branches = [branch for branch in ORDER if branch in set(means["branch"])]
    if not branches:
        raise ValueError("no probe with sinks")
    columns = min(COLUMNS, len(branches))
    figure, panels = style.panels(len(branches), columns, style.TEXT_WIDTH, 1.75, sharex=True)
    sizes = sorted(means["block_size"].unique())
    for i, (branch, axes) in enumerate(zip(branches, panels, strict=True)):
        for size, colour, marker in zip(sizes, style.SERIES, style.MARKERS, strict=False):
            own = means[(means["branch"] == branch) & (means["block_size"] == size)].sort_values("window")
            axes.plot(own["window"], own["ratio"], color=colour, marker=marker, ms=3.5, label=f"s = {size:g}")
        style.log_axis(axes, "x", means["window"])
        axes.set_ylim(0, max(0.1, 1.1 * float(means.loc[means["branch"] == branch, "ratio"].max())))
        axes.set_title(style.BRANCH_NAMES[branch])
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("window w (tokens)")
        if i % columns == 0:
            axes.set_ylabel("sinks (% of keys)")
    handles, names = panels[0].get_legend_handles_labels()
    style.legend(figure, handles, names)
    return figure
