"""Milliseconds of sparse prefills beside dense attention and NSA, with the share of the choice: benchmarks/methods.csv.

Columns: method, data, length, density, choice_ms, total_ms, density_x_dense_ms, gpu and more, as
`python -m videonsa.bench.methods` writes them. One row a method, length and kind of data; the last one counts.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import style
from analysis.figures.measured import read_table

NEEDED = ("method", "data", "length", "density", "choice_ms", "total_ms", "density_x_dense_ms")
NAMES = {"dense": "dense, cuDNN", "paper": "NSA, ours"}


def read(path: Path) -> pd.DataFrame:
    """The measurements; ValueError with one line when the file is missing or lacks a column."""
    return read_table(path, NEEDED)


def draw(table: pd.DataFrame) -> Figure:
    """At the longest length, a panel for each kind of data: a bar a method, its choice first; density beside it."""
    if not len(table):
        raise ValueError("no measurement")
    table = table[table["length"] == table["length"].max()]
    table = table.drop_duplicates(["method", "data"], keep="last")
    kinds = list(dict.fromkeys(table["data"]))
    methods = list(dict.fromkeys(table["method"]))[::-1]
    figure = style.new_figure(style.TEXT_WIDTH, 0.19 * len(methods) + 0.95)
    style.setting(figure, f"{setting(table)}; beside a bar: density")
    axes = figure.subplots(1, len(kinds), squeeze=False, sharex=True, sharey=True)[0]
    for panel, kind in zip(axes, kinds, strict=True):
        rows = table[table["data"] == kind].set_index("method").reindex(methods)
        _bars(panel, rows)
        panel.set_title(style.drawable(f"{kind} data"))
        panel.set_xlabel("time (ms)")
    axes[0].set_yticks(range(len(methods)), style.names(NAMES.get(name, name) for name in methods))
    handles, labels = axes[0].get_legend_handles_labels()
    style.legend(figure, handles, labels)
    return figure


def _bars(axes: Axes, rows: pd.DataFrame) -> None:
    """Totals, of which the choice is measured by itself; a line where the density alone would put each."""
    places = range(len(rows))
    axes.barh(places, rows["total_ms"], height=0.66, color=style.SKY, label="attention")
    axes.barh(places, rows["choice_ms"], height=0.66, color=style.VERMILION, label="choice of keys")
    axes.scatter(
        rows["density_x_dense_ms"], places, marker="|", s=45, color=style.BLACK, lw=1.1, zorder=3,
        label="density × dense",
    )  # fmt: skip
    right = float(rows["total_ms"].max())
    for place, (total, density) in enumerate(zip(rows["total_ms"], rows["density"], strict=True)):
        if pd.notna(total):
            axes.annotate(f"{density:.2f}", (total, place), (3, 0), textcoords="offset points", va="center", size=6)
    axes.set_xlim(0, 1.18 * right)


def setting(table: pd.DataFrame) -> str:
    """'131,072 tokens, 28 query heads, 4 KV heads, head size 128, bfloat16, NVIDIA H100'"""
    forms = {"length": "{:,} tokens", "heads": "{:g} query heads", "kv_heads": "{:g} KV heads"}
    forms |= {"head_dim": "head size {:g}", "dtype": "{}", "gpu": "{}"}
    known = {name: table[name].dropna() for name in forms if name in table.columns}
    parts = [forms[name].format(values.iloc[0]) for name, values in known.items() if len(values)]
    return ", ".join(parts)
