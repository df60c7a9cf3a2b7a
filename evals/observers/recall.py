"""Recall of a method's choice of keys: what of dense attention it keeps, beside the best choice of the same size.

The method runs as it does when it answers, and its queries and keys of each layer are looked at. Of some queries
(QUERIES of vision and as many of text, evenly spread over the prompt) and every query head, p being the probabilities
of full causal attention over the prompt, and n the number of keys that the method keeps for this query and head:

    mass  the sum of p over the kept keys
    best  the sum of the n highest p: what the oracle of that size keeps, and no choice can exceed
    keys  the share of the oracle's n keys that are among the kept ones; of equal p the earlier key is the oracle's

each as a mean over queries, heads and videos; density: kept pairs over causal pairs of these queries. `vision` and
`text` are the queries; `slc` and `swa` are NSA's selection and window, each for itself, of the vision queries. Shape
suffixes: X query heads, R queries, L keys.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from evals.observers.contract import Observer
from videonsa.config import NSASettings
from videonsa.methods.contract import LayerCall, Method
from videonsa.methods.sparse import causal_scores

QUERIES = 64  # of vision, and of text, that are looked at in a video and layer
CHUNK_ELEMENTS = 1 << 25  # probabilities that are sorted at once


@dataclass
class Sums:
    """Sums over queries and heads."""

    queries: int = 0
    mass: float = 0.0
    best: float = 0.0
    keys: float = 0.0
    kept: int = 0
    causal: int = 0

    def add(self, kept_XRL: Tensor, probability_XRL: Tensor, order_XRL: Tensor) -> None:
        """Of some queries; what is not causal has probability 0 and is not kept. order: keys, most probable first."""
        count_XR1 = kept_XRL.sum(-1, keepdim=True)
        is_best_XRL = torch.arange(kept_XRL.shape[-1], device=kept_XRL.device) < count_XR1
        hit_XRL = kept_XRL.gather(-1, order_XRL) & is_best_XRL
        self.queries += count_XR1.numel()
        self.mass += float((probability_XRL * kept_XRL).sum(-1).double().sum())
        self.best += float((probability_XRL.gather(-1, order_XRL) * is_best_XRL).sum(-1).double().sum())
        self.keys += float((hit_XRL.sum(-1, keepdim=True) / count_XR1.clamp(min=1)).double().sum())
        self.kept += int(count_XR1.sum())

    def summary(self) -> dict[str, float]:
        """Means."""
        means = {name: getattr(self, name) / self.queries for name in ("mass", "best", "keys")}
        return {**means, "density": self.kept / self.causal, "queries": self.queries}


@dataclass
class Kept:
    """What one method keeps, over videos."""

    layers: dict[int, dict[str, Sums]] = field(default_factory=dict)

    def look(self, method: Method, call: LayerCall) -> None:
        """What the method keeps in a layer, in a prefill of one sample."""
        is_vision_L = method.batch.is_vision[0]
        rows = max(1, CHUNK_ELEMENTS // (call.query.shape[2] * len(is_vision_L)))
        for name, at in (("vision", _spread(is_vision_L)), ("text", _spread(~is_vision_L))):
            kept = method.keeps(call, at) if len(at) else {}
            if not kept:
                continue
            parts: dict[str, Tensor] = {
                part: kept[part] for part in ("slc", "swa") if part in kept and name == "vision"
            }
            parts[name] = torch.stack(list(kept.values())).any(0)
            for start in range(0, len(at), rows):
                some = slice(start, start + rows)
                self._add({part: keys[:, some] for part, keys in parts.items()}, call, at[some])

    def _add(self, parts: dict[str, Tensor], call: LayerCall, at: Tensor) -> None:
        probability_XRL = causal_scores(call.query[0, at], call.key[0], at, call.scale).softmax(-1).flatten(0, 1)
        order_XRL = probability_XRL.argsort(dim=-1, descending=True, stable=True)  # once for all parts
        sums = self.layers.setdefault(call.layer, {})
        for part, kept_XRL in parts.items():
            here = sums.setdefault(part, Sums())
            here.add(kept_XRL, probability_XRL, order_XRL)
            here.causal += len(kept_XRL) * int((at + 1).sum())

    def summary(self) -> dict[int, dict[str, dict[str, float]]]:
        """By layer: {part: means}."""
        return {layer: {part: sums.summary() for part, sums in parts.items()} for layer, parts in self.layers.items()}


class Recall(Observer):
    """Keeps six sums of each method, layer and part; looking takes CHUNK_ELEMENTS probabilities a few times over."""

    def __init__(self, nsa: NSASettings) -> None:
        super().__init__(nsa)
        self.ways: dict[str, Kept] = {}

    def choose(self, way: str, method: Method, call: LayerCall) -> None:
        """Of each way to attend for itself."""
        self.ways.setdefault(way, Kept()).look(method, call)

    def by_layer(self) -> dict[int, dict[str, Any]]:
        """{way: {part: means}}, of the ways that choose keys."""
        found: dict[int, dict[str, Any]] = {}
        for way, kept in self.ways.items():
            for number, parts in kept.summary().items():
                found.setdefault(number, {})[way] = parts
        return found


def _spread(these_L: Tensor) -> Tensor:
    """At most QUERIES of the places that are True, evenly spread, the last one included."""
    place = these_L.nonzero()[:, 0]
    some = torch.linspace(0, len(place) - 1, min(QUERIES, len(place)), device=place.device)
    return place[some.round().long()]
