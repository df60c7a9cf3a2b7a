"""Recall by layer: the share of dense attention probability on the keys that each method keeps, a line a variant.

Dotted in the same colour: the keys of highest probability, as many for each query as the method keeps. What lies
between the two lines is lost by the choice, and what lies above the dotted one by its size.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.figures import style
from analysis.figures.probes import left_out

QUERIES = {"vision": "vision queries", "text": "text queries"}
MOST = 3  # probes; a sweep with more shows its first ones and says so
LINES = len(style.SERIES)  # variants that a colour and a marker tell apart; further ones have dashes


def draw(recall: pd.DataFrame) -> Figure:
    """From Results.recall: a row of panels a probe, vision and text. Raises ValueError when there is none."""
    probes = list(dict.fromkeys(recall["probe"])) if len(recall) else []
    if not probes:
        raise ValueError("no probe with recall")
    shown = probes[:MOST]
    figure, panels, _ = style.layer_panels(2 * len(shown), 2, "dense attention kept (%)")
    titles = style.probe_titles(recall)
    variants = list(dict.fromkeys(recall["variant"]))
    for i, probe in enumerate(shown):
        for axes, (part, name) in zip(panels[2 * i : 2 * i + 2], QUERIES.items(), strict=True):
            here = recall[(recall["probe"] == probe) & (recall["part"] == part)]
            _panel(axes, here, variants)
            axes.set_title(f"{titles[probe]}: {name}")
    labels = style.names(variants, style.TEXT_WIDTH / 3 - 0.4)
    handles = [Line2D([], [], **_look(i)) for i in range(len(labels))]
    handles.append(Line2D([], [], color=style.GREY, ls=":", lw=0.9))
    style.legend(figure, handles, [*labels, "best keys, as many"], 3, **left_out(MOST, len(probes)))
    return figure


def _panel(axes: Axes, here: pd.DataFrame, variants: list[str]) -> None:
    for variant, rows in here.groupby("variant", sort=False):
        rows, look = rows.sort_values("layer"), _look(variants.index(str(variant)))
        axes.plot(rows["layer"], 100 * rows["best"].astype(float), color=look["color"], ls=":", lw=0.9)
        axes.plot(rows["layer"], 100 * rows["mass"].astype(float), clip_on=False, **look)
    axes.set_ylim(0, 105)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))


def _look(number: int) -> dict:
    return {
        "color": style.SERIES[number % LINES],
        "marker": style.MARKERS[number % LINES],
        "ls": "-" if number < LINES else "--",
        "ms": 3.2,
        "lw": 0.9,
    }
