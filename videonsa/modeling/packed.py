"""Linear layers whose weights stay packed in memory, 4 bits each (AWQ): unpacked at each use, then multiplied.

The layout is AutoAWQ's GEMM (videonsa/awq.py). Word c of a row holds the numbers of columns 8c to 8c + 7, from its
lowest bits on in the order 0 2 4 6 1 3 5 7, and

    W[o, i] = (qweight[i, o] - qzeros[i // group, o]) * scales[i // group, o]

No fused kernel: a use writes one layer's weights out in full, so that memory is saved and time is not. A long prefill
hardly sees that, a decoded token does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from videonsa.awq import WORD, is_packed

BITS = 4
SHIFTS = tuple(BITS * place for place in (0, 4, 1, 5, 2, 6, 3, 7))  # of columns 8c, 8c + 1, ... in word c


class PackedLinear(nn.Module):
    """x [..., in] -> x W^T + bias [..., out]; see the module for what is kept and what it means."""

    qweight: Tensor
    qzeros: Tensor
    scales: Tensor

    def __init__(self, in_features: int, out_features: int, bias: bool, group_size: int) -> None:
        super().__init__()
        self.in_features, self.out_features, self.group_size = in_features, out_features, group_size
        groups, words = in_features // group_size, out_features // WORD
        self.register_buffer("qweight", torch.zeros(in_features, words, dtype=torch.int32))
        self.register_buffer("qzeros", torch.zeros(groups, words, dtype=torch.int32))
        self.register_buffer("scales", torch.zeros(groups, out_features, dtype=torch.float16))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, inputs: Tensor) -> Tensor:
        return linear(inputs, self.weight(inputs.dtype), self.bias)

    def weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weights [out, in]: exact in float32, else rounded once."""
        steps_GIO = unpack(self.qweight).unflatten(0, (-1, self.group_size)) - unpack(self.qzeros)[:, None]
        return (steps_GIO * self.scales.float()[:, None]).to(dtype).flatten(0, 1).T

    def extra_repr(self) -> str:
        kept = f"bits={BITS}, group_size={self.group_size}"
        return f"in_features={self.in_features}, out_features={self.out_features}, {kept}"


def unpack(words: Tensor) -> Tensor:
    """int32 [..., n] -> int8 [..., 8 n], numbers of 0 to 15 in the order of columns."""
    shifts = torch.tensor(SHIFTS, dtype=torch.int32, device=words.device)
    return (words[..., None] >> shifts).bitwise_and_(2**BITS - 1).to(torch.int8).flatten(-2)


def pack_layers(decoder: nn.Module, awq: Mapping[str, Any]) -> None:
    """Put packed layers, still empty, in the place of those that an AWQ checkpoint holds packed."""
    for name, layer in list(decoder.named_modules()):
        if isinstance(layer, nn.Linear) and is_packed(f"model.{name}", awq):
            packed = PackedLinear(layer.in_features, layer.out_features, layer.bias is not None, awq["group_size"])
            decoder.set_submodule(name, packed)


def packed_layers(model: nn.Module) -> list[PackedLinear]:
    """The layers of a model whose weights stay packed."""
    return [module for module in model.modules() if isinstance(module, PackedLinear)]
