"""Attention maps (paper, figures 10 to 13): one branch in some layers of one video, above dense attention in the same.

From the arrays of the observer `maps` (evals/observers/maps.py), which says what a map's numbers are. Colours are
logarithmic and the same in all panels; white is a probability of 0, grey what lies in the future.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MultipleLocator

from analysis.figures import style
from analysis.figures.probes import COLUMNS, ORDER, tell

DECADES = 5  # of colours, below the largest number
FUTURE = "#e6e6e6"
TICKS = 4  # beside the one at 0, at most: multiples of a power of two
LINES = 16  # of the grid of blocks, at most
GRID: dict[str, Any] = {"color": style.BLACK, "lw": 0.25, "alpha": 0.35}
HEIGHT = 1.95  # inches of a panel


def draw(arrays: Mapping[str, np.ndarray], part: str) -> Figure:
    """The maps of one part (a branch, or gated); ValueError where there are none."""
    if part not in arrays or not len(arrays["layers"]):
        raise ValueError(f"no attention map of {style.BRANCH_NAMES[part]}")
    layers = [int(layer) for layer in arrays["layers"]]
    shown = [part, *(["dense"] if "dense" in arrays else [])]
    norm = _norm([arrays[name] for name in shown])
    width = style.TEXT_WIDTH if len(layers) > 1 else style.COLUMN_WIDTH
    figure, panels = style.panels(len(shown) * len(layers), len(layers), width, HEIGHT, sharex=True, sharey=True)
    places = [(name, place) for name in shown for place in range(len(layers))]
    for (name, place), axes in zip(places, panels, strict=True):
        _map(axes, arrays[name][place], arrays, norm)
        axes.set_title(f"{style.BRANCH_NAMES[name]}, layer {layers[place]}")
        if not place:
            axes.set_ylabel("query (vision token)")
        if name == shown[-1]:
            axes.set_xlabel("key (vision token)")
    _bar(figure, panels, norm)
    style.legend(figure, *_legend(arrays))
    return figure


def draw_layer(arrays: Mapping[str, Any]) -> Figure:
    """Every part in the last layer that was looked at; ValueError where there is none."""
    shown = [part for part in ORDER if part in arrays]
    if not shown:
        raise ValueError("no probe with attention maps")
    layer = int(arrays["layers"][-1])
    norm = _norm([arrays[part][-1] for part in shown])
    columns = min(COLUMNS, len(shown))
    figure, panels = style.panels(len(shown), columns, style.TEXT_WIDTH, HEIGHT, sharex=True, sharey=True)
    for i, (part, axes) in enumerate(zip(shown, panels, strict=True)):
        _map(axes, arrays[part][-1], arrays, norm)
        axes.set_title(f"{style.BRANCH_NAMES[part]}, layer {layer}")
        axes.tick_params(labelbottom=True)
        if i % columns == 0:
            axes.set_ylabel("query (vision token)")
        if i + columns >= len(shown):
            axes.set_xlabel("key (vision token)")
    _bar(figure, panels, norm)
    style.legend(figure, *_legend(arrays), 2)
    tell(figure, arrays.get("label", ""))
    return figure


def _norm(maps: list[np.ndarray]) -> LogNorm:
    every = np.concatenate([values[values > 0] for values in maps])
    if not every.size:
        raise ValueError("attention maps of nothing but zeros")
    high = float(every.max())
    return LogNorm(max(float(every.min()), high / 10**DECADES) * 0.999, high)


def _map(axes: Axes, values: np.ndarray, arrays: Mapping[str, np.ndarray], norm: LogNorm) -> None:
    tokens = int(arrays["tokens"][0])
    colours = colormaps[style.SCORES](norm(np.where(values > 0, values, 1.0)).data)
    colours[values == 0] = to_rgba("white")
    colours[np.isnan(values)] = to_rgba(FUTURE)
    axes.imshow(colours, extent=(0, tokens, tokens, 0), aspect="auto", interpolation="nearest")
    for border in np.arange(0, tokens, _grid(arrays))[1:]:
        axes.axhline(border, xmax=border / tokens, **GRID)
        axes.axvline(border, ymax=1 - border / tokens, **GRID)
    for start in arrays["starts"][1:]:
        axes.axhline(start, color=style.VERMILION, lw=0.6, ls="--")
        axes.axvline(start, color=style.VERMILION, lw=0.6, ls="--")
    text: dict[str, Any] = {"ls": "", "color": style.VERMILION, "ms": 3, "clip_on": False, "mew": 0}
    across, down = axes.get_xaxis_transform(), axes.get_yaxis_transform()
    axes.plot(arrays["text_at"], [1.025] * len(arrays["text_at"]), marker="v", transform=across, **text)
    axes.plot([1.025] * len(arrays["text_at"]), arrays["text_at"], marker="<", transform=down, **text)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MultipleLocator(2 ** max(0, int(np.ceil(np.log2(tokens / TICKS))))))
        axis.set_major_formatter(FuncFormatter(lambda value, _: style.plain(value, kilo=True)))
    axes.set_xlim(0, tokens)
    axes.set_ylim(tokens, 0)


def _grid(arrays: Mapping[str, np.ndarray]) -> int:
    """Tokens from one line of the grid to the next: blocks, as many as leave at most LINES."""
    size, tokens = int(arrays["block_size"][0]), int(arrays["tokens"][0])
    return size * 2 ** max(0, int(np.ceil(np.log2(tokens / size / LINES))))


def _bar(figure: Figure, panels: list[Axes], norm: LogNorm) -> None:
    look: dict[str, Any] = {"pad": 0.015, "aspect": 30, "extend": "min", "format": FuncFormatter(_power)}
    bar = style.colour_bar(figure, norm, panels, "attention probability, mean of a bin", **look)
    bar.minorticks_off()


def _power(value: float, _: Any) -> str:
    return style.power_of_ten(value)


def _legend(arrays: Mapping[str, np.ndarray]) -> tuple[list[Line2D], list[str]]:
    size = int(arrays["block_size"][0])
    blocks = _grid(arrays) // size
    lines = [Line2D([], [], **GRID)]
    names = [f"every {blocks} blocks of {size} tokens" if blocks > 1 else f"blocks of {size} tokens"]
    if len(arrays["text_at"]):
        counts = ", ".join(map(str, arrays["text_tokens"][:4])) + (", ..." if len(arrays["text_at"]) > 4 else "")
        lines.append(Line2D([], [], ls="", marker="v", color=style.VERMILION, ms=3, mew=0))
        names.append(f"text in the prompt ({counts} tokens)")
    if len(arrays["starts"]) > 1:
        lines.append(Line2D([], [], color=style.VERMILION, lw=0.6, ls="--"))
        names.append("next image or video")
    return lines, names
