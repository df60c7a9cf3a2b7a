"""What several variants are called together, by the words that their labels share: a training, a probe, a panel.

Whole words: `paper 8K` and `paper 32K` are `paper`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any


def lead(labels: Iterable[str]) -> str:
    """The words that all these labels begin with, '' where there are none."""
    labels = list(dict.fromkeys(labels))
    if len(labels) == 1:
        return labels[0]
    words = zip(*(label.split() for label in labels), strict=False)
    return " ".join(first for first, *_ in takewhile(lambda of: len(set(of)) == 1, words))


def common(labels: Sequence[str]) -> str:
    """The words that all these labels have, in the first one's order; '' where there are none."""
    return " ".join(word for word in labels[0].split() if all(word in label.split() for label in labels))


def served(cells: Iterable[Mapping[str, Any]], by: str, seeded: bool = True) -> dict[str, str]:
    """What each `training` or `probe` (by) of a plan's cells is called, after the variants that it serves.

    That is the lead of their names (a grid's `within`) or labels; where they have none, of those that begin with the
    first one's word, and so a label that stands alone. Where two would be called the same it is the first label, whole.
    A variant that is trained with several seeds has its seed behind, unless it is not `seeded`.
    """
    of: dict[str, list[Mapping[str, Any]]] = {}
    seeds: dict[Any, set[Any]] = {}
    for cell in cells:
        seeds.setdefault(cell.get("label"), set()).add(cell.get("seed"))
        if cell.get(by):
            of.setdefault(str(cell[by]), []).append(cell)
    firsts = {one: own[0] for one, own in of.items()}
    seed = {one: f" seed {cell.get('seed')}" * (len(seeds[cell.get("label")]) > 1) for one, cell in firsts.items()}
    short = {one: _called([str(cell.get("name") or cell.get("label")) for cell in own]) for one, own in of.items()}
    times = Counter((short[one], seed[one]) for one in of)
    return {
        one: (short[one] if times[short[one], seed[one]] == 1 else str(firsts[one].get("label"))) + seed[one] * seeded
        for one in of
    }


def _called(labels: Sequence[str]) -> str:
    first = labels[0].split()[:1]
    return lead([label for label in labels if label.split()[:1] == first]) or labels[0]
