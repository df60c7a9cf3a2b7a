"""Gates by layer (paper, figures 4 and 17): mean and interquartile range over heads and vision tokens, per branch."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from analysis.figures import style
from analysis.figures.probes import draw_probes

SHUT = 0.01  # a gate below is shut, and one this near to 1 is open
ROOM = 0.05  # of the axis beyond 0 and the top: a median there is a dash
SATURATED = "quartiles at 0 and 1: at least a quarter of gates shut, a quarter open"
FEW = 8  # layers up to which a median, the dash, has room


def draw(gates: pd.DataFrame) -> Figure:
    """From Results.gates: one panel a probe. Raises ValueError when there is none."""
    note = SATURATED if ((gates["q25"] < SHUT) & (gates["q75"] > 1 - SHUT)).any() else ""
    return draw_probes(gates, "with gates", "gate: mean, quartiles", _panel, _scale, note)


def _panel(axes: Axes, here: pd.DataFrame) -> None:
    """Quartiles are bars side by side: bands of saturated gates would cover each other."""
    layers = here["layer"].nunique()
    few = layers <= FEW
    branches = list(here.groupby("branch", sort=False))
    for i, (name, rows) in enumerate(branches):
        rows = rows.sort_values("layer")
        colour = style.BRANCH_COLOURS.get(str(name), style.PURPLE)
        places = rows["layer"] + (0.1 if few else 0.25) * (i - (len(branches) - 1) / 2)
        axes.vlines(places, rows["q25"], rows["q75"], color=colour, alpha=0.3, lw=2.5 if few else 0.9)
        if few:
            axes.plot(places, rows["median"], color=colour, ls="", marker="_", ms=5, mew=1.2)
        look: dict[str, Any] = {
            "marker": style.BRANCH_MARKERS.get(str(name), "x"),
            "ms": style.marker_size(layers),
            "lw": 0.9,
        }
        axes.plot(places, rows["mean"], color=colour, label=style.BRANCH_NAMES.get(str(name), str(name)), **look)
    if few:
        axes.plot([], [], color=style.GREY, ls="", marker="_", ms=5, mew=1.2, label="median")
    axes.axhline(0.5, color=style.GREY, lw=0.5, ls=":", zorder=0)  # where a fresh gate starts


def _scale(axes: Axes, every: pd.DataFrame) -> None:
    top = max(1.0, float(every["q75"].max()))  # fixed gates may be above 1
    axes.set_ylim(-ROOM * top, (1 + ROOM) * top)
    axes.yaxis.set_major_locator(MultipleLocator(0.5))
