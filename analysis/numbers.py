"""Cells' and their parts' numbers, with intervals and differences: `analysis.stats` on rows of questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.stats import NO_ESTIMATE, NO_PAIRS, Estimate, Paired, estimate, paired

Asked = Mapping[str, pd.DataFrame]  # cell -> its questions
Pair = tuple[pd.DataFrame, pd.DataFrame]  # questions of a cell and of another
NEEDED = ["cell", "doc_id", "prompt_hash", "score", "video", "kind", "parts"]  # of questions; fewer columns cost less
SAME = 1e-6  # numbers that differ by less are one number


def by_cell(questions: pd.DataFrame) -> Asked:
    """The questions of each cell, with what numbers are made of."""
    return {str(cell): own for cell, own in questions[NEEDED].groupby("cell")}


def statistics(cell: Any, own: Sequence[pd.DataFrame], pairs: Sequence[Pair]) -> dict[str, Any]:
    """What analysis.compared.compare adds to a cell, of its questions and of those that it is compared on; of several
    seeds' cells, to the mean over them. None or NaN where nothing is recorded."""
    mean = number_of(cell, *own) if own else NO_ESTIMATE
    test = difference_of(cell, *pairs) if pairs else NO_PAIRS
    asked = pd.concat(own) if own else None
    return {
        "low": mean.low,
        "high": mean.high,
        "standard_error": mean.error,
        "answered": asked.loc[asked["score"].notna(), "doc_id"].nunique() if asked is not None else None,
        "unanswered": int(asked["score"].isna().sum()) if asked is not None else None,
        "videos": mean.videos if asked is not None and asked["video"].notna().any() else np.nan,
        "difference": test.difference,
        "difference_low": test.low,
        "difference_high": test.high,
        "p": test.p,
        "pairs": test.n,
        "test": test.test,
    }


def pair_of(cell: Any, asked: Asked) -> Pair | None:
    """The questions of a cell and of its `base`, the one that it is compared with, where both are recorded."""
    own, other = asked.get(cell.id), asked.get(cell.base)
    return None if own is None or other is None else (own, other)


def number_of(cell: Any, *seeds: pd.DataFrame) -> Estimate:
    """A cell's number, of its questions; of those of several seeds the mean over seeds."""
    first = seeds[0] if len(seeds) == 1 else pd.concat(seeds).drop_duplicates("doc_id")
    return estimate(_scores(first, seeds), *_about(first), shares_of(cell))


def number_of_part(cell: Any, name: str, *seeds: pd.DataFrame) -> Estimate:
    """A sub-score, of the cell's questions that enter it: those that list it, or whose kind has its name."""
    return number_of(cell, *(one[_enters(one, name)] for one in seeds))


def _enters(questions: pd.DataFrame, name: str) -> np.ndarray:
    listed = [name in names if isinstance(names, list) else False for names in questions["parts"]]
    return np.array(listed, dtype=bool) | (questions["kind"] == name).to_numpy()


def difference_of(cell: Any, *seeds: Pair) -> Paired:
    """The cell's number minus another's, on the questions with the same id and the same prompt: (own, other) of a seed
    each, and of several the mean over seeds."""
    pairs = [_pairs(own, other) for own, other in seeds]
    first = pairs[0][0] if len(pairs) == 1 else pd.concat([own for own, _ in pairs]).drop_duplicates("doc_id")
    own, other = (_scores(first, side) for side in zip(*pairs, strict=True))
    return paired(own, other, *_about(first), shares_of(cell))


def _pairs(own: pd.DataFrame, other: pd.DataFrame) -> Pair:
    """The questions of both, in one order."""
    first, second = own.set_index("doc_id", drop=False), other.set_index("doc_id", drop=False)
    both = first.index.intersection(second.index)
    first, second = first.loc[both], second.loc[both]
    asked, other_asked = first["prompt_hash"], second["prompt_hash"]
    same = ((asked == other_asked) | asked.isna() | other_asked.isna()).to_numpy()
    return first[same], second[same]


def _scores(first: pd.DataFrame, seeds: Sequence[pd.DataFrame]) -> np.ndarray:
    """[seeds, questions] of `first`, NaN where a seed did not answer; of one seed as they stand."""
    if len(seeds) == 1:
        return seeds[0]["score"].to_numpy(dtype=float)
    return np.array([one.set_index("doc_id")["score"].reindex(first["doc_id"]) for one in seeds], dtype=float)


def _about(questions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Videos and kinds."""
    return questions["video"].to_numpy(), questions["kind"].to_numpy()


def shares_of(cell: Any) -> Mapping[str, float] | None:
    """What each kind of question counts in the cell's number; None: each question counts the same."""
    return cell.shares if isinstance(cell.shares, dict) else None
