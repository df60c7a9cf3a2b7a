"""Static gates of weights that hold none: their means over training samples, measured before a cell asks for them.

They lie in <out>/trainings/<id>/gates.json, with a record as of a training: cells wait for them as for one. No torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videonsa.config import NSASettings, TrainSettings, to_dict
from videonsa.weights import over, stated_gates

FILE = "gates.json"
# Settings of a training that say which samples it sees.
SAMPLING = ("seed", "pixels_per_frame", "steps", "batch_size")
SYNTHETIC, REAL = ("families", "frames", "frame_shares", "frame_batches", "earlier"), ("fps", "max_tokens")


@dataclass(frozen=True)
class GateSamples:
    """What the means are taken over."""

    train: TrainSettings  # whose samples: the profile's recipe
    samples: int  # at most, evenly spread over the training
    nsa: NSASettings  # attention while they are measured: as the weights were made, gates dynamic

    @property
    def recipe(self) -> tuple[str, ...]:
        """The settings of `train` that choose and make the samples."""
        return (*SAMPLING, *(SYNTHETIC if self.train.data == "synth" else REAL))

    @property
    def settings(self) -> dict[str, Any]:
        """As a record keeps them."""
        train = to_dict(self.train)
        return {
            "samples": self.samples,
            "nsa": to_dict(self.nsa),
            **{key: train[key] for key in ("data", *self.recipe)},
        }


def gates_for(
    checkpoint: str, made: NSASettings | None, changes: Mapping[str, Any], train: TrainSettings, samples: int
) -> GateSamples | None:
    """What must be measured before given weights are asked with these changes of NSA's settings; None: nothing."""
    weights = made or NSASettings()
    asked = over(weights, changes)
    if asked.attention == "dense" or asked.gate_mode != "static" or stated_gates(checkpoint):
        return None
    return GateSamples(train, samples, over(weights, {"gate_mode": "dynamic"}))


def read_gates(folder: Path) -> list[Any]:
    """The means that a job left in its folder, [layers][heads][3]."""
    return json.loads((folder / FILE).read_text(encoding="utf-8"))["static_gates"]
