"""Each video's mean gates by layer and head: the vectors whose principal components are the paper's figure 25."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from evals.observers.contract import Observer, SeenLayer, SeenVideo
from videonsa.config import BRANCHES, NSASettings


class GateVectors(Observer):
    """Keeps layers x Hq x 3 means of each video (9 KB of 28 layers and 28 heads); looking takes 12 bytes for each of a
    layer's gates."""

    def __init__(self, nsa: NSASettings) -> None:
        super().__init__(nsa)
        self.videos: dict[int, dict[int, Tensor]] = {}  # question -> layer -> [Hq, 3]

    def look(self, layer: SeenLayer, video: SeenVideo) -> None:
        """The means, over vision tokens."""
        self.videos.setdefault(video.index, {})[layer.number] = layer.inputs.gates[0].double().mean(0).float().cpu()

    def arrays(self) -> dict[str, np.ndarray]:
        """Of each branch [videos, layers, Hq], float32; `question`: which of the suite's each video is of."""
        if not self.videos:
            return {}
        means = np.stack(
            [np.stack([layers[number].numpy() for number in sorted(layers)]) for layers in self.videos.values()]
        )
        of_branches = {name: means[..., BRANCHES.index(name)] for name in self.nsa.branches}
        return {**of_branches, "question": np.array(list(self.videos))}
