"""Time of each method against length (paper, figure 26), from the measurements that `prefills` shows at one length."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from analysis.figures import style
from analysis.figures.prefills import NAMES, read, setting

__all__ = ["draw", "read"]


def draw(table: pd.DataFrame) -> Figure:
    """A panel for each kind of data, a line a method: one layer's attention, the choice of keys included."""
    table = table.dropna(subset=["total_ms"]).drop_duplicates(["method", "data", "length"], keep="last")
    if not len(table):
        raise ValueError("no measurement")
    kinds, methods = (list(dict.fromkeys(table[name])) for name in ("data", "method"))
    figure = style.new_figure(style.TEXT_WIDTH, 2.4)
    style.setting(figure, setting(table.drop(columns="length")))
    panels = figure.subplots(1, len(kinds), squeeze=False, sharex=True, sharey=True)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        for i, method in enumerate(methods):
            own = table[(table["data"] == kind) & (table["method"] == method)].sort_values("length")
            axes.plot(own["length"], own["total_ms"], color=style.SERIES[i % 7], marker=style.MARKERS[i % 7], ms=3.2)
        axes.set_yscale("log")
        style.log_axis(axes, "x", table["length"])
        axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.grid(axis="y", lw=0.4, color="#DDDDDD")
        axes.set_title(style.drawable(f"{kind} data"))
        axes.set_xlabel("length (tokens)")
    panels[0].set_ylabel("time of one layer (ms)")
    shown = style.names(NAMES.get(name, name) for name in methods)
    style.legend(figure, panels[0].get_lines(), shown, 6)
    return figure
