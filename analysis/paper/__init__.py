"""The paper's numbers (reference.csv, see README.md), and which of them answer the same question as a cell of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from analysis.rows import each
from videonsa.record import write_text

SOURCE = "published: arXiv 2510.02295v2, without intervals"
FAILED = "a failed run in the paper, not a score"
BENCHMARKS = {"longvideobench_val_v": "longvideobench"}  # our suite -> the paper's name, where they differ
TRAINED = (32, 256)  # block count and window of training
METHODS = {  # label of a variant -> the paper's names of that method
    "dense": ("qwen2_5_vl_7b", "dense"),
    "awq": ("qwen2_5_vl_7b_awq", "awq"),
    "dense_sft": ("qwen2_5_vl_7b_sft", "dense_sft"),
    "dense_nsa": ("dense_nsa",),
    **{
        name: (name,)
        for name in ("tri_shape", "minference", "flexprefill", "xattention", "fastv", "vscan", "visionzip")
    },
}


def load_reference() -> pd.DataFrame:
    """The published numbers; `value` is NaN where the paper writes a failed run as 0.0."""
    table = pd.read_csv(Path(__file__).parent / "reference.csv")
    table["value"] = table["value"].astype(float).mask(table["note"] == FAILED)
    return table


def beside(rows: pd.DataFrame) -> pd.DataFrame:
    """Our finished cells with every published score of the same benchmark and setting, one row a pair.

    Columns: label, suite, ours, low, high, published (all in %), table, method. Cells of the tiny model have none.
    """
    reference = load_reference()
    scores = reference[reference["metric"].isin(["accuracy", "overall"]) & reference["value"].notna()]
    found = []
    for row in each(rows[(rows["status"] == "done") & (rows["model"] != "tiny")]):
        for match in each(_matching(row, scores)):
            ours = {"ours": 100 * row.accuracy, "low": 100 * row.low, "high": 100 * row.high}
            theirs = {"published": match.value, "table": match.table, "method": match.method}
            found.append({"label": row.label, "suite": row.suite, **ours, **theirs})
    columns = ["label", "suite", "ours", "low", "high", "published", "table", "method"]
    return pd.DataFrame(found, columns=columns)


def _matching(row: Any, scores: pd.DataFrame) -> pd.DataFrame:
    """Published scores of the row's benchmark at the row's attention and sampling."""
    here = scores[(scores["benchmark"] == BENCHMARKS.get(row.suite, row.suite)) & scores["context"].isna()]
    if row.label in METHODS or row.attention == "dense":  # dense attention of whose weights, only the label says
        return here[here["method"].isin(METHODS.get(row.label, ()))]
    if row.gate_mode == "static":
        return here[here["method"] == "videonsa_static_gate"]
    if row.branches != "cmp+slc+swa":
        return here[here["method"] == row.branches]
    own = here[here["method"].isin(["videonsa", "cmp+slc+swa"])]
    same_budget = (own["block_count"] == row.block_count) & (own["window"] == row.window)
    if (row.block_count, row.window) != TRAINED:
        return own[same_budget]
    plain = own["block_count"].isna()
    sampled = own["tokens_per_frame"].notna()
    frames = own["frames"].eq(row.frames) | (own["frames"].isna() & own["fps"].eq(row.fps))
    return own[same_budget | (plain & (~sampled | (own["tokens_per_frame"].eq(row.tokens_per_frame) & frames)))]


def to_markdown(pairs: pd.DataFrame) -> str:
    """Ours and published side by side."""
    lines = [f"Scores in %; {SOURCE}.", "", "| variant | suite | ours [95 %] | published | table | method |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for pair in each(pairs):
        ours = f"{pair.ours:.1f} [{pair.low:.1f}–{pair.high:.1f}]"
        cells = (pair.label, pair.suite, ours, f"{pair.published:.1f}", pair.table, pair.method)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def write_beside(rows: pd.DataFrame, sweep: Path) -> list[Path]:
    """published.md and .csv in the sweep folder; no path when nothing of the sweep is in the paper."""
    pairs = beside(rows)
    if not len(pairs):
        return []
    write_text(sweep / "published.md", to_markdown(pairs))
    write_text(sweep / "published.csv", pairs.to_csv(index=False, lineterminator="\n"))
    return [sweep / "published.md", sweep / "published.csv"]
