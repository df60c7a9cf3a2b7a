"""Mean gates over training samples, which gate_mode="static" uses in place of the dynamic ones."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from videonsa.modeling import capture_attention


@torch.no_grad()
def gate_sums(model: nn.Module, batches: Iterable[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """The gates' sum over all vision tokens of the batches, [layers, heads, 3], and the number of these tokens, [1]."""
    total, tokens = torch.zeros(()), torch.zeros(1)
    for batch in batches:
        with capture_attention(model) as captured:
            model(**{name: tensor for name, tensor in batch.items() if name != "labels"}, logits_to_keep=1)
        if captured:
            gates = torch.stack([inputs.gates.float().sum(dim=(0, 1)) for inputs in captured])
            total = total.to(gates.device) + gates
            tokens = tokens.to(gates.device) + captured[0].gates.shape[:2].numel()
    return total, tokens
