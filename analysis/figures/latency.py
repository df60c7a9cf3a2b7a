"""Milliseconds of each branch by layer, as a probe timed them in the model's own layers."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from analysis.figures import style
from analysis.figures.sinks import COLUMNS, MOST, ORDER


def draw(latency: pd.DataFrame) -> Figure:
    """From Results.latency: one panel a probe. Raises ValueError when there is none."""
    probes = list(dict.fromkeys(latency["probe"]))[:MOST]
    if not probes:
        raise ValueError("no probe that timed the branches")
    figure, panels, columns = style.layer_panels(len(probes), COLUMNS, "ms, median over videos")
    titles = style.probe_titles(latency)
    for probe, axes in zip(probes, panels, strict=True):
        here = latency[latency["probe"] == probe]
        for branch in [name for name in ORDER if name in set(here["branch"])]:
            rows = here[here["branch"] == branch].sort_values("layer")
            look: dict[str, Any] = {
                "color": style.BRANCH_COLOURS[branch],
                "marker": style.BRANCH_MARKERS[branch],
                "ms": 3.2,
                "lw": 0.9,
            }
            axes.plot(rows["layer"], rows["ms"], label=style.BRANCH_NAMES[branch], **look)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        device, tokens = here["device"].iloc[0], here["tokens"].iloc[0]
        axes.set_title(f"{titles[probe]}\n{style.drawable(device)}, {tokens:,.0f} tokens")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names) if columns > 1 else 3)
    return figure
