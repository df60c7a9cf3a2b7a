"""Loss by step of each training of a sweep; left of 0, the last steps of the training that others began with.

Beside it, how much each is over the reference at the same step: trainings of one recipe see the same samples in the
same order, so that this shows what the samples' own differences hide.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from analysis.figures import style

SMOOTH = 20  # a line is the mean over so many parts of the longest one's steps; the steps themselves are pale
BEFORE = 0.25  # of the longest one's steps are shown of the training before
LOOKS = [(colour, dash) for dash in ("-", (0, (4, 2)), (0, (1, 1.5))) for colour in style.SERIES]


def draw(losses: pd.DataFrame) -> Figure:
    """From `Results.losses`; ValueError unless two trainings have steps."""
    begun = set(losses["start"].dropna())
    own = losses[~losses["training"].isin(begun)]
    if own.empty or losses["training"].nunique() < 2:
        raise ValueError("no two trainings with steps")
    reference = own[own["is_reference"].astype(bool)].set_index("step")["loss"]
    reference = reference[~reference.index.duplicated()]  # of several seeds the first
    figure = style.new_figure(style.TEXT_WIDTH, 2.7)
    axes, *beside = figure.subplots(1, 1 + (not reference.empty), squeeze=False)[0]
    longest = int(own["step"].max())
    width = max(1, longest // SMOOTH)
    curves = [rows.sort_values("step") for _, rows in own.groupby("training", sort=False)]
    labels = style.names([rows["label"].iloc[0] for rows in curves])
    for rows, label, (colour, dash) in zip(curves, labels, LOOKS * len(curves), strict=False):
        look = {"color": colour, "ls": dash}
        _curve(axes, rows["step"], rows["loss"], width, label=label, **look)
        for other in beside:
            more = rows.set_index("step")["loss"].sub(reference).dropna()
            _curve(other, more.index.to_series(), more, width, **look)
    for name in sorted(begun & set(losses["training"])):
        rows = losses[losses["training"] == name].sort_values("step")
        place = rows["step"] - rows["step"].max()
        near = place > -BEFORE * longest
        label = f"{rows['label'].iloc[0]}, before"
        _curve(axes, place[near], rows["loss"][near], width, label=label, color=style.GREY, ls="-")
        axes.axvline(0, color=style.GREY, lw=0.6, ls=":")
    _describe(axes, beside, own)
    handles, names = axes.get_legend_handles_labels()
    style.legend(figure, handles, names, 5)
    return figure


def _describe(axes: Axes, beside: list[Axes], own: pd.DataFrame) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("loss (nats a token of the answer)")
    for each in (axes, *beside):
        each.set_xlabel("step")
    for other in beside:
        name = own.loc[own["is_reference"].astype(bool), "label"].iloc[0]
        other.set_ylabel(f"loss over that of {style.names([name])[0]}")


def _curve(axes: Axes, steps: pd.Series, losses: pd.Series, width: int, **look: Any) -> None:
    axes.plot(steps, losses, color=look["color"], lw=0.4, alpha=0.25)
    axes.plot(steps, losses.rolling(width, min_periods=1).mean(), **look)
