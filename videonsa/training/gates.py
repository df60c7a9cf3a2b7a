"""Mean gates over training samples, which gate_mode="static" uses in place of the dynamic ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from videonsa.modeling import capture_attention


@torch.no_grad()
def gate_sums(model: Any, batches: Iterable[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """The gates' sum over all vision tokens of the batches, [layers, heads, 3], and the number of these tokens, [1].

    Of these shapes, on the model's device, also where no batch holds vision: processes add theirs up.
    """
    text = getattr(model, "module", model).config.text_config
    device = next(model.parameters()).device
    total = torch.zeros(text.num_hidden_layers, text.num_attention_heads, 3, device=device)
    tokens = torch.zeros(1, device=device)
    for batch in batches:
        with capture_attention(model) as captured:
            model(**{name: tensor for name, tensor in batch.items() if name != "labels"}, logits_to_keep=1)
        for inputs in captured:
            total[inputs.layer] += inputs.gates.float().sum(dim=(0, 1))
        if captured:
            tokens += captured[0].gates.shape[:2].numel()
    return total, tokens


def mean_of(sums: Tensor, tokens: Tensor) -> list[Any] | None:
    """[layers][heads][3] of what `gate_sums` gives; None where no sample held vision.

    Raises FloatingPointError where a gate is no number: the weights then give none.
    """
    if not torch.isfinite(sums).all():
        raise FloatingPointError("the mean gates are no numbers: the weights are not sound")
    return (sums / tokens).cpu().double().tolist() if tokens > 0 else None
