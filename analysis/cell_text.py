"""How a table says an accuracy or a cost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from analysis.stats import SIGNIFICANT

COSTS = {  # column -> (heading, factor)
    "prefill_ms": ("prefill\nms", 1.0),
    "peak_memory_mib": ("peak\nMiB", 1.0),
    "attention_fraction": ("attention\n%", 100.0),
}
OF_METHODS = {"density": ("pairs\n%", 100.0)}  # where a sweep compares methods


def costs_of(rows: pd.DataFrame) -> dict[str, tuple[str, float]]:
    """The columns of cost that a table of these rows has, with heading and factor."""
    known = set(rows["method"].dropna()) <= {"paper", "release", "dense"}
    return COSTS if known else COSTS | OF_METHODS


def score_text(row: Any, decimals: int = 0) -> str:
    """'91.0 [86–94] +1.5* (2 of 3 seeds)', 'failed', or '-' for a cell that has not run."""
    if row is None or row.status == "missing":
        return "-"
    if row.status == "failed":
        return "failed"
    text = f"{100 * row.accuracy:.1f}"
    if not np.isnan(row.low):
        text += f" [{100 * row.low:.{decimals}f}–{100 * row.high:.{decimals}f}]"
    if not np.isnan(row.difference):
        text += f" {100 * row.difference:+.1f}{'*' if row.p_holm < SIGNIFICANT else ''}"
    text += f" ({row.seeds} of {row.seeds_planned} seeds)" if row.seeds < row.seeds_planned else ""
    return text + (f" ({errors(row)} err)" if errors(row) else "")


def errors(row: Any) -> int:
    """Questions that ended in an error; 0, too, where the record does not hold its questions."""
    return int(row.unanswered) if pd.notna(row.unanswered) else 0


def cost_text(values: pd.Series, factor: float = 1.0) -> str:
    """One number, or 'low–high' where the suites differ; '-' when none was measured."""
    numbers = pd.to_numeric(values, errors="coerce").dropna() * factor
    if not len(numbers):
        return "-"
    low, high = (f"{x:,.0f}" if x >= 99.5 else f"{x:.3g}" for x in (numbers.min(), numbers.max()))
    return low if low == high else f"{low}–{high}"


def markdown_row(cells: Iterable[str]) -> str:
    """One row of a Markdown table, of what is Markdown already."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
