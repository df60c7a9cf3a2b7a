"""Some keys of each layer and branch one by one, for scatter plots (paper, figure 7)."""

from __future__ import annotations

from typing import Any

import torch

from evals.observers.contract import Observer, SeenLayer, SeenVideo
from evals.sinks import Keys, keys_of
from videonsa.config import NSASettings

POINTS = 64  # keys of each layer and branch that are kept; sinks first


class Points(Observer):
    """Keeps at most POINTS keys of each layer and branch; looking takes what `sinks` takes, once for both."""

    def __init__(self, nsa: NSASettings) -> None:
        super().__init__(nsa)
        self.layers: dict[int, dict[str, list[dict[str, Any]]]] = {}

    def look(self, layer: SeenLayer, video: SeenVideo) -> None:
        """Sinks go before others, earlier videos before later ones."""
        here = self.layers.setdefault(layer.number, {})
        for name, keys in layer.once(keys_of).items():
            found = [*here.get(name, ()), *some_keys(keys, layer.number, name)]
            here[name] = sorted(found, key=lambda point: not point["sink"])[:POINTS]

    def whole(self) -> dict[str, Any]:
        """points: a list of keys, layer after layer."""
        return {"points": [one for _, here in sorted(self.layers.items()) for of in here.values() for one in of]}


def some_keys(keys: Keys, layer: int, branch: str) -> list[dict[str, Any]]:
    """Some keys of all heads: sinks, and others evenly spread over heads and positions."""
    sink = keys.sink
    flat = sink.flatten()
    spread = torch.linspace(0, max(0, flat.numel() - 1), min(POINTS, flat.numel()), device=flat.device).long()
    chosen = torch.cat([flat.nonzero()[:, 0][: POINTS // 2], spread]).unique()
    length = max(1, sink.shape[1] - 1)
    of_chosen = (chosen, keys.alpha.flatten()[chosen], keys.norm.flatten()[chosen], flat[chosen])
    return [
        {
            "layer": layer,
            "branch": branch,
            "position": index % sink.shape[1] / length,
            "alpha": alpha,
            "v_norm": norm,
            "sink": is_sink,
        }
        for index, alpha, norm, is_sink in zip(*(tensor.tolist() for tensor in of_chosen), strict=True)
    ]
