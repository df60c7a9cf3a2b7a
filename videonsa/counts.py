"""How many numbers a model's weights are, by part, without loading them: what disks must hold. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from videonsa.config import SettingsError, TrainSettings
from videonsa.hub import folder_at, split_revision
from videonsa.weights import GATE, read_config, read_tensors

Parts = Mapping[str, int]  # tower, projector, decoder, gates: numbers


@dataclass(frozen=True)
class Shape:
    """Of a decoder."""

    layers: int
    hidden: int
    heads: int  # of queries
    kv_heads: int
    intermediate: int

    @property
    def gates(self) -> int:
        """Numbers of all gate networks: two layers each, with biases."""
        out = 3 * self.heads
        return self.layers * (self.hidden**2 + self.hidden + out * self.hidden + out)

    def adapters(self, rank: int, modules: tuple[str, ...]) -> int:
        """Numbers of LoRA's matrices beside these."""
        kv = self.hidden // self.heads * self.kv_heads
        wide = {"k_proj": kv, "v_proj": kv, **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), self.intermediate)}
        return self.layers * rank * sum(self.hidden + wide.get(name, self.hidden) for name in modules)


MADE = {  # of videonsa/small.py
    "tiny": ({"tower": 116_928, "projector": 82_304, "decoder": 147_136, "gates": 14_820}, Shape(3, 64, 4, 2, 128)),
    "study": (
        {"tower": 481_024, "projector": 722_432, "decoder": 14_748_288, "gates": 3_365_544},
        Shape(4, 896, 14, 2, 640),
    ),
}
# Of the hub, by their configurations: parts without gates add up to half the bytes that their indices tell.
TOWER = 631_975_680
QWEN_3B, QWEN_7B = Shape(36, 2048, 16, 2, 11008), Shape(28, 3584, 28, 4, 18944)
PARTS_3B = {"tower": TOWER, "projector": 36_708_608, "decoder": 3_085_938_688, "gates": QWEN_3B.gates}
PARTS_7B = {"tower": TOWER, "projector": 44_574_464, "decoder": 7_615_616_512, "gates": QWEN_7B.gates}
KNOWN = {
    "qwen/qwen2.5-vl-3b-instruct": (PARTS_3B, QWEN_3B),
    "qwen/qwen2.5-vl-7b-instruct": (PARTS_7B, QWEN_7B),
    "enxin/videonsa": (PARTS_7B, QWEN_7B),
}


def count_weights(model: str) -> tuple[Parts, Shape] | None:
    """Of a small model made here, of a folder's by its files' headers, gates added where it has none, or of a hub name.

    None where it is neither here nor known.
    """
    if model in MADE:
        return MADE[model]
    folder = folder_at(model)
    return KNOWN.get(split_revision(model)[0].lower()) if folder is None else _of_folder(folder)


def learning(settings: TrainSettings, parts: Parts, shape: Shape) -> int:
    """Numbers that a training moves, and so keeps in its checkpoints."""
    still = {
        *settings.freeze,
        *(("decoder",) if settings.lora_rank else ()),
        *(() if settings.learns_gates else ("gates",)),
    }
    moved = sum(count for part, count in parts.items() if part not in still)
    return moved + (shape.adapters(settings.lora_rank, settings.lora_modules) if settings.lora_rank else 0)


def _of_folder(folder: Path) -> tuple[Parts, Shape] | None:
    try:
        tensors, config = read_tensors(folder), read_config(folder)
    except (OSError, SettingsError):
        return None
    names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    shape = [config.get(name) for name in names]
    if not all(isinstance(number, int) for number in shape):
        return None
    found, parts = Shape(*shape), dict.fromkeys(("tower", "projector", "decoder", "gates"), 0)  # type: ignore[arg-type]
    for name, about in tensors.items():
        parts[_part(name)] += math.prod(about["shape"])
    return {**parts, "gates": parts["gates"] or found.gates}, found


def _part(name: str) -> str:
    if GATE in name:
        return "gates"
    return "projector" if "visual.merger." in name else "tower" if "visual." in name else "decoder"
