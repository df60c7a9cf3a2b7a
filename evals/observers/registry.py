"""The observers by name: what each shows, and what it needs. Imports no torch.

An observer is a line here and a file of its own, evals/observers/NAME.py, which counts for the identity of the probes
that name it and of no others.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from videonsa.config import SettingsError
from videonsa.identity import OBSERVER
from videonsa.values import unknown

if TYPE_CHECKING:
    from evals.observers.contract import Observer


@dataclass(frozen=True)
class Entry:
    """One observer."""

    name: str
    runs: str  # "module:class"
    shows: str
    needs: str  # what it looks at, and what that costs beside the prefill
    of_nsa: bool = True  # of what NSA is given; False: of what any method chooses
    parts: tuple[str, ...] = ()  # parts of CODE (videonsa/identity.py) that it takes its numbers from, beside its file

    @property
    def code(self) -> tuple[str, ...]:
        """The parts of CODE that make what it sees."""
        return (OBSERVER + self.name, *self.parts)


KEYS = "NSA's queries, keys and values: time that grows with the square of the vision tokens"
OF_SINKS = ("sinks", "branches")
ENTRIES = (
    Entry("gates", "evals.observers.gates:Gates", "gates by layer and branch, mean and quartiles", "NSA's gates"),
    Entry("sinks", "evals.observers.sinks:Sinks", "attention sinks by layer, branch and place", KEYS, parts=OF_SINKS),
    Entry("points", "evals.observers.points:Points", "some keys one by one, sinks first", KEYS, parts=OF_SINKS),
    Entry(
        "recall",
        "evals.observers.recall:Recall",
        "what of dense attention a method's choice of keys keeps, by layer",
        "some queries of every method that chooses keys",
        of_nsa=False,
        parts=("sparse",),
    ),
    Entry(
        "maps",
        "evals.observers.maps:Maps",
        "attention maps of three layers, of each branch, of the gated sum and of dense attention",
        "NSA's queries and keys of the first video: two forwards of each",
        parts=("branches",),
    ),
    Entry(
        "latency",
        "evals.observers.latency:Latency",
        "milliseconds of each branch, of the gated sum and of dense attention, by layer",
        "NSA's inputs: four forwards of each",
        parts=("branches",),
    ),
    Entry(
        "gate_similarity",
        "evals.observers.gate_similarity:GateSimilarity",
        "correlation of heads' gates, by layer and branch",
        "NSA's gates",
    ),
    Entry(
        "gate_vectors",
        "evals.observers.gate_vectors:GateVectors",
        "each video's mean gates by layer and head",
        "NSA's gates",
    ),
    Entry(
        "gate_content",
        "evals.observers.gate_content:GateContent",
        "what of gates layer, head, position and content explain",
        "NSA's gates, and the pixels that were seen",
        parts=("content",),
    ),
)
# What a probe looks at that names nothing. It never changes: probes of these are those of before observers had names.
USUAL = ("gates", "sinks", "points", "recall")


def names() -> list[str]:
    """All observers."""
    return [entry.name for entry in ENTRIES]


def find(name: str, where: str) -> Entry:
    """Raises SettingsError for a name that no observer has, listing those that one has."""
    for entry in ENTRIES:
        if entry.name == name:
            return entry
    raise SettingsError(f"{where}: no observer {name!r}; observers: {', '.join(names())}{unknown(str(name), names())}")


def chosen(value: Any, where: str) -> tuple[str, ...]:
    """Names of observers, from a list or joined with +, in the registry's order: theirs changes no number.

    Raises SettingsError for none, for one that does not exist, and for one that is named twice.
    """
    named = [part.strip() for part in value.split("+")] if isinstance(value, str) else value
    if not isinstance(named, list | tuple) or not named:
        raise SettingsError(f"{where}={value!r} is not valid: give a list of observers: {', '.join(names())}")
    for name in named:
        find(name, where)
    if len(set(named)) < len(named):
        raise SettingsError(f"{where}: {', '.join(named)}: name each observer once")
    return tuple(name for name in names() if name in named)


def make(observers: Iterable[str], nsa: Any) -> dict[str, Observer]:
    """The observers of one probe, by name; nsa: the NSASettings that it looks at."""
    made = {}
    for name in observers:
        module, _, cls = find(name, "observers").runs.partition(":")
        made[name] = getattr(importlib.import_module(module), cls)(nsa)
    return made
