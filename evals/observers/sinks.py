"""Attention sinks by layer, branch and place, of the gated sum and of dense attention (paper, figures 8, 9 and 27)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from evals.observers.contract import Observer, SeenLayer, SeenVideo
from evals.sinks import keys_of
from videonsa.config import NSASettings

PLACES = 64  # equal parts of a video, from its first to its last key


class Sinks(Observer):
    """Keeps two counts a place of each layer and branch; looking takes numbers a key and head, and some scores.

    By the kernels (evals/sinks.py) it takes a forward and a backward of each branch and of dense attention instead.
    """

    def __init__(self, nsa: NSASettings) -> None:
        super().__init__(nsa)
        self.layers: dict[int, dict[str, Tensor]] = {}  # of each branch

    def look(self, layer: SeenLayer, video: SeenVideo) -> None:
        """Count."""
        here = self.layers.setdefault(layer.number, {})
        for name, keys in layer.once(keys_of).items():
            here[name] = here.get(name, 0) + by_place(keys.sink)

    def by_layer(self) -> dict[int, dict[str, Any]]:
        """{branch: ratio, sinks, keys}."""
        return {number: {name: _ratio(at) for name, at in here.items()} for number, here in self.layers.items()}

    def arrays(self) -> dict[str, np.ndarray]:
        """Of each branch sinks and keys of all heads by place, [layers, 2, PLACES]; layers."""
        numbers = sorted(self.layers)
        names = self.layers[numbers[0]] if numbers else ()
        found = {name: torch.stack([self.layers[number][name] for number in numbers]).numpy() for name in names}
        return found | {"layers": np.array(numbers, dtype=np.int64)}


def by_place(sink: Tensor) -> Tensor:
    """Bool [Hq, K] -> sinks and keys of all heads by place, [2, PLACES] on the CPU."""
    heads, keys = sink.shape
    place_K = (2 * torch.arange(keys, device=sink.device) + 1) * PLACES // max(1, 2 * keys)
    found = [place_K.bincount(weights, PLACES).long() for weights in (sink.sum(0).double(), None)]
    return torch.stack([found[0], found[1] * heads]).cpu()


def _ratio(counts: Tensor) -> dict[str, Any]:
    found, keys = counts.sum(1).tolist()
    return {"ratio": found / keys if keys else None, "sinks": found, "keys": keys}
