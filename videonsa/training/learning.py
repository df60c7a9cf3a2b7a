"""Which weights learn: all of them, or what is left when parts stay as they are and adapters stand for the decoder's.

Gates learn wherever they are used. What does not learn has no gradient and no optimizer state, and checkpoints leave it
out: it is what the run started from.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from videonsa.config import TrainSettings

BEGIN = {"tower": "model.visual.", "projector": "model.visual.merger."}  # of names; all else but gates is decoder
GATE = ".g_proj_"
A, B, OWN = ".lora_A.default.weight", ".lora_B.default.weight", ".base_layer."  # in peft's names of weights


def part_of(name: str) -> str:
    """tower, projector, decoder, gates or adapters: the part that a weight of this name is of."""
    if GATE in name:
        return "gates"
    if ".lora_" in name:
        return "adapters"
    return next((part for part in ("projector", "tower") if name.startswith(BEGIN[part])), "decoder")


def choose_weights(model: nn.Module, settings: TrainSettings) -> None:
    """Put adapters into the model where the settings ask for them, and let only those weights learn that are to."""
    still = set(settings.freeze) | (set() if settings.learns_gates else {"gates"})
    if settings.lora_rank:
        _put_adapters(model, settings)
        still.add("decoder")
    for name, weight in model.named_parameters():
        weight.requires_grad_(part_of(name) not in still)


def _put_adapters(model: nn.Module, settings: TrainSettings) -> None:
    """Beside the decoder's matrices, by the seed: B is 0, so that the model computes what it did (arXiv 2106.09685)."""
    from peft import LoraConfig, inject_adapter_in_model  # seconds, for who trains so

    names = "|".join(settings.lora_modules)
    places = rf"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.({names})"
    alpha = settings.lora_scale * settings.lora_rank
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        inject_adapter_in_model(LoraConfig(r=settings.lora_rank, lora_alpha=alpha, target_modules=places), model)  # type: ignore[arg-type]


def merged(weights: dict[str, Tensor], settings: TrainSettings) -> dict[str, Tensor]:
    """The weights under the names that they have without adapters, W + scale B A in the place of each W with one."""
    if not settings.lora_rank:
        return weights
    found: dict[str, Any] = {}
    for name, weight in weights.items():
        if name.endswith(f"{OWN}weight"):
            place = name.removesuffix(f"{OWN}weight")
            weight = weight + settings.lora_scale * (weights[place + B] @ weights[place + A])
        if part_of(name) != "adapters":
            found[name.replace(OWN, ".")] = weight
    return found
