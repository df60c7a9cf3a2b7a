"""Context allocation in the paper's form (figures 2 and 14): contours of the score over frames x tokens a frame.

The dots are what was measured; between them colours are linear interpolation on logarithmic axes, and no more.
Dashed lines join equal contexts, which the paper counts as frames x tokens a frame, though two frames share a patch.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from analysis.figures import style

COLUMNS = 3
LEVELS = 12  # colours of a panel
LEAST_SPAN = 4.0  # points of accuracy that they cover
DASHES = (0, (4, 2))


def draw(rows: pd.DataFrame) -> Figure:
    """From the tidy table (analysis.compared.compare): one panel a suite. ValueError where nothing is finished."""
    done = rows[(rows["status"] == "done") & rows["frames"].notna() & rows["tokens_per_frame"].notna()]
    done = done.drop_duplicates(["suite", "frames", "tokens_per_frame"])
    if not len(done):
        raise ValueError("no finished cell with frames and tokens a frame")
    done = done.assign(score=100 * done["accuracy"].astype(float), half=50 * (done["high"] - done["low"]))
    suites = list(dict.fromkeys(done["suite"]))
    columns = style.side_by_side(len(suites), COLUMNS, 1.8, 2.5)
    width = style.text_width(columns, COLUMNS) if columns >= COLUMNS else 2.1 * columns + 0.4
    figure, panels = style.panels(len(suites), columns, width, 2.5)
    by_suite = done.groupby("suite")["score"]
    span = max(LEAST_SPAN, float((by_suite.max() - by_suite.min()).max()))
    for i, (suite, axes) in enumerate(zip(suites, panels, strict=True)):
        here = done[done["suite"] == suite]
        middle = float(here["score"].max() + here["score"].min()) / 2
        norm = Normalize(middle - span / 2, middle + span / 2)
        _panel(axes, here, norm)
        axes.set_title(f"{style.suite_title(suite)}, ± {here['half'].median():.1f}")
        axes.set_xlabel("frames")
        if i % columns == 0:
            axes.set_ylabel("tokens a frame")
        style.colour_bar(figure, norm, axes, "accuracy (%)", location="bottom", aspect=22, pad=0.02)
    dot = Line2D([], [], ls="", marker="o", ms=3, mfc="white", mec="black", mew=0.5)
    curve = Line2D([], [], color=style.BLACK, lw=0.6, ls=DASHES)
    names = ["measured; interpolated between", "equal context", "±: half a 95 % interval"]
    handles = [dot, curve, Line2D([], [], ls="")]
    style.legend(figure, handles, names)
    return figure


def _panel(axes: Axes, here: pd.DataFrame, norm: Normalize) -> None:
    frames, tokens = (here[name].to_numpy(dtype=float) for name in ("frames", "tokens_per_frame"))
    style.log_axis(axes, "x", frames)
    style.log_axis(axes, "y", tokens)
    places = np.column_stack([np.log2(frames), np.log2(tokens)])
    if len(places) > 2 and np.linalg.matrix_rank(places - places[0]) == 2:  # else there is no area between them
        levels = np.linspace(float(norm.vmin or 0), float(norm.vmax or 0), LEVELS + 1)
        _fill(axes, places, here["score"].to_numpy(), levels, norm)
    _equal_contexts(axes, frames * tokens)
    axes.scatter(frames, tokens, c=here["score"], cmap=style.SCORES, norm=norm, s=11, ec="white", lw=0.5, zorder=4)


def _fill(axes: Axes, places: np.ndarray, scores: np.ndarray, levels: np.ndarray, norm: Normalize) -> None:
    """Contours of a linear interpolation between the places, which are in octaves."""
    from matplotlib.tri import LinearTriInterpolator, Triangulation

    mesh = Triangulation(*places.T)
    along = [np.linspace(low, high, 160) for low, high in zip(places.min(0), places.max(0), strict=True)]
    across, up = np.meshgrid(*along)
    between = LinearTriInterpolator(mesh, scores)(across, up)
    axes.contourf(2**across, 2**up, between, levels=levels, cmap=style.SCORES, norm=norm, extend="both")
    axes.contour(2**across, 2**up, between, levels=levels, colors="white", linewidths=0.3)


def _equal_contexts(axes: Axes, contexts: np.ndarray) -> None:
    """A line for each power of two among the contexts that two settings share, with its size at the upper end."""
    values, counts = np.unique(contexts, return_counts=True)
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    halo = [withStroke(linewidth=1.4, foreground="white")]
    for context in values[counts > 1]:
        ends = np.array([max(left, context / high), min(right, context / low)])
        axes.plot(ends, context / ends, color=style.BLACK, lw=0.6, ls=DASHES, zorder=3)
        place = (ends[0] * 1.08, context / (ends[0] * 1.08))
        look = {"fontsize": 5, "ha": "left", "va": "top", "path_effects": halo, "zorder": 5}
        axes.text(*place, style.plain(context, kilo=True), **look)  # type: ignore[arg-type]
