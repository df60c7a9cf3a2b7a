"""How every figure looks and is written: a paper's column widths, a palette for colour-blind readers too, fixed bytes.

No pyplot: a Figure made here belongs to its caller, has no global state and needs no display.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager, get_font
from matplotlib.patheffects import withStroke
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from videonsa.disk import write_bytes
from videonsa.text import NO_WIDTH, escaped, line_of, told_apart

TEXT_WIDTH = 5.5  # inches, text of a one-column paper
COLUMN_WIDTH = 3.3  # inches, one column of a two-column paper
FORMATS = ("pdf", "svg", "png")
DPI = 200  # of the PNG

# Okabe and Ito (2008), readable with every common colour blindness
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE, GREY = "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#767676"
SERIES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
BRANCH_COLOURS = {"cmp": BLUE, "slc": VERMILION, "swa": GREEN, "gated": BLACK, "dense": GREY}
BRANCH_MARKERS = {"cmp": "o", "slc": "s", "swa": "^", "gated": "D", "dense": "v"}
BRANCH_NAMES = {"cmp": "compression", "slc": "selection", "swa": "window", "gated": "gated sum", "dense": "dense"}
BENCHMARKS = {
    "longvideobench_val_v": "LongVideoBench",
    "longtimescope": "LongTimeScope",
    "timescope": "TimeScope",
    "mlvu_test": "MLVU",
    "tomato": "Tomato",
    "vsibench": "VSIBench",
    "lsdbench": "LSDBench",
    "videoevalpro": "VideoEvalPro",
}
# DejaVu ships with matplotlib: the same letters on every machine. What it lacks comes from the first other one that is
# here; what none has is written as its number.
OTHERS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei"),
    *("Droid Sans Fallback", "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "SimHei", "Noto Sans CJK KR"),
    *("Noto Sans Devanagari", "Noto Sans Thai", "Noto Emoji", "Symbola", "Arial Unicode MS", "Unifont"),
)
FONTS = ["DejaVu Sans", *(name for name in OTHERS if name in fontManager.get_font_names())]
NAME_WIDTH = 2.1  # inches of a variant's name at an axis
LEGEND_WIDTH = 1.3  # of the reference's, beside two others in a legend
LONGEST = 44  # letters of one at most
SCORES = "viridis"  # colour map of every score

# Over matplotlib's own settings, not over those of the user's matplotlibrc; which backend shows windows is not ours.
PLAIN = {name: value for name, value in matplotlib.rcParamsDefault.items() if not name.startswith(("backend", "inter"))}
STYLE: dict[Any, Any] = {
    "font.family": FONTS,
    "text.parse_math": False,  # a dollar is a dollar
    "font.size": 7.0,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.0,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.1,
    "lines.markersize": 4.0,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "pdf.fonttype": 42,  # letters stay letters in the PDF
    "svg.fonttype": "path",
    "svg.hashsalt": "videonsa-bench",
    "savefig.facecolor": "white",
}
METADATA = {
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
    "png": {"Software": None},
}  # nothing that changes by the day


def names(labels: Iterable[object], inches: float = NAME_WIDTH, size: float = STYLE["ytick.labelsize"]) -> list[str]:
    """Labels as a figure shows them: one line, letters that can be drawn, long ones shortened, no two alike."""
    drawn = [drawable(label) for label in labels]
    shown = told_apart(drawn, LONGEST)
    for most in range(LONGEST - 2, 8, -2):
        if widest(shown, size) <= inches:
            break
        shown = told_apart(drawn, most)
    return shown


def widest(texts: Iterable[str], size: float = STYLE["ytick.labelsize"]) -> float:
    """Inches that the widest of the texts takes in letters of this size."""
    font = FontProperties(family=FONTS, size=size)
    widths = (text_to_path.get_text_width_height_descent(text, font, False)[0] for text in set(texts))
    return max(widths, default=0.0) / 72


def drawable(text: object) -> str:
    """The text on one line in letters that FONTS have; others are written as numbers: an empty box says nothing."""
    line = unicodedata.normalize("NFC", line_of(text))
    known = _letters()
    return "".join(
        letter if ord(letter) in known else "" if unicodedata.category(letter) in NO_WIDTH else escaped(letter)
        for letter in line
    )


@lru_cache
def _letters() -> frozenset[int]:
    fonts = [get_font(fontManager.findfont(FontProperties(family=[name]))) for name in FONTS]
    return frozenset().union(*(font.get_charmap() for font in fonts))


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in inches, laid out so that labels do not meet."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panels(count: int, columns: int, width: float, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, row by row, each `height` inches high; unused places stay empty."""
    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    figure = new_figure(width, rows * height)
    axes = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for unused in axes[count:]:
        unused.set_visible(False)
    return figure, axes[:count]


def style() -> AbstractContextManager[None]:
    """The context in which a figure is both drawn and written."""
    return matplotlib.rc_context(PLAIN | STYLE)


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write name.pdf, .svg and .png; the same figure gives the same bytes.

    Laid out once, and each format printed by its own canvas: Figure.savefig would lay out and draw six times.
    """
    figure.dpi = DPI  # already for the layout: letters are set on whole pixels, so of 100 to an inch they are narrower
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")
    printers: dict[str, Any] = {
        "pdf": FigureCanvasPdf(figure).print_pdf,
        "svg": FigureCanvasSVG(figure).print_svg,
        "png": FigureCanvasAgg(figure).print_png,
    }
    paths = []
    for kind in FORMATS:
        path, printed = folder / f"{name}.{kind}", io.BytesIO()
        figure.dpi = DPI  # a printer sets its own
        printers[kind](printed, metadata=METADATA[kind])
        write_bytes(path, printed.getvalue())
        paths.append(path)
    return paths


def log_axis(axes: Axes, which: str, values: Iterable[float]) -> None:
    """A base-2 logarithmic axis around these values, ticked at the values themselves where their labels have room."""
    places = sorted({float(value) for value in values})
    octaves = np.log2(places[-1] / places[0]) + 1.6
    gap = 2 ** (octaves * (0.12 if which == "x" else 0.065))  # shares of the axis that a label takes
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log", base=2)
    (axes.set_xlim if which == "x" else axes.set_ylim)(places[0] / 2**0.8, places[-1] * 2**0.8)
    axis.set_major_locator(FixedLocator(_thinned(places, gap)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value, kilo=places[-1] >= 2048)))


def _thinned(values: Sequence[float], gap: float) -> list[float]:
    """Values at least a factor `gap` apart; powers of two are kept first, as a log axis is read by them."""
    kept: list[float] = []
    for value in sorted(values, key=lambda value: (not np.log2(value).is_integer(), value)):
        if all(max(value, other) >= gap * min(value, other) for other in kept):
            kept.append(value)
    return sorted(kept)


def reference_lines(axes: Axes, rows: pd.DataFrame, vertical: bool = False) -> None:
    """Chance, and over horizontal panels dense attention where the suite's rows have it, across accuracies in %.

    A value outside the panel is said above it instead: stretching the axis to it would flatten the intervals.
    """
    dense = rows[(rows["status"] == "done") & (rows["attention"] == "dense") & (not vertical)]
    chance = rows["chance"].dropna()
    marks = [("chance", 100 * chance.iloc[0])] if len(chance) else []
    marks += [("dense", 100 * dense["accuracy"].iloc[0])] if len(dense) else []
    low, high = axes.get_xlim() if vertical else axes.get_ylim()
    place = axes.get_xaxis_transform() if vertical else axes.get_yaxis_transform()
    outside = []
    for name, value in marks:
        if not low <= value <= high:
            outside.append(f"{name} {value:.0f} %")
            continue
        (axes.axvline if vertical else axes.axhline)(value, color=GREY, lw=0.7, ls=":", zorder=1)
        x, y, side = (value, 1.0, "center") if vertical else (0.99, value, "right")
        halo = [withStroke(linewidth=1.5, foreground="white")]
        small: dict[str, Any] = {"fontsize": 5.5, "color": "#444444", "path_effects": halo, "zorder": 5}
        axes.text(x, y, name, transform=place, ha=side, va="bottom", **small)
    if outside:
        axes.text(0, 1.0, "; ".join(outside), fontsize=5.5, color="#444444", transform=axes.transAxes, va="bottom")


def plain(value: float, kilo: bool = False) -> str:
    """1024 -> '1024', or '1K' with kilo; 131072 -> '128K'; 0.5 -> '0.5'."""
    if value >= (1024 if kilo else 8192) and value % 1024 == 0:
        return f"{value / 1024:g}K"
    return f"{value:g}"


def power_of_ten(value: float) -> str:
    """0.001 -> '10⁻³', without the second font that mathtext would embed."""
    digits = str(round(np.log10(value))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{digits}"


def suite_title(name: str) -> str:
    """'synth_needle' -> 'needle (synthetic)', 'mlvu_test' -> 'MLVU'."""
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    return f"{name.removeprefix('synth_')} (synthetic)" if name.startswith("synth_") else drawable(name)


def layer_panels(count: int, most_columns: int, ylabel: str) -> tuple[Figure, list[Axes], int]:
    """A figure with a panel for each of `count` probes, layers along x, labels at the outer panels; and its columns."""
    columns = min(most_columns, count)
    width = COLUMN_WIDTH if columns == 1 else TEXT_WIDTH
    figure, made = panels(count, columns, width, 2.0 if columns < 3 else 1.75, sharey=True, sharex=True)
    for i, axes in enumerate(made):
        if i % columns == 0:
            axes.set_ylabel(ylabel)
        if i + columns >= count:
            axes.set_xlabel("layer")
            axes.tick_params(labelbottom=True)
    return figure, made, columns


def probe_titles(rows: pd.DataFrame) -> dict[str, str]:
    """Probe -> what it looked at; the model's name is left out when there is only one."""
    probes = rows.drop_duplicates("probe")
    if len(probes) == 1 and (suite := probes["suite"].iloc[0]):
        return {probes["probe"].iloc[0]: suite_title(suite)}
    shown = names(probes["label"], TEXT_WIDTH / 3 - 0.25, STYLE["axes.titlesize"])
    return dict(zip(probes["probe"], shown, strict=True))
