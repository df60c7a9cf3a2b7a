"""Numbers at an axis: where they stand on a logarithmic one, and how they are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from analysis.figures.lettering import TICK, widest

MOST = 8  # ticks of a logarithmic axis that stand apart in a panel


def log_axis(axes: Axes, which: str, values: Iterable[float]) -> None:
    """A base-2 logarithmic axis around these values, ticked at the values themselves where their labels have room."""
    places = sorted({float(value) for value in values})
    octaves = np.log2(places[-1] / places[0]) + 1.6
    gap = 2 ** (octaves * _share(axes, which, [plain(value, kilo=places[-1] >= 2048) for value in places]))
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log", base=2)
    (axes.set_xlim if which == "x" else axes.set_ylim)(places[0] / 2**0.8, places[-1] * 2**0.8)
    axis.set_major_locator(FixedLocator(thinned(places, gap)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value, kilo=places[-1] >= 2048)))


def _share(axes: Axes, which: str, labels: Sequence[str]) -> float:
    """Of the axis, what a label takes with the space beside it; before the layout, where panels are narrower."""
    box = axes.get_window_extent()
    if which == "x":
        return 1.02 * widest(labels, TICK) * axes.figure.dpi / box.width
    return 1.6 * TICK / 72 * axes.figure.dpi / box.height


def thinned(values: Sequence[float], gap: float) -> list[float]:
    """Values at least a factor `gap` apart; powers of two are kept first, as a log axis is read by them."""
    kept: list[float] = []
    for value in sorted(values, key=lambda value: (not np.log2(value).is_integer(), value)):
        if all(max(value, other) >= gap * min(value, other) for other in kept):
            kept.append(value)
    return sorted(kept)


class FewTicks(LogLocator):
    """Those of a LogLocator; where fewer than two are in sight, some other round numbers, no more than have room, and
    where too many are, powers of ten alone, at equal distances."""

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        decades = np.arange(np.floor(np.log10(vmin)), np.ceil(np.log10(vmax)) + 1)
        powers = 10.0**decades
        ticks = np.outer(powers, (1, 2, 5))
        seen = np.count_nonzero((ticks >= vmin) & (ticks <= vmax))
        if seen > MOST:
            apart = -(-np.count_nonzero((powers >= vmin) & (powers <= vmax)) // MOST)
            return list(powers[decades % apart == 0])
        return list(super().tick_values(vmin, vmax)) if seen > 1 else list(MaxNLocator(4).tick_values(vmin, vmax))


def log_scale(axes: Axes, which: str) -> None:
    """A logarithmic axis, ticks at 1, 2 and 5 times powers of ten where two of these are in sight."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis.set_major_locator(FewTicks(10, subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def plain(value: float, kilo: bool = False) -> str:
    """1024 -> '1024', or '1K' with kilo; 131072 -> '128K'; 1048576 -> '1M'; 0.5 -> '0.5'."""
    if value >= 1 << 20 and value % (1 << 20) == 0:
        return f"{value / (1 << 20):g}M"
    if value >= (1024 if kilo else 8192) and value % 1024 == 0:
        return f"{value / 1024:g}K"
    return f"{value:g}"


def short(tokens: float) -> str:
    """About so many: 640 -> '640', 1254 -> '1.2K', 8192 -> '8K', 32800 -> '32K'; K is 1,024 as in `plain`."""
    kilo = tokens / 1024
    return f"{tokens:.0f}" if tokens < 1024 else f"{kilo:.2g}K" if kilo < 9.95 else f"{kilo:.0f}K"


def power_of_ten(value: float) -> str:
    """0.001 -> '10⁻³', without the second font that mathtext would embed."""
    digits = str(round(np.log10(value))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{digits}"
