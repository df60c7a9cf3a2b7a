"""What accuracy costs, method by method: against the pairs computed and the prefill's time, with the Pareto front.

One column a suite. The front goes through the points that no other beats at a lower or equal cost, by the estimates. A
point is pale where another at no higher cost has an interval above its own: that one is beaten beyond chance; of the
others the front does not say which is best. In a sweep of groups (a grid's `within`) each has a front, by its name.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.figures import style
from analysis.figures.cost import panels
from analysis.rows import each
from videonsa.methods.registry import entries

COLUMNS = 3  # suites side by side
LEGEND_WIDTH = 1.3  # inches of an entry
COSTS = {"computed": "pairs computed (% of dense)", "prefill_ms": "prefill (ms)"}
COLOURS = {
    "nsa": style.VERMILION,
    "dense": style.BLACK,
    "sparse": style.BLUE,
    "tokens": style.GREEN,
    "control": style.GREY,
    "bound": style.PURPLE,
}
NAMES = {"paper": "NSA", "release": "NSA (release)"}  # what readers know them by
PALE = 0.3
WIDE = 4  # times the smallest cost: beyond, costs are shown on a logarithmic axis


def draw(rows: pd.DataFrame) -> Figure:
    """From the tidy table; ValueError when no cost was measured at which the finished cells differ."""
    done = rows[rows["status"] == "done"].copy()
    known = done["density"].astype(float) + done["block_means"].astype(float).fillna(0)
    done["computed"] = 100 * known.fillna(done["attention_fraction"].astype(float))
    costs = [name for name in COSTS if done[name].dropna().nunique() > 1]
    if not costs:
        raise ValueError("no cost that differs between finished cells")
    looks = _looks(done)
    width = max(style.COLUMN_WIDTH, 1.85 * min(COLUMNS, done["suite"].nunique()))
    width = min(style.TEXT_WIDTH, max(width, 3 * LEGEND_WIDTH if len(looks) > 8 else 0))
    legend_columns = int(width / LEGEND_WIDTH)
    legend_rows = -(-(len(looks) + 1) // legend_columns)
    figure = panels(done, costs, partial(_panel, looks=looks), COLUMNS, width, 1.8, 0.2 * legend_rows + 0.2)
    handles = [
        Line2D([], [], color=colour, marker=marker, ms=4.2, lw=0, mec="white", mew=0.4)
        for colour, marker in looks.values()
    ]
    front = Line2D([], [], color=style.GREY, lw=0.8)
    shown = style.names([NAMES.get(name, name) for name in looks], width / legend_columns - 0.4)
    style.legend(figure, [*handles, front], [*shown, "Pareto front"], legend_columns)
    return figure


def _looks(done: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """(colour of its kind, marker of its own) of each method, in the order of the registry."""
    known = {name: entry.kind for name, entry in entries().items()}
    names = [name for name in known if name in set(done["method"])]
    names += sorted(set(done["method"].dropna()) - set(names))  # of packages that are not here
    of_kind: dict[str, int] = {}
    looks = {}
    for name in names:
        kind = known.get(name, "sparse")
        looks[name] = COLOURS[kind], style.MARKERS[of_kind.setdefault(kind, 0) % len(style.MARKERS)]
        of_kind[kind] += 1
    return looks


def front(cost: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Indices of the points that no other beats at a lower or equal cost, by rising cost."""
    best, found = -np.inf, []
    for i in np.lexsort((-accuracy, cost)):
        if accuracy[i] > best:
            best = accuracy[i]
            found.append(i)
    return np.array(found, dtype=int)


def beaten(cost: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Whether another point at no higher cost has an interval that lies above the point's own."""
    return np.any((cost[None] <= cost[:, None]) & (low[None] > high[:, None]), axis=1)


def _panel(axes: Axes, here: pd.DataFrame, cost: str, looks: dict[str, tuple[str, str]]) -> None:
    known = here[here[cost].notna()]
    if not len(known):
        return
    for group, own in known.groupby("group", sort=False, dropna=False):
        _front(axes, own, cost, looks, "" if pd.isna(group) else str(group))
    costs = known[cost].astype(float)
    if costs.max() > WIDE * costs.min() > 0:
        style.log_scale(axes, "x")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel(COSTS[cost])
    axes.margins(x=0.08)


def _front(axes: Axes, known: pd.DataFrame, cost: str, looks: dict[str, tuple[str, str]], name: str) -> None:
    """The points of one group, and the front through them."""
    costs, accuracy = known[cost].to_numpy(float), 100 * known["accuracy"].to_numpy(float)
    low, high = (100 * known[name].to_numpy(float) for name in ("low", "high"))
    pale = beaten(costs, low, high)
    best = front(costs, accuracy)
    axes.plot(costs[best], accuracy[best], color=style.GREY, lw=0.8, drawstyle="steps-post", zorder=1)
    start = costs[best[0]], accuracy[best[0]]
    axes.annotate(name, start, xytext=(2, 2), textcoords="offset points", fontsize=5.5, color="#444444")
    for i, row in enumerate(each(known)):
        colour, marker = looks[row.method]
        alpha = PALE if pale[i] else 1.0
        if not np.isnan(low[i]):
            axes.plot([costs[i]] * 2, [low[i], high[i]], color=colour, lw=0.7, alpha=0.5 * alpha, zorder=2)
        axes.plot([costs[i]], [accuracy[i]], marker, ms=4.2, mfc=colour, mec="white", mew=0.4, alpha=alpha, zorder=3)
