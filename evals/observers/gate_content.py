"""Do gates follow what a video shows, or only depth? The variance of gates, by layer, head, position and content.

Of all vision tokens of videos but those of first temporal patches. Within a layer and head the gates' variance is
explained by linear regression: on the token's position, then on content as well (evals/content_measures.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evals.content_measures import CONTENT, POSITION, measures
from evals.observers.contract import Observer, SeenLayer, SeenVideo
from videonsa.config import BRANCHES, NSASettings

SHOWN = (*POSITION, *CONTENT)
COLUMNS = len(SHOWN) + len(CONTENT)  # of what is measured: content once more, shifted in time
AT_POSITION = list(range(len(POSITION)))
AT_CONTENT = list(range(len(POSITION), len(SHOWN)))
AT_SHIFTED = list(range(len(SHOWN), COLUMNS))
NONE = 1e-10  # of a variance: what is left is rounding


@dataclass
class Sums:
    """Of one layer and branch, over tokens of all videos, float64: gates [Hq], their squares, and their products with
    measures [K, Hq]; the measures' own sums [K] and products [K, K]."""

    count: int
    gates: Tensor
    squares: Tensor
    with_measures: Tensor
    measures: Tensor
    products: Tensor

    @classmethod
    def empty(cls, heads: int, device: torch.device) -> Sums:
        """Of no token."""
        zeros = torch.zeros(COLUMNS, heads, dtype=torch.float64, device=device)
        own = zeros.new_zeros(COLUMNS)
        return cls(0, zeros[0].clone(), zeros[0].clone(), zeros, own, torch.outer(own, own))

    def add(self, gates_NX: Tensor, measures_NK: Tensor) -> None:
        """Of one video."""
        self.count += len(gates_NX)
        self.gates += gates_NX.sum(0)
        self.squares += gates_NX.square().sum(0)
        self.with_measures += measures_NK.T @ gates_NX
        self.measures += measures_NK.sum(0)
        self.products += measures_NK.T @ measures_NK

    def moments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Means of gates [Hq] and their variances [Hq]; covariances of measures [K, K], and with gates [K, Hq]."""
        mean_X, mean_K = self.gates / self.count, self.measures / self.count
        variance_X = self.squares / self.count - mean_X.square()
        own_KK = self.products / self.count - torch.outer(mean_K, mean_K)
        cross_KX = self.with_measures / self.count - torch.outer(mean_K, mean_X)
        return tuple(each.cpu().numpy() for each in (mean_X, variance_X.clamp(min=0), own_KK, cross_KX))  # type: ignore[return-value]


class GateContent(Observer):
    """Keeps (K + 2) x Hq + K x (K + 1) sums of each layer and branch, K being 11, and the measures of one question (96
    bytes a token, 13 MB of 131,072); looking takes 16 bytes for each of a layer's gates, 176 MB of 28 heads."""

    def __init__(self, nsa: NSASettings) -> None:
        super().__init__(nsa)
        self.layers: dict[int, dict[str, Sums]] = {}
        self.shown: dict[str, float] = {}  # sums of measures over tokens
        self.tokens = self.videos = 0
        self._at: int | None = None  # the question of these:
        self._places, self._measures = measures_of_none()

    def look(self, layer: SeenLayer, video: SeenVideo) -> None:
        """Add up."""
        if self._at != video.index:
            self._begin(layer, video)
        if not len(self._places):
            return
        gates_NX3 = layer.inputs.gates[0][self._places].double()
        here = self.layers.setdefault(layer.number, {})
        for name in self.nsa.branches:
            sums = here.setdefault(name, Sums.empty(gates_NX3.shape[1], gates_NX3.device))
            sums.add(gates_NX3[:, :, BRANCHES.index(name)], self._measures)

    def _begin(self, layer: SeenLayer, video: SeenVideo) -> None:
        """Measure a question, once for all layers: which rows of their inputs have measures, and these."""
        places, found = measures(video)
        row = torch.full((video.question.vision_tokens,), -1)
        row[places] = torch.arange(len(places))
        given = layer.places.cpu()
        row = torch.where(given >= 0, row[given], -1)
        device = layer.inputs.gates.device
        self._at, self._places = video.index, (row >= 0).nonzero()[:, 0].to(device)
        self._measures = found[row[row >= 0]].double().to(device)
        self.tokens += len(self._places)
        self.videos += len(self._places) > 0
        for name, total in zip(SHOWN, self._measures.sum(0).tolist(), strict=False):
            self.shown[name] = self.shown.get(name, 0.0) + total

    def by_layer(self) -> dict[int, dict[str, Any]]:
        """{branch: {shares: of the layer's variance; partial: mean correlation over heads; size: mean of its size}}."""
        return {
            number: {name: _layer(sums) for name, sums in here.items()} for number, here in sorted(self.layers.items())
        }

    def whole(self) -> dict[str, Any]:
        """gate_content: {shares: {branch: ...} of all layers' variance, tokens, videos, shown: mean measures}."""
        if not self.layers:
            return {"gate_content": None}
        shares = {name: _shares([here[name] for here in self.layers.values()]) for name in self.nsa.branches}
        shown = {name: self.shown[name] / self.tokens for name in CONTENT}
        return {"gate_content": {"shares": shares, "tokens": self.tokens, "videos": self.videos, "shown": shown}}

    def arrays(self) -> dict[str, np.ndarray]:
        """Of each branch [layers, Hq, 7], float32: partial correlations of a head's gates with SHOWN, each
        given the others; NaN where one of the two does not vary."""
        layers = [here for _, here in sorted(self.layers.items())]
        return {
            name: np.stack([partial(here[name]) for here in layers]).astype("float32")
            for name in (self.nsa.branches if layers else ())
        }


def measures_of_none() -> tuple[Tensor, Tensor]:
    """No tokens."""
    return torch.zeros(0, dtype=torch.long), torch.zeros(0, COLUMNS, dtype=torch.float64)


class Regression:
    """Of each head's gates on measures, from their covariances: [K, K] among measures, [K, Hq] with gates."""

    def __init__(self, own_KK: np.ndarray, cross_KX: np.ndarray) -> None:
        variance_K = own_KK.diagonal()
        self.varies = variance_K > NONE  # one that does not vary explains nothing
        scale_K = np.where(self.varies, np.sqrt(variance_K.clip(min=NONE)), np.inf)
        self.own_KK, self.cross_KX = own_KK / np.outer(scale_K, scale_K), cross_KX / scale_K[:, None]

    def explained(self, at: Sequence[int]) -> np.ndarray:
        """The variance of each head's gates, [Hq], that these measures explain."""
        return np.einsum("kx,kx->x", self.cross_KX[at], self._weights(at, self.cross_KX))

    def left(self, place: int, others: Sequence[int]) -> tuple[float, np.ndarray]:
        """Of a measure, scaled to a variance of 1, what others leave: its variance, and covariance with gates, [Hq]."""
        weights = self._weights(others, self.own_KK[:, [place]])[:, 0]
        rest = self.own_KK[place, place] - weights @ self.own_KK[others, place]
        return float(rest), self.cross_KX[place] - weights @ self.cross_KX[others]

    def _weights(self, at: Sequence[int], cross: np.ndarray) -> np.ndarray:
        inverse = np.linalg.pinv(self.own_KK[np.ix_(at, at)], rcond=1e-8, hermitian=True)  # some may say the same
        return inverse @ cross[at]


def partial(sums: Sums) -> np.ndarray:
    """[Hq, 7]: the correlation of gates with a measure, of what the other measures explain of neither; NaN: none."""
    _, variance_X, own_KK, cross_KX = sums.moments()
    regression = Regression(own_KK, cross_KX)
    found = np.full((len(variance_X), len(SHOWN)), np.nan)
    for place in range(len(SHOWN)):
        others = [other for other in range(len(SHOWN)) if other != place]
        rest, covariance_X = regression.left(place, others)
        rest_X = variance_X - regression.explained(others)
        if rest > 1e-6:
            found[:, place] = covariance_X / np.sqrt(np.where(rest_X > NONE, rest * rest_X, np.nan))
    return found.clip(-1, 1)


def _shares(layers: Sequence[Sums]) -> dict[str, float] | None:
    """Of the gates' variance over layers, heads and tokens: what layer, head, position, content (on top of position)
    and, in its place, content shifted by half a video explain. None where gates do not vary."""
    means, within, explaining = [], 0.0, np.zeros(3)
    for sums in layers:
        mean_X, variance_X, own_KK, cross_KX = sums.moments()
        regression = Regression(own_KK, cross_KX)
        means.append(mean_X)
        within += variance_X.mean()
        sets = (AT_POSITION, AT_POSITION + AT_CONTENT, AT_POSITION + AT_SHIFTED)
        explaining += [regression.explained(at).mean() for at in sets]
    means_LX = np.stack(means)
    between, head = means_LX.mean(1).var(), means_LX.var(1).mean()
    total = between + head + within / len(layers)
    if total <= NONE:
        return None
    position, content, shifted = explaining / len(layers)
    found = {"layer": between, "head": head, "position": position}
    found |= {"content": content - position, "shifted": shifted - position}
    return {name: float(value / total) for name, value in found.items()}


def _layer(sums: Sums) -> dict[str, Any]:
    """Of one layer; means over heads."""
    shares, of_heads = _shares([sums]), partial(sums)
    named = dict(zip(SHOWN, of_heads.T, strict=True))
    known = {name: values[~np.isnan(values)] for name, values in named.items()}
    return {
        "shares": shares and {name: value for name, value in shares.items() if name != "layer"},
        "partial": {name: float(values.mean()) if len(values) else None for name, values in known.items()},
        "size": {name: float(np.abs(values).mean()) if len(values) else None for name, values in known.items()},
    }
