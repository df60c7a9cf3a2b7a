"""Loss by step of each training of a sweep; left of 0, the last steps of the training that others began with."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from analysis.figures import style

SMOOTH = 20  # a line is the mean over so many parts of the longest one's steps; the steps themselves are pale
BEFORE = 0.25  # of the longest one's steps are shown of the training before
LOOKS = [(colour, dash) for dash in ("-", (0, (4, 2)), (0, (1, 1.5))) for colour in style.SERIES]


def draw(losses: pd.DataFrame) -> Figure:
    """From `Results.losses`; ValueError unless two trainings, besides those that others began with, have steps."""
    begun = set(losses["start"].dropna())
    own = losses[~losses["training"].isin(begun)]
    if own["training"].nunique() < 2:
        raise ValueError("no two trainings with steps")
    figure = style.new_figure(style.TEXT_WIDTH, 2.6)
    axes = figure.add_subplot()
    longest = int(own["step"].max())
    width = max(1, longest // SMOOTH)
    curves = {name: rows.sort_values("step") for name, rows in own.groupby("training", sort=False)}
    labels = style.names([rows["label"].iloc[0] for rows in curves.values()])
    for rows, label, (colour, dash) in zip(curves.values(), labels, LOOKS * len(curves), strict=False):
        _curve(axes, rows["step"], rows["loss"], width, colour, dash, label)
    for name in sorted(begun & set(losses["training"])):
        rows = losses[losses["training"] == name].sort_values("step")
        place = rows["step"] - rows["step"].max()
        near = place > -BEFORE * longest
        _curve(axes, place[near], rows["loss"][near], width, style.GREY, "-", f"{rows['label'].iloc[0]}, before")
    if begun:
        axes.axvline(0, color=style.GREY, lw=0.6, ls=":")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats a token of the answer)")
    figure.legend(loc="outside right upper")
    return figure


def _curve(axes: Axes, steps: pd.Series, losses: pd.Series, width: int, colour: str, dash: object, label: str) -> None:
    axes.plot(steps, losses, color=colour, lw=0.4, alpha=0.25)
    mean = losses.rolling(width, min_periods=1).mean()
    axes.plot(steps, mean, color=colour, ls=dash, label=label)  # type: ignore[arg-type]
