"""Latency and memory of attention against length, ours and others', from a table of measurements (benchmarks/*.csv).

Columns: provider, semantics, stage, mode, length, heads, kv_heads, head_dim, block_size, block_count, window, dtype,
data, ms_p20, ms_p50, ms_p80, peak_gib, tflops, gpu, torch, triton, commit. One row a measurement; an empty time is a
run that failed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from analysis.figures import style
from analysis.figures.measured import read_table

STAGE_COLOURS = {**style.BRANCH_COLOURS, "topk": style.PURPLE, "combine": style.BLACK}
NEEDED = ("provider", "stage", "mode", "length", "ms_p50")
WHOLE = ("all", "total", "whole", "attention", "full")  # names of the stage that is the whole computation
MODES = {"fwd": "forward", "forward": "forward", "bwd": "backward", "backward": "backward"}
SETTING = ["heads", "kv_heads", "head_dim", "block_size", "block_count", "window", "dtype", "gpu"]
NAMES = {  # providers of videonsa.bench and stages, ours first
    "triton": "NSA, ours",
    "reference": "NSA, torch reference",
    "sdpa_cudnn": "dense, cuDNN",
    "sdpa_flash": "dense, FlashAttention-2",
    "flash_nsa": "NSA, flash-nsa",
    "fla_nsa": "NSA, fla",
    "cmp": "compression",
    "topk": "choice of blocks",
    "slc": "selection",
    "swa": "window",
    "combine": "gated sum",
}


def read(path: Path) -> pd.DataFrame:
    """The measurements; ValueError with one line when the file is missing or lacks a column."""
    table = read_table(path, NEEDED)
    return table.assign(mode=table["mode"].map(lambda mode: MODES.get(str(mode), str(mode))))


def draw(table: pd.DataFrame) -> Figure:
    """Above: time of the whole attention per mode, and peak memory. Below, where measured: our stages per mode."""
    table = _one_setting(table)
    whole = table[table["stage"].isin(WHOLE) | (table["stage"].isna())]
    stages = table[~table.index.isin(whole.index)]
    if not len(whole) and not len(stages):
        raise ValueError("no measurement")
    modes = list(dict.fromkeys(whole["mode"]))
    has_memory = "peak_gib" in whole and bool(whole["peak_gib"].notna().any())
    stage_modes = list(dict.fromkeys(stages["mode"]))
    columns = max(len(modes) + has_memory, len(stage_modes))
    bands = 1 + bool(stage_modes) if len(whole) else 1
    width = style.COLUMN_WIDTH if columns == 1 else style.TEXT_WIDTH
    figure = style.new_figure(width, 2.3 * bands + 0.2)
    style.setting(figure, _setting(table))
    rows = figure.subfigures(bands, 1, squeeze=False)[:, 0]
    if len(whole):
        _band(rows[0], whole, modes, "provider", has_memory, columns)
    if stage_modes:
        _band(rows[-1], stages, stage_modes, "stage", False, columns)
    return figure


def _one_setting(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the setting with most measurements; a row measured again counts as it was last."""
    for column in [name for name in SETTING if name in table.columns]:
        values = table[column].dropna()
        if values.nunique() > 1:
            table = table[table[column].isna() | (table[column] == values.mode().iloc[0])]
    if "semantics" in table.columns:  # a provider under other semantics is one more
        other = table["semantics"].notna() & ~table["semantics"].isin(["paper", "dense", "own"])
        names = table["provider"].map(lambda name: NAMES.get(name, name)) + ", " + table["semantics"].astype(str)
        table = table.assign(provider=table["provider"].where(~other, names))
    if "data" in table.columns and table["data"].nunique() > 1:  # other inputs are providers of their own
        main = table["data"].mode().iloc[0]
        other = table["data"] != main
        table = table[~other | table["stage"].isin(WHOLE)]
        names = table["provider"].map(lambda name: NAMES.get(name, name)) + ", " + table["data"].astype(str) + " data"
        table = table.assign(provider=table["provider"].where(table["data"] == main, names))
        table = pd.concat([table[table["data"] == main], table[table["data"] != main]])
    return table.drop_duplicates(["provider", "stage", "mode", "length"], keep="last")


def _setting(table: pd.DataFrame) -> str:
    """'28 query heads, 4 KV heads, head size 128, s = 64, b = 32, w = 256, bfloat16, NVIDIA H200'."""
    forms = {
        "heads": "{:g} query heads",
        "kv_heads": "{:g} KV heads",
        "head_dim": "head size {:g}",
        "block_size": "s = {:g}",
    }
    forms |= {"block_count": "b = {:g}", "window": "w = {:g}", "dtype": "{}", "data": "{} data", "gpu": "{}"}
    known = {name: table[name].dropna() for name in forms if name in table.columns}
    return ", ".join(forms[name].format(values.iloc[0]) for name, values in known.items() if len(values))


def _band(figure: Any, rows: pd.DataFrame, modes: list[str], by: str, memory: bool, columns: int) -> None:
    axes = figure.subplots(1, columns, squeeze=False)[0]
    order = list(NAMES)
    names = sorted(rows[by].dropna().unique(), key=lambda name: (order.index(name) if name in order else 99, str(name)))
    for panel, mode in zip(axes, modes, strict=False):
        _lines(panel, rows[rows["mode"] == mode], by, names, "ms_p50")
        panel.set_title(style.drawable(mode if by == "provider" else f"{mode}, by stage"))
    axes[0].set_ylabel("time (ms)")
    if memory:
        peak = rows.groupby([by, "length"])["peak_gib"].max().reset_index()
        _lines(axes[len(modes)], peak, by, names, "peak_gib")
        axes[len(modes)].set_title("peak memory")
        axes[len(modes)].set_ylabel("memory (GiB)")
    for unused in axes[len(modes) + memory :]:
        unused.set_visible(False)
    shown = style.names(NAMES.get(name, name) for name in names)
    style.legend(figure, axes[0].get_lines(), shown, 5)


def _lines(axes: Axes, rows: pd.DataFrame, by: str, names: list[str], value: str) -> None:
    for i, name in enumerate(names):
        own = rows[(rows[by] == name) & rows[value].notna()].sort_values("length")
        colour = STAGE_COLOURS.get(name, style.SERIES[i % len(style.SERIES)])
        marker = style.MARKERS[i % len(style.MARKERS)]
        look: dict[str, Any] = {"zorder": 10 - i}
        if str(name).endswith(" data"):
            look = {"zorder": 11, "ls": ":", "mfc": "white"}
        axes.plot(own["length"], own[value], color=colour, marker=marker, ms=3.2, **look)
        if value == "ms_p50" and {"ms_p20", "ms_p80"} <= set(own.columns):
            axes.fill_between(own["length"], own["ms_p20"], own["ms_p80"], color=colour, alpha=0.2, lw=0)
    axes.set_yscale("log")
    lengths = rows["length"].dropna()
    if len(lengths):
        style.log_axis(axes, "x", lengths)
        axes.tick_params(axis="x", labelrotation=0)
    axes.yaxis.set_major_locator(LogLocator(10))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
    positive = rows[value][rows[value] > 0]
    if len(positive):
        low, high = np.log10(positive.min()), np.log10(positive.max())
        axes.set_ylim(10 ** np.floor(low - 0.05), 10 ** np.ceil(high + 0.05))
    axes.grid(axis="y", lw=0.4, color="#DDDDDD")
    axes.set_xlabel("length (tokens)")
