"""Loss by step of each training of a sweep; left of 0, the last steps of the training that others began with.

Beside it, how much each is over the reference of its seed at the same step: trainings of one recipe and seed see the
same samples in the same order, so that this shows what the samples' own differences hide; single steps, which would
fill it, are left out. Of several seeds a variant has as many lines of one look, and single steps are left out, too.
A training whose seed the reference does not have is not beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures import style
from analysis.figures.ticks import FewTicks

SMOOTH = 20  # a line is the mean over this part of the longest one's steps; the steps themselves are pale
ROOM = 0.08  # of the axis beyond the lines: these decide what is in sight, as single steps reach much further
DECADE = np.log(10)
BEFORE = 0.25  # of the longest one's steps are shown of the training before
POINTS = 20  # of a line, to the steps that one of them is the mean over
ALONE, SEVERAL = 1.1, 0.7  # points of a line of a variant with one seed and with several
LOOKS = [(colour, dash) for dash in ("-", (0, (4, 2)), (0, (1, 1.5))) for colour in style.SERIES]


def draw(losses: pd.DataFrame) -> Figure:
    """From `Results.losses`; ValueError unless two trainings have steps."""
    begun = set(losses["start"].dropna())
    own = losses[~losses["training"].isin(begun)]
    if own.empty or losses["training"].nunique() < 2:
        raise ValueError("no two trainings with steps")
    compared = own[own["is_reference"].astype(bool)]
    references = {seed: rows.set_index("step")["loss"] for seed, rows in _trainings(compared)}
    figure = style.new_figure(style.TEXT_WIDTH, 2.5)
    axes, *beside = figure.subplots(1, 1 + bool(references), squeeze=False)[0]
    longest = int(own["step"].max())
    width = max(1, longest // SMOOTH)
    variants = style.reference_first(own["variant"], own["is_reference"])
    labels = dict(zip(variants, style.names(variants), strict=True))
    looks = dict(zip(variants, LOOKS * len(variants), strict=False))
    several = own.groupby("variant")["training"].nunique().max() > 1
    lines: list[pd.Series] = []
    over: list[pd.Series] = []
    for seed, rows in _trainings(own):
        variant = rows["variant"].iloc[0]
        colour, dash = looks[variant]
        look = {"color": colour, "ls": dash, "lw": SEVERAL if several else ALONE}
        label = labels.pop(variant, "_")  # of several seeds one stands in the legend
        lines.append(_curve(axes, rows["step"], rows["loss"], width, label=label, **look))
        if not several:
            _steps(axes, rows["step"], rows["loss"], colour)
        for other in beside if seed in references else ():
            more = rows.set_index("step")["loss"].sub(references[seed]).dropna()
            over.append(_curve(other, more.index.to_series(), more, width, **look))
    for name in sorted(begun & set(losses["training"])):
        rows = losses[losses["training"] == name].sort_values("step")
        place = rows["step"] - rows["step"].max()
        near = place > -BEFORE * longest
        label = f"{style.names([rows['label'].iloc[0]])[0]}, before"
        lines.append(_curve(axes, place[near], rows["loss"][near], width, label=label, color=style.GREY, ls="-"))
        _steps(axes, place[near], rows["loss"][near], style.GREY)
        axes.axvline(0, color=style.GREY, lw=0.6, ls=":")
    _describe(axes, beside, own)
    low, high = np.log(_ends([line[line > 0] for line in lines]))
    axes.set_ylim(*np.exp(_wider(low, high, 0.1)))
    if high - low < DECADE:
        axes.yaxis.set_major_locator(FewTicks(10, subs=(1, 2, 3, 5, 7)))
    for other in beside:
        other.set_ylim(*_wider(*_ends(over), 0.01))
    handles, names = axes.get_legend_handles_labels()
    style.legend(figure, handles, names, 5, ["a line a training seed"] if several else (), grow=True)
    return figure


def _trainings(losses: pd.DataFrame) -> Iterator[tuple[Any, pd.DataFrame]]:
    """(seed, steps in order) of each training; plans of before name no seed."""
    for _, rows in losses.groupby("training", sort=False):
        seed = rows["seed"].iloc[0]
        yield None if pd.isna(seed) else seed, rows.sort_values("step")


def _describe(axes: Axes, beside: list[Axes], own: pd.DataFrame) -> None:
    style.log_scale(axes, "y")
    axes.set_ylabel("loss (nats a token of the answer)")
    for each in (axes, *beside):
        each.set_xlabel("step")
        each.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    for other in beside:
        of = own[own["is_reference"].astype(bool)]
        same = ", same seed" * (of["seed"].nunique() > 1)
        other.set_ylabel(f"loss over that of {style.names([of['variant'].iloc[0]])[0]}{same}")


def _curve(axes: Axes, steps: pd.Series, losses: pd.Series, width: int, **look: Any) -> pd.Series:
    """Draw the line, each of whose points is the mean over the steps around it; returns it.

    Of means over many steps a few less than all say the same, in a file of a fraction's size.
    """
    line = losses.rolling(width, min_periods=1, center=True).mean()
    apart = max(1, width // POINTS)
    axes.plot(steps[::-apart][::-1], line[::-apart][::-1], **look)
    return line


def _steps(axes: Axes, steps: pd.Series, losses: pd.Series, colour: str) -> None:
    axes.plot(steps, losses, color=colour, lw=0.4, alpha=0.15, zorder=1)


def _ends(lines: Sequence[pd.Series]) -> tuple[float, float]:
    """The least and the largest finite value."""
    values = np.concatenate([line.to_numpy(float) for line in lines])
    values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if len(values) else (1.0, 1.0)


def _wider(low: float, high: float, least: float) -> tuple[float, float]:
    """With ROOM beyond, of a span that is `least` or more."""
    room = ROOM * max(high - low, least)
    return low - room, high + room
