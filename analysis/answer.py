"""What a sweep says to its question, in sentences that its numbers alone decide."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.rows import each
from analysis.stats import SIGNIFICANT
from analysis.tables import score_text


def answer_lines(rows: pd.DataFrame) -> list[str]:
    """A sentence a benchmark, one of what differs from the reference, and what stands behind them.

    rows: of analysis.tables.compare.
    """
    done = rows[rows["status"] == "done"]
    if not len(done):
        return ["No cell has a number yet."]
    lines = [_best(str(suite), group) for suite, group in done.groupby("suite", sort=False)]
    lines += _compared(rows)
    lost = len(rows) - len(done)
    lines += [f"{lost} of {len(rows)} cells have no number."] if lost else []
    seeds = done["seed"].nunique()
    return [*lines, "All of it is one seed." if seeds <= 1 else f"It is {seeds} seeds; each stands for itself."]


def _best(suite: str, group: pd.DataFrame) -> str:
    """The highest accuracy of a benchmark, and the reference's."""
    ordered = list(each(group.sort_values("accuracy", ascending=False, kind="stable")))
    best, reference = ordered[0], next((row for row in ordered if row.is_reference), None)
    among = f" has the highest accuracy of {len(ordered)} variants," if len(ordered) > 1 else " has"
    text = f"{suite}: {best.label}{among} {_number(best)} %"
    if reference is best:
        return f"{text}; it is the reference."
    return f"{text}; the reference, {reference.label}, has {_number(reference)} %." if reference else f"{text}."


def _number(row: Any) -> str:
    """'85.9 [80.3–90.2]', without the difference."""
    return " ".join(score_text(row, decimals=1).split(" ")[:2])


def _compared(rows: pd.DataFrame) -> list[str]:
    """Which variants differ from the reference beyond chance."""
    tests = rows.drop_duplicates("id")
    tests = tests[tests["p_holm"].notna()]
    if not len(tests):
        return []
    reference = rows["reference"].iloc[0]
    beyond = tests[tests["p_holm"] < SIGNIFICANT]
    how = f"paired test, p < {SIGNIFICANT} after Holm's correction over {len(tests)} comparisons"
    if not len(beyond):
        return [f"No variant differs from {reference} beyond chance ({how})."]
    found = [f"{row.label} on {row.suite} by {100 * row.difference:+.1f} points" for row in each(beyond)]
    return [f"From {reference} differ beyond chance ({how}): {'; '.join(found)}."]
