"""Context allocation (paper, figures 2 and 14): more frames, or more tokens a frame?

One tile for each setting that ran, with its accuracy, half its interval, and the vision tokens that there really were.
Dashed lines join settings of equal context, which the paper counts as frames x tokens a frame, though two frames share
a patch. No contour, as there may be few points; context.py draws the paper's own form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from analysis.figures import style
from analysis.rows import each

COLUMNS = 3
MANY = 5  # values across; of more, labels have room in two panels side by side


def draw(rows: pd.DataFrame) -> Figure:
    """From the tidy table; frames, or frames a second where a suite is sampled by fps, against tokens a frame."""
    done = rows[(rows["status"] == "done") & rows["tokens_per_frame"].notna()]
    across = "frames" if done["frames"].nunique() > 1 or done["fps"].nunique() <= 1 else "fps"
    done = done[done[across].notna()]
    if not len(done):
        raise ValueError("no finished cell with frames and tokens a frame")
    suites = list(dict.fromkeys(done["suite"]))
    values = rows.loc[rows["tokens_per_frame"].notna(), across].nunique()
    most = COLUMNS if values <= MANY else 2
    columns = style.side_by_side(len(suites), most, style.TEXT_WIDTH / most, 2.3)
    width = min(style.text_width(columns, most), 1.1 * style.TEXT_WIDTH / most * columns + 0.6)
    figure, panels = style.panels(len(suites), columns, width, 2.3)
    low, high = 100 * float(done["accuracy"].min()), 100 * float(done["accuracy"].max())
    norm = Normalize(low, max(high, low + 1))
    for i, (suite, axes) in enumerate(zip(suites, panels, strict=True)):
        known = rows[(rows["suite"] == suite) & rows[across].notna() & rows["tokens_per_frame"].notna()]
        _tiles(axes, known, across, norm)
        axes.set_title(style.suite_title(suite))
        axes.set_xlabel("frames" if across == "frames" else "frames a second")
        if i % columns == 0:
            axes.set_ylabel("tokens a frame")
    style.colour_bar(figure, norm, panels, "accuracy (%) ± half its interval", pad=0.015, aspect=25)
    entries: dict[str, Any] = {
        "equal context (frames × tokens a frame)": Line2D([], [], color=style.GREY, lw=0.7, ls=(0, (4, 2)))
    }
    if done["is_reference"].any():
        entries[style.names(rows["reference"], style.LEGEND_WIDTH)[0]] = Rectangle(
            (0, 0), 1, 1, fill=False, edgecolor=style.VERMILION, lw=1.5
        )
    if done["vision_tokens"].notna().any():
        entries["last line: vision tokens"] = Line2D([], [], ls="")
    style.legend(figure, list(entries.values()), list(entries), 3)
    return figure


def _tiles(axes: Axes, known: pd.DataFrame, across: str, norm: Normalize) -> None:
    """Rows and columns are the values that occur, evenly spaced: on the paper's grids they are powers of two."""
    xs, ys = sorted(known[across].unique()), sorted(known["tokens_per_frame"].unique())
    for row in each(known):
        x, y = xs.index(getattr(row, across)), ys.index(row.tokens_per_frame)
        if row.status != "done":
            name = "failed" if row.status == "failed" else "not run"
            axes.text(x, y, name, ha="center", va="center", fontsize=5.5, color=style.GREY)
            continue
        colour = colormaps[style.SCORES](norm(100 * row.accuracy))
        axes.add_patch(Rectangle((x - 0.47, y - 0.47), 0.94, 0.94, facecolor=colour, lw=0))
        _write(axes, x, y, row, "black" if norm(100 * row.accuracy) > 0.55 else "white", colour)
        if row.is_reference:
            axes.add_patch(Rectangle((x - 0.47, y - 0.47), 0.94, 0.94, fill=False, edgecolor=style.VERMILION, lw=1.5))
    if across == "frames":
        _equal_context(axes, xs, ys, known)
    axes.set_xlim(-0.55, len(xs) - 0.45)
    axes.set_ylim(-0.55, len(ys) - 0.45)
    axes.set_xticks(range(len(xs)), [style.plain(x, kilo=xs[-1] >= 1024) for x in xs])
    axes.set_yticks(range(len(ys)), [style.plain(y) for y in ys])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _write(axes: Axes, x: float, y: float, row: Any, colour: str, tile: Any) -> None:
    text = f"{100 * row.accuracy:.0f}"
    if not np.isnan(row.low):
        text += f"\n±{50 * (row.high - row.low):.0f}"
    if pd.notna(row.vision_tokens):
        text += f"\n{_short(row.vision_tokens)}"
    halo = [withStroke(linewidth=1.6, foreground=tile)]  # keeps the dashed lines out of the digits
    axes.text(
        x, y, text, ha="center", va="center", fontsize=5.5, color=colour, linespacing=0.95, zorder=5, path_effects=halo
    )


def _short(tokens: float) -> str:
    """'64', '1.2K', '33K'."""
    return f"{tokens:.0f}" if tokens < 1000 else f"{tokens / 1000:.2g}K" if tokens < 9950 else f"{tokens / 1000:.0f}K"


def _equal_context(axes: Axes, xs: Sequence[float], ys: Sequence[float], known: pd.DataFrame) -> None:
    """Lines of equal frames x tokens, through the contexts that at least two settings share."""
    contexts = (known[["frames", "tokens_per_frame"]].drop_duplicates().astype(float)).prod(axis=1).value_counts()
    if len(xs) < 2 or len(ys) < 2:
        return
    places = np.linspace(-0.5, len(xs) - 0.5, 200)
    frames = 2 ** _extended(places, np.log2(np.asarray(xs, dtype=float)))
    levels = np.log2(np.asarray(ys, dtype=float))
    for context in contexts[contexts > 1].index:
        heights = _inverse(np.log2(context / frames), levels)
        inside = (heights > -0.5) & (heights < len(ys) - 0.5)
        axes.plot(places[inside], heights[inside], color=style.GREY, lw=0.7, ls=(0, (4, 2)), zorder=3)


def _extended(places: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Piecewise linear through (0, values[0]), (1, values[1]) ..., its end slopes continued."""
    index = np.clip(np.floor(places).astype(int), 0, len(values) - 2)
    return values[index] + (places - index) * np.diff(values)[index]


def _inverse(wanted: np.ndarray, values: np.ndarray) -> np.ndarray:
    index = np.clip(np.searchsorted(values, wanted) - 1, 0, len(values) - 2)
    return index + (wanted - values[index]) / np.diff(values)[index]
