"""How every figure looks and is written: a paper's column widths, a palette for colour-blind readers too, fixed bytes.

For slides (analysis/figures/looks.py) the same drawing is laid out on a sheet of a screen's shape that is smaller than
the page: filling a screen, its letters and lines are larger. All is vector. Letters of a PDF are embedded TrueType, so
that they can be searched and edited; those of an SVG are paths, as it could only name a font that may not be there.
No pyplot: a Figure made here belongs to its caller, has no global state and needs no display.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from analysis.figures.lettering import FONTS, NAME_WIDTH, TICK, drawable, names, widest
from analysis.figures.looks import SLIDES, for_slides
from analysis.figures.ticks import log_axis, log_scale, plain, power_of_ten, short
from videonsa.disk import write_bytes

# as style.names, too
__all__ = ["NAME_WIDTH", "drawable", "log_axis", "log_scale", "names", "plain", "power_of_ten", "short", "widest"]

TEXT_WIDTH = 5.5  # inches, text of a one-column paper
COLUMN_WIDTH = 3.3  # inches, one column of a two-column paper
PAGE_HEIGHT = 9.0  # inches, what a page of either has
FORMATS = ("pdf", "svg", "png")
DPI = 200  # of a paper's PNG
SCREEN = (13.333, 7.5)  # inches, a slide of 16:9 as presentation programs have it
PIXELS = 2560  # width of a slide's PNG
LEAST_SHEET = 4.2  # inches of width that a slide is laid out on: letters of 7 points are then of 22 on a slide
SHARE, NARROWER = (
    0.85,
    0.9,
)  # of the paper's area and width that a slide is laid out on: 19 points where a figure is wide

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
LEGEND_WIDTH = 1.3  # of the reference's, beside two others in a legend
FEW_POINTS = 12  # whose markers have room in a panel a third of a page wide
LEGEND_LINE = 0.15  # inches of height
BETWEEN = 0.25  # inches between two panels' titles
HANDLE = 0.4  # inches of a legend's column beside its text
SMALL = 6.0  # points of what a figure was measured at
SCORES = "viridis"  # colour map of every score

# Over matplotlib's own settings, not over those of the user's matplotlibrc; which backend shows windows is not ours.
PLAIN = {name: value for name, value in matplotlib.rcParamsDefault.items() if not name.startswith(("backend", "inter"))}
STYLE: dict[Any, Any] = {
    "font.family": FONTS,
    "text.parse_math": False,  # a dollar is a dollar
    "font.size": 7.0,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.0,
    "xtick.labelsize": TICK,
    "ytick.labelsize": TICK,
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
THICKER: dict[Any, Any] = {  # for slides, beside what their smaller sheet makes larger
    "lines.linewidth": 1.4,
    "axes.linewidth": 0.8,
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
}
METADATA = {
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
    "png": {"Software": None},
}  # nothing that changes by the day


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in inches, at most a page high, laid out so that labels do not meet; for slides one of 16:9."""
    size = (width, min(height, PAGE_HEIGHT))
    if for_slides():
        wide = max(LEAST_SHEET, NARROWER * width, math.sqrt(SHARE * width * height * SCREEN[0] / SCREEN[1]))
        size = (wide, wide * SCREEN[1] / SCREEN[0])
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def colour_bar(figure: Any, norm: Normalize, axes: Any, label: str, cmap: str = SCORES, **options: Any) -> Colorbar:
    """A bar of a colour map beside these panels, in vectors: matplotlib would make a picture of its 256 colours.

    A quarter of them look the same, and make files of a quarter's size.
    """
    bar = figure.colorbar(ScalarMappable(norm, matplotlib.colormaps[cmap].resampled(64)), ax=axes, **options)
    assert bar.solids is not None  # a bar of lines alone has none
    bar.solids.set(rasterized=False, edgecolor="face", linewidth=0.2)  # no hair lines between its colours
    bar.outline.set_linewidth(0.5)  # type: ignore[operator]
    bar.set_label(label)
    return bar


def heat(axes: Axes, values: np.ndarray, norm: Normalize, cmap: str, unknown: str) -> None:
    """Values [rows, columns] as squares of the map's colours, the first row above; NaN in the colour `unknown`.

    In vectors, which a few thousand squares may be.
    """
    axes.set_facecolor(unknown)
    axes.pcolormesh(np.ma.masked_invalid(values), norm=norm, cmap=cmap, edgecolors="face", linewidth=0.1)
    axes.set_ylim(len(values), 0)
    axes.tick_params(length=0)


def panels(count: int, columns: int, width: float, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, row by row, each `height` inches high; unused places stay empty."""
    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    figure = new_figure(width, rows * height)
    axes = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for unused in axes[count:]:
        unused.set_visible(False)
    return figure, axes[:count]


def side_by_side(count: int, most: int, wide: float, high: float) -> int:
    """Columns for so many panels, each so large: at most `most` on a page; for slides as many as fill their shape.

    On a page the fewest rows that hold them, filled evenly: four of which three have room stand two by two.
    """
    if not for_slides():
        return -(-count // -(-count // most))

    def misfit(columns: int) -> float:
        rows = -(-count // columns)
        return abs(math.log(columns * wide * SCREEN[1] / (rows * high * SCREEN[0])))

    return min((-(-count // rows) for rows in range(1, count + 1)), key=misfit)


def text_width(columns: int, most: int) -> float:
    """Inches of a figure of so many columns, of which a page has room for `most`."""
    return TEXT_WIDTH * max(1.0, columns / most)


def marker_size(points: int) -> float:
    """Of so many along a panel, points of a marker: of many it leaves their line in sight."""
    return 3.2 if points <= FEW_POINTS else 2.0


def legend(
    figure: Any,
    handles: Sequence[Any],
    labels: Sequence[str],
    most: int | None = None,
    notes: Sequence[str] = (),
    grow: bool = False,
    **options: Any,
) -> None:
    """A legend below a figure or a part of it, in as many columns as have room, at most `most`.

    Notes that say something stand above it, small, a line each or as many as it takes. A figure that is to `grow` gets
    the legend's height more, so that its panels keep theirs.
    """
    title = "\n".join(_wrapped(note, figure.bbox.width / figure.dpi) for note in notes if note)
    if title:
        options |= {"title": title, "title_fontsize": SMALL}
    widths = [widest([label], STYLE["legend.fontsize"]) + HANDLE for label in labels]
    ncols = max(1, min(most or len(labels), len(labels)))
    while ncols > 1 and _together(widths, ncols) > figure.bbox.width / figure.dpi:
        ncols -= 1
    ncols = -(-len(labels) // -(-len(labels) // ncols))  # as many rows, filled evenly
    if grow and not for_slides():
        lines = -(-len(labels) // ncols) + len(title.splitlines())
        figure.set_figheight(min(PAGE_HEIGHT, figure.get_figheight() + LEGEND_LINE * lines))
    figure.legend(handles, labels, loc="outside lower center", ncols=ncols, **options)


def seed_ticks(axes: Axes, row: Any, place: float, colour: str, vertical: bool = False) -> None:
    """Across the interval of a mean over training seeds a tick for each seed's accuracy; of one seed none.

    row: of analysis.compared.compare. place: of the interval on the other axis. vertical: accuracies are along y.
    """
    for accuracy in row.seeds_accuracies or ():
        along = (place, 100 * accuracy) if vertical else (100 * accuracy, place)
        axes.plot(*along, **_tick(vertical), color=colour, zorder=2.5)


def seeds_entry(rows: pd.DataFrame, vertical: bool = False) -> dict[str, Line2D]:
    """The entry of a legend for `seed_ticks`; none where no row is a mean over seeds."""
    tick = Line2D([], [], **_tick(vertical), color=GREY)
    return {"one training seed": tick} if rows["seeds_accuracies"].notna().any() else {}


def _tick(vertical: bool) -> dict[str, Any]:
    return {"ls": "", "marker": "_" if vertical else "|", "ms": 4.2, "mew": 0.7}


def shapes(groups: Sequence[Any]) -> dict[str, Line2D]:
    """Entries of a legend for the groups that marks tell apart by their shape."""
    marks = (Line2D([], [], ls="", color=GREY, ms=4.2, marker=marker) for marker in MARKERS)
    return {str(group): mark for group, mark in zip(groups, marks, strict=False)}


def _together(widths: Sequence[float], columns: int) -> float:
    """Of a legend that fills one column after the other."""
    rows = -(-len(widths) // columns)
    return sum(max(widths[start : start + rows]) for start in range(0, len(widths), rows))


def setting(figure: Figure, text: str) -> None:
    """What a figure was measured at, small above it, on as many lines as it takes."""
    figure.suptitle(_wrapped(text, figure.get_figwidth()), fontsize=SMALL, color="#444444")


def _wrapped(text: str, inches: float) -> str:
    """Small text on as many lines as it takes."""
    line = drawable(text)
    letters = int(len(line) * 0.95 * inches / max(widest([line], SMALL), 1e-9))
    return "\n".join(textwrap.wrap(line, max(20, letters)))


def style() -> AbstractContextManager[None]:
    """The context in which a figure is both drawn and written."""
    return matplotlib.rc_context(PLAIN | STYLE | (THICKER if for_slides() else {}))


def place(folder: Path) -> Path:
    """Where figures of this folder are written: those for slides in one of their own."""
    return folder / SLIDES if for_slides() else folder


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write name.pdf, .svg and .png into `place(folder)`; the same figure gives the same bytes.

    Laid out once, and each format printed by its own canvas: Figure.savefig would lay out and draw six times.
    """
    dpi = PIXELS / figure.get_figwidth() if for_slides() else DPI
    figure.dpi = dpi  # already for the layout: letters are set on whole pixels, so of 100 to an inch they are narrower
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
        path, printed = place(folder) / f"{name}.{kind}", io.BytesIO()
        figure.dpi = dpi  # a printer sets its own
        printers[kind](printed, metadata=METADATA[kind])
        written = printed.getvalue()
        write_bytes(path, _as_large_as_a_slide(written) if kind == "svg" and for_slides() else written)
        paths.append(path)
    return paths


def _as_large_as_a_slide(svg: bytes) -> bytes:
    """The picture with the width and height of a slide, so that it fills one where it is put in."""
    sizes = (f'{name}="{72 * inches:.0f}pt"'.encode() for name, inches in zip(("width", "height"), SCREEN, strict=True))
    return re.sub(rb'width="[\d.]+pt" height="[\d.]+pt"', b" ".join(sizes), svg, count=1)


def reference_lines(
    axes: Axes, rows: pd.DataFrame, vertical: bool = False, below: bool = False, left: bool = False
) -> None:
    """Chance, and over horizontal panels dense attention where the suite's rows have it, across accuracies in %; named
    above the line, or `below`, at its right end or its `left`.

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
        end = (0.01, value, "left") if left else (0.99, value, "right")
        x, y, side = (value, 1.0, "center") if vertical else end
        halo = [withStroke(linewidth=1.5, foreground="white")]
        small: dict[str, Any] = {"fontsize": 5.5, "color": "#444444", "path_effects": halo, "zorder": 5}
        axes.text(x, y, name, transform=place, ha=side, va="top" if below else "bottom", **small)
    if outside:
        axes.text(0, 1.0, "; ".join(outside), fontsize=5.5, color="#444444", transform=axes.transAxes, va="bottom")


def reference_first(names: pd.Series, is_reference: pd.Series) -> list[str]:
    """Each name once, in their order, but first what the others are compared with: it has one colour in all figures."""
    theirs = set(names[is_reference.astype(bool)])
    return sorted(dict.fromkeys(names), key=lambda name: name not in theirs)


def suite_title(name: str, wide: float = math.inf) -> str:
    """'synth_long_needle' -> 'long needle (synthetic)', on two lines where a panel is not `wide` enough, in inches;
    'mlvu_test' -> 'MLVU'."""
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    if not name.startswith("synth_"):
        return drawable(name)
    words = name.removeprefix("synth_").replace("_", " ")
    title = f"{words} (synthetic)"
    return title if widest([title], STYLE["axes.titlesize"]) + BETWEEN < wide else f"{words}\n(synthetic)"


def layer_panels(count: int, most_columns: int, ylabel: str) -> tuple[Figure, list[Axes], int]:
    """A figure with a panel for each of `count` probes, layers along x, labels at the outer panels; and its columns."""
    columns = side_by_side(count, most_columns, TEXT_WIDTH / most_columns, 2.0)
    width = COLUMN_WIDTH if columns == 1 else text_width(columns, most_columns)
    figure, made = panels(count, columns, width, 2.0 if columns < 3 else 1.75, sharey=True, sharex=True)
    low = for_slides() and count > columns  # panels that are lower than their label is long
    if low:
        figure.supylabel(ylabel, fontsize=STYLE["axes.labelsize"])
    for i, axes in enumerate(made):
        if i % columns == 0 and not low:
            axes.set_ylabel(ylabel)
        if i + columns >= count:
            axes.set_xlabel("layer")
            axes.tick_params(labelbottom=True)
    return figure, made, columns


def probe_titles(rows: pd.DataFrame, columns: int = 3) -> dict[str, str]:
    """Probe -> what it looked at, above panels in so many columns; of a single one no model's name."""
    probes = rows.drop_duplicates("probe")
    if len(probes) == 1 and (suite := probes["suite"].iloc[0]):
        return {probes["probe"].iloc[0]: suite_title(suite)}
    shown = names(probes["label"], TEXT_WIDTH / columns - 0.25, STYLE["axes.titlesize"])
    return dict(zip(probes["probe"], shown, strict=True))
