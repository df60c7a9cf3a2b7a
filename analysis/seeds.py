"""Each training seed by itself: what the means of a table are over, and whether a difference is there in every seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.cell_text import markdown_row
from analysis.pooled import SEED
from analysis.rows import each
from analysis.titles import sweep_title
from videonsa.text import markdown


def to_markdown(rows: pd.DataFrame, plan: Mapping[str, Any]) -> str:
    """A row a variant, a column a benchmark; '' where no variant has several seeds.

    rows: of analysis.compared.compare. '70.8 / 79.2 / - (+4.2 / -1.4 / -)' are accuracies in %, and their differences
    to the reference of the same seed; '-' has not run or failed, or has nothing to be compared with.
    """
    single = rows[rows["unit"] == SEED]
    if not len(single):
        return ""
    suites, seeds = list(dict.fromkeys(single["suite"])), sorted(single["seed"].unique())
    lines = [markdown_row(["variant", *map(markdown, suites)]), markdown_row(["---"] * (1 + len(suites)))]
    for variant, own in single.groupby("variant", sort=False):
        of = [{row.seed: row for row in each(own[own["suite"] == suite])} for suite in suites]
        name = f"**{markdown(variant)}**" if own["is_reference"].any() else markdown(variant)
        lines.append(markdown_row([name, *(_cell([here.get(seed) for seed in seeds]) for here in of)]))
    numbers = ", ".join(str(int(seed)) for seed in seeds)
    about = f"- accuracy in % of training seeds {numbers}, then the difference of each to the reference's of that seed"
    about += "; - has not run or failed, or has nothing to be compared with"
    return "\n".join([f"**{markdown(sweep_title(plan))}**", "", *lines, "", f"{about}\n"])


def _cell(seeds: list[Any]) -> str:
    differences = _numbers([row and row.difference for row in seeds], "+.1f")
    return _numbers([row and row.accuracy for row in seeds], ".1f") + (f" ({differences})" if differences else "")


def _numbers(values: list[Any], form: str) -> str:
    """'' where there is none."""
    known = [None if value is None or pd.isna(value) else format(100 * value, form) for value in values]
    return " / ".join(text or "-" for text in known) if any(known) else ""
