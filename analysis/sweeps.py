"""The sweeps that a command is about: plan, results and folder of each, with rows of foreign results where asked."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from analysis.foreign import Foreign, NotForeign, read_foreign
from analysis.joined import join
from analysis.load import NotAPlan, Results, find_reference, load, read_plan

LONGEST = 200  # bytes of a folder's name; file systems take 255
JOINED = "joined"  # in the out folder, beside "sweeps": what has rows of foreign results


class Sweep(NamedTuple):
    """One sweep as it is analysed."""

    plan: dict[str, Any]
    results: Results
    folder: Path  # for what is made of it


def read_sweeps(out: Path, names: Sequence[str], joins: Sequence[str] = ()) -> Iterator[Sweep]:
    """Each sweep of these names; with foreign results (FOLDER=LABEL) those that share a benchmark with all of them.

    A damaged plan costs no other sweep: NotAPlan comes after the last. Raises NotForeign where a folder cannot be read,
    or pairs with no sweep.
    """
    several = [read_foreign(given) for given in joins]
    apart: list[str] = []
    damaged: list[str] = []
    for name in names:
        try:
            plan = read_plan(out / "sweeps" / name)
        except NotAPlan as error:
            damaged.append(str(error))
            continue
        results, folder = load(out, plan), out / "sweeps" / name
        if several:
            try:
                results, folder = _joined(plan, results, several), out / JOINED / _name(name, several)
            except NotForeign as error:
                apart.append(f"{name}: {error}")
                continue
        yield Sweep(plan, results, folder)
    if apart and len(apart) == len(names):
        raise NotForeign(apart[0])
    if damaged:
        raise NotAPlan("; ".join(damaged))


def _joined(plan: dict[str, Any], results: Results, several: Sequence[Foreign]) -> Results:
    reference = find_reference(plan, results.cells)
    for foreign in several:
        results = join(results, foreign, reference)
    return results


def _name(sweep: str, several: Sequence[Foreign]) -> str:
    """'tiny-budget+7B': the sweep's own files stay as they are."""
    labels = [foreign.label.removeprefix("foreign: ") for foreign in several]
    name = "+".join([sweep, *(re.sub(r"[^\w.=-]+", "-", label)[:60] for label in labels)])
    if len(name.encode()) <= LONGEST and all(len(label) <= 60 for label in labels):
        return name
    told = hashlib.sha256("\n".join(labels).encode()).hexdigest()[:8]  # of labels that begin alike each its own
    return name.encode()[: LONGEST - 9].decode(errors="ignore") + "-" + told
