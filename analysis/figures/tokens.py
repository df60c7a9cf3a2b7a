"""Context allocation (paper, figures 2 and 14): more frames, or more tokens a frame?

One tile for each setting that ran, with its accuracy, half its interval, and the vision tokens that there really were.
Variants that differ otherwise, too, have panels of their own, as two numbers in one tile could not be read.
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
from analysis.shared import common

COLUMNS = 3
MOST = 12  # panels
OTHERS = (  # what else may tell two variants apart
    *("training", "seed", "method", "attention", "semantics", "branches", "block_size", "block_count", "window"),
    *("gate_mode", "gate_temperature", "frames", "fps", "source"),
)
MANY = 5  # values across; of more, labels have room in two panels side by side


def draw(rows: pd.DataFrame) -> Figure:
    """From the tidy table; frames, or frames a second where a suite is sampled by fps, against tokens a frame."""
    rows = rows[rows["tokens_per_frame"].notna()]
    done = rows[rows["status"] == "done"]
    across = "frames" if done["frames"].nunique() > 1 or done["fps"].nunique() <= 1 else "fps"
    grids = _grids(rows[rows[across].notna()], across)
    shown = grids[:MOST]
    done = pd.concat([grid[grid["status"] == "done"] for _, _, grid in shown])
    values = pd.concat([grid for _, _, grid in shown])[across].nunique()
    most = COLUMNS if values <= MANY else 2
    columns = style.side_by_side(len(shown), most, style.TEXT_WIDTH / most, 2.3)
    width = min(style.text_width(columns, most), 1.1 * style.TEXT_WIDTH / most * columns + 0.6)
    figure, panels = style.panels(len(shown), columns, width, 2.3)
    low, high = 100 * float(done["accuracy"].min()), 100 * float(done["accuracy"].max())
    norm = Normalize(low, max(high, low + 1))
    names = style.names([name for _, name, _ in shown], width / columns - 0.5, style.STYLE["axes.titlesize"])
    for i, ((suite, name, grid), axes) in enumerate(zip(shown, panels, strict=True)):
        _tiles(axes, grid, across, norm)
        axes.set_title(style.suite_title(suite) + (f"\n{names[i]}" if name else ""))
        axes.set_xlabel("frames" if across == "frames" else "frames a second")
        if i % columns == 0:
            axes.set_ylabel("tokens a frame")
    style.colour_bar(figure, norm, panels, "accuracy (%) ± half its interval", pad=0.015, aspect=25)
    entries: dict[str, Any] = {
        "equal context (frames × tokens a frame)": Line2D([], [], color=style.GREY, lw=0.7, ls=(0, (4, 2)))
    }
    if done["is_reference"].any():
        references = done["reference"].dropna().unique()
        name = style.names(references, style.LEGEND_WIDTH)[0] if len(references) == 1 else "reference of its group"
        entries[name] = Rectangle((0, 0), 1, 1, fill=False, edgecolor=style.VERMILION, lw=1.5)
    if done["vision_tokens"].notna().any():
        entries["last line: vision tokens"] = Line2D([], [], ls="")
    note = f"{MOST} of {len(grids)} panels shown" if len(grids) > MOST else ""
    style.legend(figure, list(entries.values()), list(entries), 3, (note,))
    return figure


def _grids(rows: pd.DataFrame, across: str) -> list[tuple[str, str, pd.DataFrame]]:
    """(suite, what its variants are called, their rows) of each grid: both numbers vary, one row a place.

    They are called by the words that their labels share, '' where a suite has one grid. Raises ValueError without any.
    """
    grids = []
    for suite, here in rows.groupby("suite", sort=False):
        whole = [grid for grid in _apart(here, across) if _is_grid(grid, across)]
        for grid in whole:
            name = common(list(grid["label"])) or str(grid["label"].iloc[0])
            grids.append((str(suite), name if len(whole) > 1 else "", grid))
    if not grids:
        raise ValueError(f"no grid of {across} and tokens a frame with a finished cell")
    return grids


def _apart(rows: pd.DataFrame, across: str) -> list[pd.DataFrame]:
    """The rows of a suite, those of each variant for itself where several share a place."""
    if not rows.duplicated([across, "tokens_per_frame"]).any():
        return [rows]
    others = [name for name in OTHERS if name != across]
    return [alike for _, alike in rows.groupby(others, sort=False, dropna=False)]


def _is_grid(rows: pd.DataFrame, across: str) -> bool:
    places = rows[[across, "tokens_per_frame"]]
    varies = (places.nunique() > 1).all()
    return bool(varies and (rows["status"] == "done").any() and not places.duplicated().any())


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
        text += f"\n{style.short(row.vision_tokens)}"
    halo = [withStroke(linewidth=1.6, foreground=tile)]  # keeps the dashed lines out of the digits
    axes.text(
        x, y, text, ha="center", va="center", fontsize=5.5, color=colour, linespacing=0.95, zorder=5, path_effects=halo
    )


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
