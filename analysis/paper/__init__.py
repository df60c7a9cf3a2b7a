"""The paper's numbers (reference.csv, settings.csv, README.md), and which of them answer the question of a cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from analysis.paper.questions import (
    OWN,
    Question,
    differing,
    load_settings,
    our_question,
    plain,
    published_question,
    suite_of,
    tell,
)
from analysis.rows import each
from videonsa.record import write_text
from videonsa.text import markdown

SOURCE = "published: arXiv 2510.02295v2, without intervals"
FAILED = "a failed run in the paper, not a score"
COLUMNS = ["label", "suite", "ours", "low", "high", "published", "table", "method", "note"]
REASONS = ["label", "suite", "reason"]


def load_reference() -> pd.DataFrame:
    """The published numbers; `value` is NaN where the paper writes a failed run as 0.0."""
    table = pd.read_csv(Path(__file__).parent / "reference.csv")
    table["value"] = table["value"].astype(float).mask(table["note"] == FAILED)
    return table


def beside(rows: pd.DataFrame) -> pd.DataFrame:
    """Our finished cells with every published score that answers the same question, one row a pair.

    Same are the task, weights, attention, semantics, sampling, and that all questions are asked; the seed is ours.
    Columns: label, suite, ours, low, high, published (all in %), table, method, note (what to know of the pair).
    """
    return compared(rows)[0]


def compared(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`beside`, and the finished cells on the paper's benchmarks that stand beside no number, each with why."""
    reference = load_reference()
    scores = reference[reference["metric"].isin(["accuracy", "overall"]) & reference["value"].notna()]
    settings = load_settings()
    asked = [(score, published_question(score, settings)) for score in each(scores)]
    pairs, reasons = [], []
    for row in each(rows[rows["status"] == "done"]):
        here = [(score, question) for score, question in asked if suite_of(score.benchmark) == row.suite]
        if not here or isinstance(getattr(row, "source", None), str):  # what was made elsewhere is not ours
            continue
        ours = our_question(row)
        same = [score for score, theirs in here if theirs is not None and not differing(ours, theirs)]
        pairs += [_pair(row, score, _note(row, same)) for score in same]
        if not same:
            known = [theirs for _, theirs in here if theirs is not None]
            reasons.append({"label": row.label, "suite": row.suite, "reason": _why_not(ours, known)})
    return pd.DataFrame(pairs, columns=COLUMNS), pd.DataFrame(reasons, columns=REASONS)


def _pair(row: Any, score: Any, note: str) -> dict[str, Any]:
    ours = {"ours": 100 * row.accuracy, "low": 100 * row.low, "high": 100 * row.high}
    theirs = {"published": score.value, "table": score.table, "method": score.method, "note": note}
    return {"label": row.label, "suite": row.suite, **ours, **theirs}


def _note(row: Any, same: list[Any]) -> str:
    notes = []
    if row.weights in OWN:
        notes.append("trained here, by the paper's recipe")
    if errors := plain(getattr(row, "errors", None)):
        notes.append(f"{errors} of our questions ended in an error")
    values = [score.value for score in same]
    if len(set(values)) > 1:
        notes.append(f"the paper disagrees with itself: {min(values):.1f} to {max(values):.1f}")
    return "; ".join(notes)


def _why_not(ours: Question, known: list[Question]) -> str:
    """What differs from the published question that is nearest."""
    if not known:
        return "the paper does not say how it samples this benchmark's videos"

    def distance(theirs: Question) -> tuple[bool, bool, int]:
        fields = differing(ours, theirs)
        return "weights" in fields, "attention" in fields, len(fields)

    nearest = min(known, key=distance)
    fields = differing(ours, nearest)
    return f"asked {tell(ours, fields)}; the paper {tell(nearest, fields)}"


def to_markdown(pairs: pd.DataFrame, reasons: pd.DataFrame | None = None) -> str:
    """Ours and published side by side; below, why other cells stand beside no number."""
    lines = [f"Scores in %; {SOURCE}.", ""]
    if len(pairs):
        lines += ["| variant | suite | ours [95 %] | published | table | method | note |"]
        lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
    for pair in each(pairs):
        ours = f"{pair.ours:.1f} [{pair.low:.1f}–{pair.high:.1f}]"
        cells = (pair.label, pair.suite, ours, f"{pair.published:.1f}", pair.table, pair.method, pair.note)
        lines.append("| " + " | ".join(markdown(cell).replace("|", "\\|") for cell in cells) + " |")
    if reasons is not None and len(reasons):
        lines += ["", "No published number:", ""]
        lines += [f"- {markdown(f'{row.label}, {row.suite}: {row.reason}')}" for row in each(reasons)]
    return "\n".join(lines) + "\n"


def write_beside(rows: pd.DataFrame, sweep: Path) -> list[Path]:
    """published.md and .csv in the sweep folder; no path when none of its benchmarks is in the paper."""
    pairs, reasons = compared(rows)
    paths = [sweep / "published.md", sweep / "published.csv"]
    if not len(pairs) and not len(reasons):
        for path in paths:
            path.unlink(missing_ok=True)
        return []
    write_text(paths[0], to_markdown(pairs, reasons))
    write_text(paths[1], pairs.to_csv(index=False, lineterminator="\n"))
    return paths
