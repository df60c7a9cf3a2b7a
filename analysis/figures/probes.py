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


def draw_probes(rows: pd.DataFrame, has: str, ylabel: str, panel: Callable[[Axes, pd.DataFrame], None]) -> Figure:
    """`panel` draws the rows of one probe, below a title. Raises ValueError when there is no probe `has`."""
    probes = list(dict.fromkeys(rows["probe"]))
    if not probes:
        raise ValueError(f"no probe {has}")
    shown = probes[:MOST]
    figure, panels, _ = style.layer_panels(len(shown), COLUMNS, ylabel)
    titles = style.probe_titles(rows)
    for probe, axes in zip(shown, panels, strict=True):
        axes.set_title(titles[probe])
        panel(axes, rows[rows["probe"] == probe])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    style.legend(figure, *panels[0].get_legend_handles_labels(), **left_out(MOST, len(probes)))
    return figure


def left_out(most: int, probes: int) -> dict[str, Any]:
    """The title of a legend that says how many of the probes are shown; none where all are."""
    return {"title": f"{most} of {probes} probes shown", "title_fontsize": style.SMALL} if probes > most else {}


def by_branch(rows: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, dict[str, Any]]]:
    """The rows of each branch that is there, by layer, and how its line looks."""
    for branch in [branch for branch in ORDER if branch in set(rows["branch"])]:
        colour, marker = style.BRANCH_COLOURS[branch], style.BRANCH_MARKERS[branch]
        look = {"color": colour, "marker": marker, "ms": 3.2, "lw": 0.9, "label": style.BRANCH_NAMES[branch]}
        yield rows[rows["branch"] == branch].sort_values("layer"), look
