"""What a sweep says to its question, in sentences that its numbers alone decide."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.cell_text import score_text
from analysis.pooled import cells_of, shown
from analysis.rows import each
from analysis.stats import SIGNIFICANT

MOST = 3  # variants that a sentence names before it counts


def answer_lines(rows: pd.DataFrame) -> list[str]:
    """A line a benchmark: the highest accuracy, and who differs from the reference; then what stands behind them.

    rows: of analysis.compared.compare.
    """
    body, cells = shown(rows), cells_of(rows)
    done = body[body["status"] == "done"]
    if not len(done):
        return ["No cell has a number yet."]
    tests = int(body.drop_duplicates("id")["p_holm"].notna().sum())
    groups = done.groupby(["suite", "group"], sort=False, dropna=False)
    lines = [f"{_best(_asked(group), group)}{_compared(group)}" for _, group in groups]
    how = f"Beyond chance: p < {SIGNIFICANT} in a paired test after Holm's correction over {tests} comparisons."
    lines += [how] if tests else []
    lost = int((cells["status"] != "done").sum())
    lines += [f"{lost} of {len(cells)} cells have no number."] if lost else []
    return [*lines, _over_seeds(done)]


def _over_seeds(done: pd.DataFrame) -> str:
    """How much of it is of several seeds."""
    counts = sorted({int(count) for count in done["seeds"]})
    if counts == [1]:
        return "All of it is one seed."
    if counts[0] == 1:
        return f"Numbers are means over up to {counts[-1]} training seeds; some are of one and say nothing of another."
    return f"Numbers are means over {'–'.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} training seeds."


def _asked(cells: pd.DataFrame) -> str:
    """The benchmark of these cells, and their group if they have one."""
    suite, group = cells["suite"].iloc[0], cells["group"].iloc[0]
    return suite if pd.isna(group) else f"{suite}, {group}"


def _best(suite: str, group: pd.DataFrame) -> str:
    """The highest accuracy of a benchmark, and the reference's."""
    ordered = list(each(group.sort_values("accuracy", ascending=False, kind="stable")))
    first, reference = ordered[0], next((row for row in ordered if row.is_reference), None)
    highest = [str(row.label) for row in ordered if row.accuracy == first.accuracy]
    of = f" the highest accuracy of {len(ordered)} variants," if len(ordered) > 1 else ""
    text = f"{suite}: {_listed(highest)} {'has' if len(highest) == 1 else 'share'}{of} {_number(first)} %"
    if reference is None:
        return f"{text}."
    if reference.label in highest:
        return f"{text}; {'it' if len(highest) == 1 else reference.label} is the reference."
    return f"{text}; the reference, {reference.label}, has {_number(reference)} %."


def _compared(group: pd.DataFrame) -> str:
    """A sentence on which variants differ from the reference beyond chance; the largest differences by name."""
    tests = group[group["p_holm"].notna()]
    if not len(tests):
        return ""
    beyond = tests[tests["p_holm"] < SIGNIFICANT].sort_values("difference", key=abs, ascending=False, kind="stable")
    if not len(beyond):
        return f" Of {len(tests)} compared with the reference none differs beyond chance."
    named = [f"{row.label} ({100 * row.difference:+.1f} points)" for row in each(beyond)]
    verb = "differs" if len(beyond) == 1 else "differ"
    return f" Of {len(tests)} compared with the reference {len(beyond)} {verb} beyond chance: {_listed(named)}."


def _listed(texts: list[str]) -> str:
    """'a', 'a and b', 'a, b, c and 4 more'."""
    shown = texts if len(texts) <= MOST + 1 else [*texts[:MOST], f"{len(texts) - MOST} more"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]


def _number(row: Any) -> str:
    """'85.9 [80.3–90.2]', without the difference."""
    return " ".join(score_text(row, decimals=1).split(" ")[:2])
