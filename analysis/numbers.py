"""Cells' and their parts' numbers, with intervals and differences: `analysis.stats` on rows of questions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.stats import Estimate, Paired, estimate, paired

SAME = 1e-6  # numbers that differ by less are one number


def number_of(cell: Any, questions: pd.DataFrame) -> Estimate:
    """A cell's number, of its questions."""
    return estimate(*_columns(questions), shares_of(cell))


def number_of_part(cell: Any, questions: pd.DataFrame, name: str) -> Estimate:
    """A sub-score, of the cell's questions that enter it: those that list it, or whose kind has its name."""
    enters = [name in names if isinstance(names, list) else False for names in questions["parts"]]
    return number_of(cell, questions[np.array(enters, dtype=bool) | (questions["kind"] == name).to_numpy()])


def difference_of(cell: Any, own: pd.DataFrame, other: pd.DataFrame) -> Paired:
    """The cell's number minus another's, on the questions with the same id and the same prompt."""
    first, second = own.set_index("doc_id"), other.set_index("doc_id")
    both = first.index.intersection(second.index)
    first, second = first.loc[both], second.loc[both]
    asked, other_asked = first["prompt_hash"], second["prompt_hash"]
    same = ((asked == other_asked) | asked.isna() | other_asked.isna()).to_numpy()
    first, second = first[same], second[same]
    scores, videos, kinds = _columns(first)
    return paired(scores, _columns(second)[0], videos, kinds, shares_of(cell))


def _columns(questions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, videos and kinds."""
    return questions["score"].to_numpy(dtype=float), questions["video"].to_numpy(), questions["kind"].to_numpy()


def shares_of(cell: Any) -> Mapping[str, float] | None:
    """What each kind of question counts in the cell's number; None: each question counts the same."""
    return cell.shares if isinstance(cell.shares, dict) else None
