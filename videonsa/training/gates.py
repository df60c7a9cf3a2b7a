"""Mean gates over training samples, which gate_mode="static" uses in place of the dynamic ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from videonsa.modeling import AttentionInputs, capture_attention


class _Sums:
    """Gates are added up as they come: what the layers are given for a long sample would together fill a GPU."""

    def __init__(self, layers: int, heads: int, device: torch.device) -> None:
        self.total, self.tokens = torch.zeros(layers, heads, 3, device=device), torch.zeros(1, device=device)

    def append(self, inputs: AttentionInputs) -> None:
        self.total[inputs.layer] += inputs.gates.float().sum(dim=(0, 1))
        if inputs.layer == 0:
            self.tokens += inputs.gates.shape[:2].numel()


@torch.no_grad()
def gate_sums(model: Any, batches: Iterable[dict[str, Tensor]], device: torch.device) -> tuple[Tensor, Tensor]:
    """The gates' sum over all vision tokens of the batches, [layers, heads, 3], and the number of these tokens, [1].

    Of these shapes, on the device where the model computes, also where no batch holds vision: processes add theirs up.
    """
    text = getattr(model, "module", model).config.text_config
    sums = _Sums(text.num_hidden_layers, text.num_attention_heads, device)
    with capture_attention(model, sums):
        for batch in batches:
            model(**{name: tensor for name, tensor in batch.items() if name != "labels"}, logits_to_keep=1)
    return sums.total, sums.tokens


def mean_of(sums: Tensor, tokens: Tensor) -> list[Any] | None:
    """[layers][heads][3] of what `gate_sums` gives; None where no sample held vision.

    Raises FloatingPointError where a gate is no number: the weights then give none.
    """
    if not torch.isfinite(sums).all():
        raise FloatingPointError("the mean gates are no numbers: the weights are not sound")
    return (sums / tokens).cpu().double().tolist() if tokens > 0 else None
