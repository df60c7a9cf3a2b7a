"""Milliseconds of each branch by layer, as a probe timed them in the model's own layers."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import style
from analysis.figures.probes import by_branch, draw_probes


def draw(latency: pd.DataFrame) -> Figure:
    """From Results.latency: one panel a probe. Raises ValueError when there is none."""
    return draw_probes(latency, "that timed the branches", "ms, median over videos", _times, _scale)


def _times(axes: Axes, here: pd.DataFrame) -> None:
    for rows, look in by_branch(here):
        axes.plot(rows["layer"], rows["ms"], **look)
    device, tokens = here["device"].iloc[0], here["tokens"].iloc[0]
    axes.set_title(f"{axes.get_title()}\n{style.drawable(device)}, {tokens:,.0f} tokens")


def _scale(axes: Axes, _: pd.DataFrame) -> None:
    style.log_scale(axes, "y")
