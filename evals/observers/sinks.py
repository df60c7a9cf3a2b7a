"""Attention sinks by layer and branch, of the gated sum and of dense attention (paper, figures 7 to 9)."""

from __future__ import annotations

from typing import Any

from evals.observers.contract import Observer, SeenLayer, SeenVideo
from evals.sinks import keys_of
from videonsa.config import NSASettings


class Sinks(Observer):
    """Keeps two counts of each layer and branch; looking takes some numbers a key and head, and a chunk of scores."""

    def __init__(self, nsa: NSASettings) -> None:
        super().__init__(nsa)
        self.layers: dict[int, dict[str, list[int]]] = {}  # of each branch: sinks, keys

    def look(self, layer: SeenLayer, video: SeenVideo) -> None:
        """Count."""
        here = self.layers.setdefault(layer.number, {})
        for name, keys in layer.once(keys_of).items():
            counts = here.setdefault(name, [0, 0])
            counts[0] += int(keys.sink.sum())
            counts[1] += keys.sink.numel()

    def by_layer(self) -> dict[int, dict[str, Any]]:
        """{branch: ratio, sinks, keys}."""
        return {
            number: {
                name: {"ratio": found / keys if keys else None, "sinks": found, "keys": keys}
                for name, (found, keys) in here.items()
            }
            for number, here in self.layers.items()
        }
