"""How alike the heads of a layer gate: the correlation of their gates over vision tokens (paper, figures 5 and 20)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evals.observers.contract import Observer, SeenLayer, SeenVideo
from videonsa.config import BRANCHES, NSASettings


@dataclass
class Moments:
    """Sums over tokens of all videos, float64: of gates [Hq], and of products of two heads' gates [Hq, Hq]."""

    count: int
    first: Tensor
    second: Tensor

    def add(self, gates_NX: Tensor) -> None:
        """Of one video."""
        gates_NX = gates_NX.double()
        self.count += len(gates_NX)
        self.first += gates_NX.sum(0)
        self.second += gates_NX.T @ gates_NX

    def correlation(self) -> np.ndarray:
        """[Hq, Hq]; NaN in the rows and columns of a head whose gates are all alike, which has none."""
        mean_X = self.first / self.count
        covariance_XX = self.second / self.count - torch.outer(mean_X, mean_X)
        variance_X = covariance_XX.diagonal()
        spread_X = torch.where(variance_X > 1e-12, variance_X, torch.nan).sqrt()
        return (covariance_XX / torch.outer(spread_X, spread_X)).clamp(-1, 1).cpu().numpy()


class GateSimilarity(Observer):
    """Keeps Hq x (Hq + 1) sums of each layer and branch; looking takes 8 bytes for each of a layer's gates of a branch,
    29 MB of 131,072 tokens and 28 heads."""

    def __init__(self, nsa: NSASettings) -> None:
        super().__init__(nsa)
        self.layers: dict[int, dict[str, Moments]] = {}

    def look(self, layer: SeenLayer, video: SeenVideo) -> None:
        """Add up."""
        gates_NX3 = layer.inputs.gates[0]
        here = self.layers.setdefault(layer.number, {})
        for name in self.nsa.branches:
            if name not in here:
                zeros = gates_NX3.new_zeros(gates_NX3.shape[1], dtype=torch.float64)
                here[name] = Moments(0, zeros, torch.outer(zeros, zeros))
            here[name].add(gates_NX3[:, :, BRANCHES.index(name)])

    def by_layer(self) -> dict[int, dict[str, Any]]:
        """{branch: {mean: of the correlations off the diagonal; None where no two heads have one}}."""
        return {
            number: {name: {"mean": mean_off_diagonal(moments.correlation())} for name, moments in here.items()}
            for number, here in self.layers.items()
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Of each branch [layers, Hq, Hq], float32."""
        layers = [here for _, here in sorted(self.layers.items())]
        return {
            name: np.stack([here[name].correlation() for here in layers]).astype("float32")
            for name in (self.nsa.branches if layers else ())
        }


def mean_off_diagonal(correlation_XX: np.ndarray) -> float | None:
    """Over the pairs of heads that have a correlation."""
    pairs = correlation_XX[~np.eye(len(correlation_XX), dtype=bool)]
    known = pairs[~np.isnan(pairs)]
    return float(known.mean()) if len(known) else None
