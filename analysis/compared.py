"""Cells beside the reference: each accuracy with its interval and its paired difference, computed once, tidy.

One row a cell and one a mean over a variant's seeds; tables, figures and pages are ways to write the same rows.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.load import Results
from analysis.numbers import Asked, by_cell, pair_of, statistics
from analysis.pooled import shown, with_pooled
from analysis.rows import each, groups_of
from analysis.stats import holm

COMPARED = [
    "low",
    "high",
    "standard_error",
    "answered",
    "unanswered",
    "videos",
    "difference",
    "difference_low",
    "difference_high",
    "p",
    "pairs",
    "test",
]


def compare(results: Results, reference: str | None) -> pd.DataFrame:
    """The cells with columns added: those of COMPARED and p_holm; `videos` is NaN where the record names none.

    A difference is the cell minus the reference variant on the same suite and seed, over the questions both answered;
    in a sweep of groups, minus the variant that is like the reference in the cell's own group. Where both are of one
    training that was made again between them, to other bits (`made_again`), there is none: it would be of two weights.
    A variant of several seeds has a row more on each benchmark, the mean over them (analysis/pooled.py).
    Holm's correction is over every test of the frame that is shown, so not over single seeds' ones; labels of equal
    settings are one cell, and one test. A failed or missing cell has NaN everywhere.
    """
    cells = _by_group(results.cells)
    cells["digest"] = cells["digest"].astype(object).where(cells["digest"].notna(), None)
    scores = by_cell(results.questions.drop_duplicates(["cell", "doc_id"], keep="last"))
    cells["reference"] = _references(cells, reference)
    cells["is_reference"] = cells["variant"] == cells["reference"]
    bases = {(row.suite, row.seed, row.reference): row for row in each(cells) if row.is_reference}
    beside = [bases.get((row.suite, row.seed, row.reference)) for row in each(cells)]
    cells["made_again"] = [_made_again(row, base) for row, base in zip(each(cells), beside, strict=True)]
    cells["base"] = pd.Series([base.id if base else None for base in beside], index=cells.index, dtype=object)
    cells.loc[cells["is_reference"] | cells["made_again"], "base"] = None
    rows = [_statistics(row, scores) for row in each(cells)]
    cells[COMPARED] = pd.DataFrame(rows, index=cells.index, columns=COMPARED)
    cells = with_pooled(cells, scores)
    again = cells["id"].duplicated() | cells["id"].isin(cells.loc[cells["is_reference"], "id"])
    counted = ~again & cells.index.isin(shown(cells).index)
    cells["p_holm"] = holm(cells["p"].astype(float).where(counted).to_numpy()) if len(cells) else []
    cells["p_holm"] = cells.groupby("id")["p_holm"].transform("first")
    return cells


def _by_group(cells: pd.DataFrame) -> pd.DataFrame:
    """A copy whose groups, where there are any, stand together, in the order in which they come first."""
    order = {group: place for place, group in enumerate(groups_of(cells))}
    return cells.sort_values("group", key=lambda groups: groups.map(order), kind="stable", ignore_index=True)


def _references(cells: pd.DataFrame, reference: str | None) -> pd.Series:
    """The variant that each cell is compared with: the reference, or what is like it in the cell's group."""
    alike = cells["name"].isin(cells.loc[cells["variant"] == reference, "name"]) & cells["group"].notna()
    of_groups = cells[alike].drop_duplicates("group").set_index("group")["variant"]
    return cells["group"].map(of_groups).astype(object).where(cells["group"].notna(), reference)


def _made_again(row: Any, base: Any) -> bool:
    """The cell and the one that it is compared with were asked of other weights, though of one training.

    A training whose weights are gone is made again for more questions, on a GPU not always to the same bits. What was
    asked before that records whose weights had no digest is of weights that are not known.
    """
    done = base is not None and row.status == base.status == "done"
    return done and row.training == base.training and row.digest != base.digest


def _statistics(row: Any, asked: Asked) -> dict[str, Any]:
    pair = pair_of(row, asked)
    return statistics(row, [asked[row.id]] if row.id in asked else [], [pair] if pair else [])
