"""Gates by layer and branch: mean and quartiles over heads, vision tokens and videos (paper, figures 4 and 17)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from evals.observers.contract import Observer, SeenLayer, SeenVideo
from videonsa.config import BRANCHES, NSASettings

BINS = 4096  # of a gate's histogram: quartiles are right to half a bin


class Histogram:
    """Gates of one layer and branch over heads, tokens and videos: memory does not grow with them."""

    def __init__(self, top: float) -> None:
        self.top, self.sum, self.count = top, 0.0, 0
        self.bins = torch.zeros(BINS, dtype=torch.float64)

    def add(self, gates: Tensor) -> None:
        """Any shape, values in [0, top]."""
        values = gates.float().flatten()
        self.sum += float(values.double().sum())
        self.count += values.numel()
        self.bins += torch.histc(values, BINS, 0.0, self.top).double().cpu()

    def summary(self) -> dict[str, float]:
        """Mean and quartiles."""
        shares = self.bins.cumsum(0) / self.count
        quartile = {
            name: (int(torch.searchsorted(shares, share)) + 0.5) * self.top / BINS
            for name, share in (("q25", 0.25), ("median", 0.5), ("q75", 0.75))
        }
        return {"mean": self.sum / self.count, **quartile}


class Gates(Observer):
    """Keeps BINS numbers of each layer and branch; looking takes 12 bytes for each of a layer's gates of one branch."""

    def __init__(self, nsa: NSASettings) -> None:
        super().__init__(nsa)
        self.top = max(1.0, *(nsa.gate_values or (1.0,)))
        self.layers: dict[int, dict[str, Histogram]] = {}

    def look(self, layer: SeenLayer, video: SeenVideo) -> None:
        """Into the histograms."""
        here = self.layers.setdefault(layer.number, {name: Histogram(self.top) for name in self.nsa.branches})
        for name, histogram in here.items():
            histogram.add(layer.inputs.gates[0, :, :, BRANCHES.index(name)])

    def by_layer(self) -> dict[int, dict[str, Any]]:
        """{branch: mean, q25, median, q75}."""
        return {
            number: {name: histogram.summary() for name, histogram in here.items()}
            for number, here in self.layers.items()
        }
