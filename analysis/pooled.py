"""A variant that was trained with several seeds, as one row: the mean over its seeds, beside the rows of each.

`unit` says what a row is: a "cell" whose variant has one seed, the mean over "seeds", or one "seed" of such a mean.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis.numbers import Asked, pair_of, statistics
from analysis.rows import SUMMARY, each

CELL, SEED, SEEDS = "cell", "seed", "seeds"


def shown(rows: pd.DataFrame) -> pd.DataFrame:
    """What tables and figures show: a row a variant and benchmark."""
    return rows[rows["unit"] != SEED]


def cells_of(rows: pd.DataFrame) -> pd.DataFrame:
    """What has a record, or will."""
    return rows[rows["unit"] != SEEDS]


def with_pooled(cells: pd.DataFrame, asked: Asked) -> pd.DataFrame:
    """The cells, and before the first of a variant's several seeds on a benchmark the mean over those that are done.

    cells: of analysis.compared.compare. Adds `unit`; `seeds` that a row is over, of how many that are planned; each
    one's accuracy (a tuple: for figures) and their standard deviation; over how many the difference is, and in how many
    of these it has the mean's sign.
    """
    apart = cells["label"] != cells["variant"]
    cells = cells.assign(unit=np.where(apart, SEED, CELL), seeds=1, seeds_planned=1)
    cells = cells.assign(seeds_accuracies=None, seeds_deviation=None, seeds_compared=None, seeds_agree=None)
    several = cells[apart].groupby(["variant", "suite", "group"], sort=False, dropna=False)
    means = {group.index[0] - 0.5: _mean(group, asked) for _, group in several}
    if not means:
        return cells
    added = pd.DataFrame(means.values(), index=list(means), columns=cells.columns)
    whole = pd.concat([cells.astype(object), added.astype(object)]).sort_index(ignore_index=True)
    return whole.infer_objects()


def _mean(group: pd.DataFrame, asked: Asked) -> dict[str, Any]:
    """The row of a variant's seeds on a benchmark: what they share; of costs their median."""
    done, states = group[group["status"] == "done"], set(group["status"])
    known = done if len(done) else group
    row: dict[str, Any] = {str(name): _shared(known[name]) for name in group}
    row |= known[list(SUMMARY.values())].apply(pd.to_numeric, errors="coerce").median().to_dict()
    row |= {"made_again": bool(known["made_again"].any())}  # in some seed
    row |= {"id": "+".join(group["id"]), "label": row["variant"], "seed": None, "unit": SEEDS}
    row |= {"status": next(state for state in ("done", "failed", "missing") if state in states)}
    accuracies = done["accuracy"].astype(float)
    row |= {"accuracy": accuracies.mean(), "seeds_accuracies": tuple(accuracies), "seeds_deviation": accuracies.std()}
    row |= {"seeds": len(done), "seeds_planned": len(group)}
    return row | _compared(list(each(done)), asked)


def _shared(values: pd.Series) -> Any:
    """What all have; None where they differ."""
    first, *others = values
    return first if all(other == first or (other != other and first != first) for other in others) else None


def _compared(seeds: list[Any], asked: Asked) -> dict[str, Any]:
    """The statistics over seeds that are done."""
    own = [asked[seed.id] for seed in seeds if seed.id in asked]
    pairs = [pair for seed in seeds if (pair := pair_of(seed, asked))]
    found = statistics(seeds[0] if seeds else None, own if len(own) == len(seeds) else [], pairs)
    agree = [seed.difference * found["difference"] > 0 for seed in seeds]
    return found | ({"seeds_compared": len(pairs), "seeds_agree": sum(agree)} if pairs else {})
