"""What a training step must compute and hold, counted from a model's weights and a sample's tokens; no GPU is asked.

Operations: 2 a weight and token in products, the tower's too; in attention 4 a pair and number of a head, of the pairs
that the method computes (what only chooses blocks is not counted). A step is three forward passes; what activation
checkpointing computes again is not counted, but in the bound.

Bytes: weights, gradients and AdamW's two moments in float32, and what checkpointing keeps of each layer, follow from
the sizes. What a layer holds while it is computed again is a measured share (WORKING), so the sum is an estimate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from videonsa.config import TrainSettings
from videonsa.methods.contract import make_batch
from videonsa.methods.paper import count_pairs
from videonsa.modeling.vision import largest_piece, make_layout

PEAK = 989e12  # operations a second: an H100's or H200's bfloat16 products, as the data sheet has them
RATE = 650e12  # of large products in a long run there: assumed for the bound (alone 722e12: benchmarks/notes.md)
GIB = 2**30
WORKING = {"dense": 3.2, "nsa": 4.1}  # activations of the feed-forward layer's width: training in model_h200.csv
TOWER_WORKING = 8  # the same of a piece of the tower; assumed, and small beside the decoder's


@dataclass(frozen=True)
class Sample:
    """A prompt of one video, and its answer."""

    text: int  # tokens before and after the video
    answers: int  # tokens whose logits are computed
    frames: int  # temporal patches
    rows: int  # patches
    columns: int

    @property
    def vision(self) -> int:
        """Tokens of the video; four patches are one."""
        return self.patches // 4

    @property
    def patches(self) -> int:
        return self.frames * self.rows * self.columns

    @property
    def tokens(self) -> int:
        return self.vision + self.text


@dataclass(frozen=True)
class Weights:
    """Numbers of a model: of the parts' products, and of all that are kept."""

    layers: int  # of the decoder, without gates
    gates: int
    head: int
    blocks: int  # of the tower, and its patches' embedding
    merger: int
    all: int
    all_gates: int  # with biases


def weights_of(model: nn.Module) -> Weights:
    """Of any model of ours, also on the meta device."""
    found = dict.fromkeys(("layers", "gates", "head", "blocks", "merger"), 0)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv3d):
            found[_part(name)] += module.weight.numel()
    gates = sum(weight.numel() for name, weight in model.named_parameters() if ".g_proj_" in name)
    return Weights(**found, all=sum(weight.numel() for weight in model.parameters()), all_gates=gates)


def _part(name: str) -> str:
    if "visual" in name:
        return "merger" if "merger" in name else "blocks"
    if "g_proj" in name:
        return "gates"
    return "head" if name == "lm_head" else "layers"


@dataclass(frozen=True)
class Work:
    """Operations of the forward pass of one sample."""

    layers: float
    gates: float
    head: float
    tower: float
    tower_attention: float
    attention: float

    @property
    def forward(self) -> float:
        return self.layers + self.gates + self.head + self.tower + self.tower_attention + self.attention

    def products(self, checkpointing: bool) -> float:
        """Of a step, but for the decoder's attention; with what checkpointing computes again."""
        again = self.layers + self.gates + self.tower + self.tower_attention
        return 3 * (self.forward - self.attention) + again * checkpointing


def work(model: Any, sample: Sample, settings: TrainSettings) -> Work:
    """What the model computes of a sample under the settings' attention."""
    weights, text, vision = weights_of(model), model.config.text_config, model.config.vision_config
    nsa = settings.nsa.attention == "nsa"
    window = vision.window_size // vision.spatial_merge_size // vision.patch_size
    grid = ((1, sample.rows, sample.columns),)
    layout = make_layout(grid, vision.spatial_merge_size, window, torch.device("cpu"))
    whole = len(vision.fullatt_block_indexes)
    pairs = whole * _squares(layout.frames.lengths) + (vision.depth - whole) * _squares(layout.windows.lengths)
    size = text.hidden_size // text.num_attention_heads
    return Work(
        layers=2.0 * weights.layers * sample.tokens,
        gates=2.0 * weights.gates * sample.vision * nsa,
        head=2.0 * (weights.head or 0) * sample.answers,
        tower=2.0 * (weights.blocks * sample.patches + weights.merger * sample.vision),
        tower_attention=4.0 * vision.hidden_size * pairs * sample.frames,
        attention=4.0 * text.num_attention_heads * size * text.num_hidden_layers * pairs_of(sample, settings),
    )


def pairs_of(sample: Sample, settings: TrainSettings) -> float:
    """Pairs of a query and a key, or a block's mean, that a head's attention computes."""
    if settings.nsa.attention == "dense":
        return sample.tokens * (sample.tokens + 1) / 2
    is_vision = torch.zeros(1, sample.tokens, dtype=torch.bool)
    before = sample.text // 2
    is_vision[:, before : before + sample.vision] = True
    return sum(count_pairs(make_batch(is_vision), settings.nsa, packed=True))


def _squares(lengths: tuple[int, ...]) -> int:
    return sum(length**2 for length in lengths)


def mfu(work: Work, samples: int, seconds: float, gpus: int) -> float:
    """Model FLOPs utilisation: three forward passes of all samples of a step, over what the GPUs could have done."""
    return 3 * work.forward * samples / (PEAK * gpus * seconds)


def bound_seconds(work: Work, settings: TrainSettings, attention_s: float) -> float:
    """The least a step could take: a process's products at RATE, and its attention as it was measured."""
    return work.products(settings.activation_checkpointing) / settings.sequence_parallel / RATE + attention_s


def memory(model: Any, sample: Sample, settings: TrainSettings, gpus: int) -> dict[str, float]:
    """GiB of a GPU at a step's peak, by what holds them, under activation checkpointing: an estimate."""
    weights, text, vision = weights_of(model), model.config.text_config, model.config.vision_config
    kind = settings.nsa.attention
    shards = gpus if settings.sharding == "full" else 1
    moved = weights.all - (weights.all_gates if kind == "dense" else 0)
    tokens, kept = sample.tokens / settings.sequence_parallel, 2 if shards > 1 and settings.precision == "bf16" else 4
    half = 2 if settings.precision == "bf16" else 4  # what products come in; the decoder's sums keep the weights' type
    encoded = -(-sample.frames // settings.sequence_parallel) * sample.rows * sample.columns
    parts = {
        "state": (4 * weights.all + 12 * moved) / shards,
        "gathered": 0.0,
        "layers": kept * text.num_hidden_layers * text.hidden_size * tokens,
        "tower": half * vision.depth * vision.hidden_size * encoded,
        "pixels": half * 3 * vision.temporal_patch_size * vision.patch_size**2 * encoded,
        "embeddings": kept * text.hidden_size * sample.tokens,
        "working": max(
            2 * WORKING[kind] * text.intermediate_size * tokens,
            2 * TOWER_WORKING * vision.intermediate_size * min(encoded, largest_piece(vision.hidden_size, True)),
        ),
    }
    if shards > 1:  # two layers' weights in bfloat16; embeddings and head, their gradients, and these in float32
        ends = text.vocab_size * text.hidden_size * (1 if model.config.tie_word_embeddings else 2)
        parts["gathered"] = 2 * 2 * weights.layers / text.num_hidden_layers + (2 + 2 + 4) * ends
    return {name: size / GIB for name, size in parts.items()}
