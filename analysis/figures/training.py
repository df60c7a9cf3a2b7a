"""Step time and memory of training against length, sparse and dense: benchmarks/training.csv.

Columns: model, attention, tokens, step_s, bound_step_s, peak_gib, counted_gib, status, gpus, gpu and more, as
`python -m videonsa.bench.training` writes them. Of rows of the same model, attention, length and placement the last
one counts. A row with a status was not measured: its memory is a count.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from analysis.figures import style
from analysis.figures.measured import read_table

NEEDED = ("model", "attention", "tokens", "step_s", "bound_step_s", "peak_gib", "counted_gib", "status", "gpus", "gpu")
PLACED = ["model", "gpus", "data_parallel", "sequence_parallel"]  # what a panel has in common
COLOURS = {"nsa": style.BLUE, "dense": style.VERMILION}
MARKERS = {"nsa": "o", "dense": "s"}
NAMES = {"nsa": "NSA", "dense": "dense"}


def read(path: Path) -> pd.DataFrame:
    """The measurements; ValueError with one line when the file is missing or lacks a column."""
    return read_table(path, (*NEEDED, *PLACED))


def draw(table: pd.DataFrame) -> Figure:
    """For each model and placement: seconds of a step with their bound, and memory, at which open marks are counted."""
    if not len(table):
        raise ValueError("no measurement")
    table = table.drop_duplicates([*PLACED, "attention", "tokens"], keep="last")
    groups: list[tuple[Any, pd.DataFrame]] = list(table.groupby(PLACED, sort=False))
    figure = style.new_figure(style.TEXT_WIDTH, 1.95 * len(groups) + 0.35)
    style.setting(figure, ", ".join(dict.fromkeys(table["gpu"].astype(str))))
    axes = figure.subplots(len(groups), 2, squeeze=False)
    for (times, memory), ((model, gpus, data, sequence), rows) in zip(axes, groups, strict=True):
        lengths = rows["tokens"]
        _times(times, rows)
        _memory(memory, rows)
        placed = f"{gpus} GPUs ({data} data × {sequence} sequence)" if gpus > 1 else "1 GPU"
        times.set_title(style.drawable(f"{str(model).upper()}'s shape, {placed}"))
        for panel in (times, memory):
            style.log_axis(panel, "x", lengths)
            panel.grid(axis="y", lw=0.4, color="#DDDDDD")
    for panel in axes[-1]:
        panel.set_xlabel("tokens of video")
    shown = [name for name in COLOURS if name in set(table["attention"])]
    grey: dict[str, Any] = {"color": style.GREY}
    handles = [Line2D([], [], color=COLOURS[name], marker=MARKERS[name]) for name in shown]
    handles += [Line2D([], [], ls="--", **grey), Line2D([], [], marker="o", mfc="white", lw=0, **grey)]
    labels = [*(NAMES[name] for name in shown), "bound of products and attention", "counted, not measured"]
    style.legend(figure, handles, labels)
    return figure


def _times(axes: Axes, rows: pd.DataFrame) -> None:
    for name, own in _by_attention(rows):
        done = own[own["step_s"].notna()]
        axes.plot(done["tokens"], done["step_s"], color=COLOURS[name], marker=MARKERS[name])
        axes.plot(done["tokens"], done["bound_step_s"], color=COLOURS[name], ls="--", lw=0.8)
    axes.set_ylabel("a step (s)")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))


def _memory(axes: Axes, rows: pd.DataFrame) -> None:
    for name, own in _by_attention(rows):
        done, missing = own[own["peak_gib"].notna()], own[own["status"].notna()]
        axes.plot(done["tokens"], done["peak_gib"], color=COLOURS[name], marker=MARKERS[name])
        look: dict[str, Any] = {"color": COLOURS[name], "marker": MARKERS[name], "mfc": "white", "lw": 0}
        axes.plot(missing["tokens"], missing["counted_gib"], **look)
    axes.set_ylabel("memory of a GPU (GiB)")
    axes.set_ylim(0, 1.08 * rows[["peak_gib", "counted_gib"]].max().max())


def _by_attention(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(name, rows[rows["attention"] == name].sort_values("tokens")) for name in COLOURS]
