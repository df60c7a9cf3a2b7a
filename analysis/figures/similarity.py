"""How alike heads gate (paper, figures 5 and 20): correlation of two heads' gates over tokens, by layer and branch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures import style

SHOWN = 4  # layers of figure 5, evenly from the first to the last
ACROSS = 10  # layers in a row of figure 20
MAP, RANGE = "RdBu_r", Normalize(-1, 1)
UNKNOWN = "#AAAAAA"  # a head whose gates do not vary has no correlation


def draw(arrays: Mapping[str, np.ndarray]) -> Figure:
    """Heat maps of some layers, and the mean off the diagonal by layer; arrays: {branch: [layers, Hq, Hq]}.

    Raises ValueError when there is none.
    """
    branches = _branches(arrays)
    layers = len(arrays[branches[0]])
    shown = sorted({round(place) for place in np.linspace(0, layers - 1, min(SHOWN, layers))})
    figure = style.new_figure(style.TEXT_WIDTH, 1.15 * len(branches) + 1.7)
    upper, lower = figure.subfigures(2, 1, height_ratios=[1.15 * len(branches) + 0.2, 1.5], squeeze=False)[:, 0]
    panels = upper.subplots(len(branches), len(shown), squeeze=False)
    for row, branch in zip(panels, branches, strict=True):
        row[0].set_ylabel(f"{style.BRANCH_NAMES[branch]}\nhead")
        for axes, layer in zip(row, shown, strict=True):
            _heat(axes, arrays[branch][layer])
    for axes, layer in zip(panels[0], shown, strict=True):
        axes.set_title(f"layer {layer}")
    for axes in panels[-1]:
        axes.set_xlabel("head")
    _bar(upper, panels)
    _by_layer(lower.subplots(), arrays, branches)
    return figure


def draw_all(arrays: Mapping[str, np.ndarray]) -> Figure:
    """Heat maps of every layer, a panel a branch. Raises ValueError when there is none."""
    branches = _branches(arrays)
    layers = len(arrays[branches[0]])
    across = min(ACROSS, layers)
    rows = -(-layers // across)
    figure = style.new_figure(style.TEXT_WIDTH, len(branches) * (0.3 + 0.56 * rows * ACROSS / max(across, 5)))
    panels = figure.subplots(len(branches), 1, squeeze=False)
    for axes, branch in zip(panels[:, 0], branches, strict=True):
        _tiles(axes, arrays[branch], across)
        axes.set_title(f"{style.BRANCH_NAMES[branch]}: layers 0 to {layers - 1}, head by head")
    _bar(figure, panels)
    return figure


def _branches(arrays: Mapping[str, np.ndarray]) -> list[str]:
    branches = [name for name in style.BRANCH_NAMES if name in arrays and len(arrays[name])]
    if not branches:
        raise ValueError("no probe with similarity of gates")
    return branches


def _heat(axes: Axes, correlation: np.ndarray) -> None:
    style.heat(axes, correlation, RANGE, MAP, UNKNOWN)
    axes.set_aspect("equal")
    ends = [0, len(correlation) - 1]
    axes.set_xticks([end + 0.5 for end in ends], labels=map(str, ends))
    axes.set_yticks([end + 0.5 for end in ends], labels=map(str, ends))


def _tiles(axes: Axes, correlations: np.ndarray, across: int) -> None:
    """The layers side by side, with their numbers above; a picture, as 66,000 squares are too many."""
    heads = correlations.shape[1]
    gap, above = max(1, heads // 8), max(1, heads // 4)
    rows = -(-len(correlations) // across)
    colours = colormaps[MAP].with_extremes(bad=UNKNOWN)
    whole = np.ones((rows * (heads + above), across * (heads + gap) - gap, 4))
    for layer, correlation in enumerate(correlations):
        top, left = (layer // across) * (heads + above) + above, (layer % across) * (heads + gap)
        whole[top : top + heads, left : left + heads] = colours(RANGE(np.ma.masked_invalid(correlation)))
        axes.text(left + heads / 2 - 0.5, top - 0.12 * above - 0.5, str(layer), ha="center", va="bottom", fontsize=5)
    axes.imshow(whole, interpolation="nearest", rasterized=True)
    axes.axis("off")


def _bar(figure: Figure, panels: np.ndarray) -> None:
    style.colour_bar(figure, RANGE, list(panels.flat), "correlation of gates", MAP, pad=0.015, aspect=30, shrink=0.8)


def _by_layer(axes: Axes, arrays: Mapping[str, np.ndarray], branches: list[str]) -> None:
    for branch in branches:
        means = [_off_diagonal(correlation) for correlation in arrays[branch]]
        axes.plot(
            range(len(means)),
            means,
            color=style.BRANCH_COLOURS[branch],
            marker=style.BRANCH_MARKERS[branch],
            ms=3.2,
            label=style.BRANCH_NAMES[branch],
        )
    axes.axhline(0, color=style.GREY, lw=0.5, ls=":", zorder=0)
    axes.set_ylabel("mean correlation\nof two heads")
    axes.set_xlabel("layer")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.legend(ncols=len(branches), loc="lower center", bbox_to_anchor=(0.5, 1.0))


def _off_diagonal(correlation: np.ndarray) -> float:
    pairs = correlation[~np.eye(len(correlation), dtype=bool)]
    pairs = pairs[~np.isnan(pairs)]
    return float(pairs.mean()) if len(pairs) else float("nan")
