"""What figures of probes have in common: a panel a probe, layers along x, and branches that look alike everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures import style

COLUMNS = 3
MOST = 12  # panels; a sweep with more probes shows its first ones and says so
ORDER = ("cmp", "slc", "swa", "gated", "dense")
Drawer = Callable[[Axes, pd.DataFrame], None]


def draw_probes(rows: pd.DataFrame, has: str, ylabel: str, panel: Drawer, scale: Drawer, note: str = "") -> Figure:
    """`panel` draws the rows of one probe, below a title, and `scale` sets the one vertical axis of all that are drawn.

    A note stands above the legend. Raises ValueError when there is no probe `has`.
    """
    probes = list(dict.fromkeys(rows["probe"]))
    if not probes:
        raise ValueError(f"no probe {has}")
    shown = probes[:MOST]
    figure, panels, columns = style.layer_panels(len(shown), COLUMNS, ylabel)
    titles = style.probe_titles(rows, columns)
    for probe, axes in zip(shown, panels, strict=True):
        axes.set_title(titles[probe])
        panel(axes, rows[rows["probe"] == probe])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    scale(panels[0], rows[rows["probe"].isin(shown)])
    style.legend(figure, *_entries(panels), notes=(note, left_out(MOST, len(probes))), grow=True)
    return figure


def _entries(panels: list[Axes]) -> tuple[list[Any], list[str]]:
    """Handles and labels of the legend: a probe may lack a branch that others have."""
    every: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        every = dict(zip(labels, handles, strict=True)) | every
    known = [name for name in style.BRANCH_NAMES.values() if name in every]
    order = [*known, *(name for name in every if name not in known)]
    return [every[name] for name in order], order


def left_out(most: int, probes: int) -> str:
    """How many of the probes are shown; '' where all are."""
    return f"{most} of {probes} probes shown" if probes > most else ""


def first_probe(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The rows of the first probe, and what it is called where there are others."""
    if not len(rows):
        return rows, ""
    here = rows[rows["probe"] == rows["probe"].iloc[0]]
    return here, "" if len(here) == len(rows) else str(here["label"].iloc[0])


def tell(figure: Figure, label: str) -> None:
    """Above a figure of one of several probes, which one it is of."""
    if label:
        style.setting(figure, f"of {label}")


def by_branch(rows: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, dict[str, Any]]]:
    """The rows of each branch that is there, by layer, and how its line looks."""
    for branch in [branch for branch in ORDER if branch in set(rows["branch"])]:
        colour, marker = style.BRANCH_COLOURS[branch], style.BRANCH_MARKERS[branch]
        here = rows[rows["branch"] == branch].sort_values("layer")
        look = {"color": colour, "marker": marker, "ms": style.marker_size(len(here)), "lw": 0.9}
        yield here, {**look, "label": style.BRANCH_NAMES[branch]}
