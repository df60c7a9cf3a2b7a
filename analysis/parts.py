"""The sub-scores of a sweep's benchmarks, by lmms-eval's names, each with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.load import Results
from analysis.numbers import SAME, number_of_part
from analysis.rows import each
from analysis.stats import NO_ESTIMATE, Estimate
from analysis.tables import markdown_row
from analysis.titles import sweep_title
from videonsa.record import write_text
from videonsa.text import markdown

COLUMNS = ["id", "label", "seed", "suite", "part", "score", "low", "high", "standard_error", "questions", "videos"]


def parts_of(results: Results) -> pd.DataFrame:
    """One row a finished cell and sub-score (COLUMNS). The interval is NaN where the record does not say of what."""
    asked = dict(iter(results.questions.groupby("cell")))
    rows = []
    for cell in each(results.cells[results.cells["status"] == "done"]):
        for name, part in (cell.parts if isinstance(cell.parts, dict) else {}).items():
            number = part_number(cell, asked.get(cell.id), name)
            about = {"id": cell.id, "label": cell.label, "seed": cell.seed, "suite": cell.suite, "part": name}
            videos = number.videos or None
            sure = {"low": number.low, "high": number.high, "standard_error": number.error, "videos": videos}
            rows.append({**about, "score": part.get("score"), "questions": part.get("questions"), **sure})
    return pd.DataFrame(rows, columns=COLUMNS)


def part_number(cell: Any, questions: pd.DataFrame | None, name: str) -> Estimate:
    """A cell's sub-score with its interval; NO_ESTIMATE where the record does not say of which questions it is."""
    score = cell.parts[name].get("score")
    number = NO_ESTIMATE if questions is None else number_of_part(cell, questions, name)
    return NO_ESTIMATE if score is None or not abs(number.mean - score) <= SAME else number


def write_parts(plan: Mapping[str, Any], results: Results, sweep: Path) -> list[Path]:
    """parts.md and .csv in the sweep folder; no path where no record has sub-scores."""
    parts = parts_of(results)
    if not len(parts):
        return []
    write_text(sweep / "parts.md", to_markdown(parts, plan))
    write_text(sweep / "parts.csv", parts.to_csv(index=False, lineterminator="\n"))
    return [sweep / "parts.md", sweep / "parts.csv"]


def to_markdown(parts: pd.DataFrame, plan: Mapping[str, Any]) -> str:
    """A table a benchmark: sub-scores in rows, with their questions; variants in columns."""
    lines = [f"**{markdown(sweep_title(plan))}**", ""]
    for suite, group in parts.groupby("suite", sort=False):
        labels = list(dict.fromkeys(group["label"]))
        headings = [markdown(suite), "questions", *map(markdown, labels)]
        lines += [markdown_row(headings), markdown_row(["---"] * len(headings))]
        for name, same in group.groupby("part", sort=False):
            here = {row.label: row for row in each(same)}
            counts = sorted({int(count) for count in same["questions"].dropna()})
            asked = "–".join(f"{count:,}" for count in dict.fromkeys([counts[0], counts[-1]])) if counts else "-"
            lines.append(markdown_row([markdown(name), asked, *(_text(here.get(label)) for label in labels)]))
        lines.append("")
    return "\n".join([*lines, "- scores in % [95 % interval, by video where questions share one]"]) + "\n"


def _text(row: Any) -> str:
    if row is None or pd.isna(row.score):
        return "-"
    sure = "" if pd.isna(row.low) else f" [{100 * row.low:.1f}–{100 * row.high:.1f}]"
    return f"{100 * row.score:.1f}{sure}"
