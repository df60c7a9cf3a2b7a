"""What a sweep's run at W&B shows as tables: names of columns, and rows of plain values. No W&B here."""

from __future__ import annotations

from typing import Any, NamedTuple

import pandas as pd

from analysis.load import Results
from analysis.page.media import Media
from analysis.pooled import SEEDS, cells_of, shown
from analysis.rows import each
from videonsa.record import without_paths
from videonsa.wandb_rules import fitting, plain

TABLE, QUESTIONS, FIGURES = "table", "questions", "figures"  # under which names a sweep's run keeps them
MOST_ROWS = 100_000  # of a table of questions; W&B keeps 200,000 and shows fewer

OF_CELLS = {  # heading -> (column of analysis.compared.compare, factor)
    "accuracy %": ("accuracy", 100.0),
    "low": ("low", 100.0),
    "high": ("high", 100.0),
    "difference": ("difference", 100.0),
    "difference low": ("difference_low", 100.0),
    "difference high": ("difference_high", 100.0),
    "p": ("p", 1.0),
    "p (Holm)": ("p_holm", 1.0),
    "pairs": ("pairs", 1.0),
    "questions": ("answered", 1.0),
    "prefill ms": ("prefill_ms", 1.0),
    "latency ms": ("latency_ms", 1.0),
    "peak MiB": ("peak_memory_mib", 1.0),
    "attention %": ("attention_fraction", 100.0),
    "pairs computed %": ("density", 100.0),
}


class Rows(NamedTuple):
    """A table."""

    columns: list[str]
    data: list[list[Any]]
    left_out: int = 0  # rows that had no room


def run_id(row: Any) -> str:
    """The id of a cell's run, as analysis.mirror.cell gives it."""
    return f"{row.id}-{row.status}"


def sweep_run_id(sweep: str) -> str:
    """The same whenever the sweep's run is made; a sweep with other settings has another name."""
    return fitting(f"sweep-{sweep}", "id")


def cells_table(rows: pd.DataFrame) -> Rows:
    """Every cell, or mean over seeds: its number with interval, the difference to the reference with interval and test,
    its costs."""
    columns = ["variant", "benchmark", "status", "seeds", "reference", *OF_CELLS, "test", "run", "error"]
    data = []
    for row in each(shown(rows)):
        numbers = [_number(getattr(row, name), factor) for name, factor in OF_CELLS.values()]
        run = None if row.status == "missing" or row.unit == SEEDS else run_id(row)
        about = [_text(row.label), row.suite, row.status, row.seeds, bool(row.is_reference)]
        data.append([*about, *numbers, _text(row.test), run, _text(row.error)])
    return Rows(columns, data)


def question_tables(results: Results, rows: pd.DataFrame, media: Media) -> dict[str, Rows]:
    """Of each benchmark every question that a finished cell was asked, a row a variant; by the benchmark's name.

    A table that would have more than MOST_ROWS keeps whole questions, first those that variants answer differently.
    media: has the prompts, with the options; records of before they were kept have none.
    """
    asked = {str(cell): group for cell, group in results.questions.groupby("cell")}
    found = {}
    for suite, cells in cells_of(rows).drop_duplicates("id").groupby("suite", sort=False):
        there = [cell for cell in each(cells) if cell.id in asked]
        if there:
            each_asked = [asked[cell.id].assign(variant=cell.label, media=cell.media) for cell in there]
            found[str(suite)] = _questions(pd.concat(each_asked, ignore_index=True), media)
    return found


def _questions(asked: pd.DataFrame, media: Media) -> Rows:
    columns = ["variant", "question", "kind", "sub-scores", "prompt and options", "right answer", "prediction"]
    columns += ["score", "latency ms", "prefill ms", "error"]
    kept = asked[asked["doc_id"].isin(_chosen(asked))]
    data = []
    for row in each(kept):
        parts = ", ".join(map(str, row.parts)) if isinstance(row.parts, list) else None
        prompt = media.question(row.media, row.doc_id).prompt
        texts = [_text(text) for text in (row.variant, row.doc_id, row.kind, parts, prompt, row.answer, row.prediction)]
        numbers = [_number(value) for value in (row.score, row.latency_ms, row.prefill_ms)]
        data.append([*texts, *numbers, _text(row.error)])
    return Rows(columns, data, len(asked) - len(kept))


def _chosen(asked: pd.DataFrame) -> list[str]:
    """The questions that have room, in their order."""
    if len(asked) <= MOST_ROWS:
        return list(asked["doc_id"].unique())
    groups = asked.groupby("doc_id", sort=False)["score"].agg(["std", "size"]).sort_values("std", ascending=False)
    return list(groups.index[groups["size"].cumsum() <= MOST_ROWS])


def _number(value: Any, factor: float = 1.0) -> float | None:
    return None if value is None or pd.isna(value) else round(factor * float(value), 6)


def _text(value: Any) -> str | None:
    """Text as W&B takes it, without this machine's folders; None stays none."""
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return None
    return plain(without_paths(str(value)))
