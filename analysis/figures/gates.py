"""Gates by layer (paper, figures 4 and 17): mean and interquartile range over heads and vision tokens, per branch."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from analysis.figures import style
from analysis.figures.probes import draw_probes

FEW = 8  # layers up to which quartiles are bars side by side: bands of few layers cover each other


def draw(gates: pd.DataFrame) -> Figure:
    """From Results.gates: one panel a probe. Raises ValueError when there is none."""
    return draw_probes(gates, "with gates", "gate: mean, quartiles", _panel)


def _panel(axes: Axes, here: pd.DataFrame) -> None:
    few = here["layer"].nunique() <= FEW
    branches = list(here.groupby("branch", sort=False))
    for i, (name, rows) in enumerate(branches):
        rows = rows.sort_values("layer")
        colour = style.BRANCH_COLOURS.get(str(name), style.PURPLE)
        layers = rows["layer"] + (0.1 * (i - (len(branches) - 1) / 2) if few else 0.0)
        if few:
            axes.vlines(layers, rows["q25"], rows["q75"], color=colour, alpha=0.35, lw=3)
        else:
            axes.fill_between(layers, rows["q25"], rows["q75"], color=colour, alpha=0.15, lw=0)
        axes.plot(
            layers,
            rows["mean"],
            color=colour,
            marker=style.BRANCH_MARKERS.get(str(name), "x"),
            ms=3.2,
            lw=0.8 if few else 1.1,
            label=style.BRANCH_NAMES.get(str(name), str(name)),
        )
    axes.set_ylim(0, max(1.0, 1.05 * float(here["q75"].max())))  # fixed gates may be above 1
    axes.yaxis.set_major_locator(MultipleLocator(0.5))
    axes.axhline(0.5, color=style.GREY, lw=0.5, ls=":", zorder=0)  # where a fresh gate starts
