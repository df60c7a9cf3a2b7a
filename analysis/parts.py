"""The sub-scores of a sweep's benchmarks, by lmms-eval's names, each with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.cell_text import markdown_row
from analysis.files import write_texts
from analysis.load import Results
from analysis.numbers import SAME, Asked, by_cell, number_of_part
from analysis.pooled import CELL, SEED, SEEDS, shown
from analysis.rows import each
from analysis.stats import NO_ESTIMATE, Estimate
from analysis.titles import sweep_title
from videonsa.text import markdown

COLUMNS = [
    *("id", "label", "seed", "suite", "unit", "part"),
    *("score", "low", "high", "standard_error", "questions", "videos"),
]


def parts_of(results: Results) -> pd.DataFrame:
    """One row a finished cell and sub-score (COLUMNS), and one of the mean over a variant's seeds (`unit`, as in
    analysis.pooled). The interval is NaN where the record does not say of what."""
    asked = by_cell(results.questions)
    rows = []
    for _, group in results.cells[results.cells["status"] == "done"].groupby(["variant", "suite"], sort=False):
        cells = list(each(group))
        single = SEED if cells[0].label != cells[0].variant else CELL
        if single == SEED:
            of = {"id": "+".join(cell.id for cell in cells), "label": cells[0].variant, "unit": SEEDS}
            rows += _rows(cells, asked, of)
        for cell in cells:
            rows += _rows([cell], asked, {"id": cell.id, "label": cell.label, "seed": cell.seed, "unit": single})
    return pd.DataFrame(rows, columns=COLUMNS)


def _rows(cells: Sequence[Any], asked: Asked, about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The sub-scores of a cell, or the means of those that all of several seeds' cells have."""
    known = [cell.parts if isinstance(cell.parts, dict) else {} for cell in cells]
    rows = []
    for name in known[0]:
        parts = [of[name] for of in known if name in of]
        if len(parts) < len(cells):
            continue
        scores = [part.get("score") for part in parts]
        score = None if None in scores else float(np.mean(scores)) if scores[1:] else scores[0]
        number = _number(cells, asked, name)
        sure = {"low": number.low, "high": number.high, "standard_error": number.error, "videos": number.videos or None}
        rows.append({**about, "suite": cells[0].suite, "part": name, "score": score, **sure})
        rows[-1]["questions"] = parts[0].get("questions")
    return rows


def _number(cells: Sequence[Any], asked: Asked, name: str) -> Estimate:
    """Of one cell, or over seeds where each one's is known."""
    numbers = [part_number(cell, asked.get(cell.id), name) for cell in cells]
    if len(cells) == 1 or not all(number.n for number in numbers):
        return numbers[0] if len(cells) == 1 else NO_ESTIMATE
    return number_of_part(cells[0], name, *(asked[cell.id] for cell in cells))


def part_number(cell: Any, questions: pd.DataFrame | None, name: str) -> Estimate:
    """A cell's sub-score with its interval; NO_ESTIMATE where the record does not say of which questions it is."""
    score = cell.parts[name].get("score")
    number = NO_ESTIMATE if questions is None else number_of_part(cell, name, questions)
    return NO_ESTIMATE if score is None or not abs(number.mean - score) <= SAME else number


def write_parts(plan: Mapping[str, Any], results: Results, sweep: Path) -> list[Path]:
    """parts.md and .csv in the sweep folder; no path where no record has sub-scores."""
    parts = parts_of(results)
    rows = parts.to_csv(index=False, lineterminator="\n") if len(parts) else ""
    return write_texts(sweep, {"parts.md": rows and to_markdown(parts, plan), "parts.csv": rows})


def to_markdown(parts: pd.DataFrame, plan: Mapping[str, Any]) -> str:
    """A table a benchmark: sub-scores in rows, with their questions; variants in columns."""
    lines = [f"**{markdown(sweep_title(plan))}**", ""]
    for suite, group in shown(parts).groupby("suite", sort=False):
        labels = list(dict.fromkeys(group["label"]))
        headings = [markdown(suite), "questions", *map(markdown, labels)]
        lines += [markdown_row(headings), markdown_row(["---"] * len(headings))]
        for name, same in group.groupby("part", sort=False):
            here = {row.label: row for row in each(same)}
            counts = sorted({int(count) for count in same["questions"].dropna()})
            asked = "–".join(f"{count:,}" for count in dict.fromkeys([counts[0], counts[-1]])) if counts else "-"
            lines.append(markdown_row([markdown(name), asked, *(_text(here.get(label)) for label in labels)]))
        lines.append("")
    seeds = ", and over training seeds" if (parts["unit"] == SEEDS).any() else ""
    return "\n".join([*lines, f"- scores in % [95 % interval, by video where questions share one{seeds}]"]) + "\n"


def _text(row: Any) -> str:
    if row is None or pd.isna(row.score):
        return "-"
    sure = "" if pd.isna(row.low) else f" [{100 * row.low:.1f}–{100 * row.high:.1f}]"
    return f"{100 * row.score:.1f}{sure}"
