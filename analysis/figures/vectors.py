"""Where videos lie by their gates (paper, figure 25): principal components of each video's mean gates."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures import style


def draw(benchmarks: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """A panel a branch, a point a video, coloured by benchmark.

    benchmarks: {title: {branch: [videos, layers, Hq]}}. Of each branch one analysis over all videos of all benchmarks.
    Raises ValueError with fewer than three videos: two lie on a line whatever they are.
    """
    branches = [name for name in style.BRANCH_NAMES if all(name in arrays for arrays in benchmarks.values())]
    videos = sum(len(arrays[branches[0]]) for arrays in benchmarks.values()) if branches else 0
    if videos < 3:
        raise ValueError(f"fewer than three videos with mean gates: {videos}")
    figure, panels = style.panels(len(branches), 3, style.TEXT_WIDTH, 2.1)
    for axes, branch in zip(panels, branches, strict=True):
        parts = [arrays[branch].reshape(len(arrays[branch]), -1) for arrays in benchmarks.values()]
        places, shares = components(np.concatenate(parts))
        starts = np.cumsum([0, *map(len, parts)])
        for number, title in enumerate(benchmarks):
            here = places[starts[number] : starts[number + 1]]
            colour, marker = (kinds[number % len(kinds)] for kinds in (style.SERIES, style.MARKERS))
            axes.scatter(here[:, 0], here[:, 1], s=9, color=colour, marker=marker, lw=0, alpha=0.75, label=title)
        axes.set_title(style.BRANCH_NAMES[branch])
        axes.set_xlabel(f"component 1 ({100 * shares[0]:.0f} %)")
        axes.set_ylabel(f"component 2 ({100 * shares[1]:.0f} %)")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=4))
    handles, names = panels[0].get_legend_handles_labels()
    style.legend(figure, handles, names, 4)
    return figure


def components(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors [n, d], centred, on their first two principal components [n, 2], and the shares of variance of these [2].

    A component's sign is free: its largest place is positive here.
    """
    centred = vectors.astype(float) - vectors.mean(0, dtype=float)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    sizes = np.where(sizes > 1e-9 * sizes.max(), sizes, 0.0)  # no axis of what rounding left
    places = left[:, :2] * sizes[:2]
    places = places * np.where(places.max(0) >= -places.min(0), 1.0, -1.0)
    total = float(np.square(sizes).sum())
    return places, np.square(sizes[:2]) / total if total > 0 else np.zeros(2)
