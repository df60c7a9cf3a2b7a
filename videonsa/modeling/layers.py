"""The parts of a layer around its attention: on CUDA fused (videonsa/kernels/fused.py), else the stock layer's own.

Decoder and vision tower, sparse and dense attention, training and inference go through the same parts. `fuse` is False
under backend=reference, which runs no kernel of ours anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad
from transformers.activations import SiLUActivation
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLMLP, Qwen2MLP

ROWS = 16384  # tokens whose activations are in memory at a time: 0.6 GiB each of 7B's shape in bfloat16
ALIGNED = 64  # columns; the tower's 3,420 are no multiple of 8, for which matrix products of half precision are slow
Rotation = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def fuses(*tensors: Tensor) -> bool:
    """Whether the fused parts serve these tensors: on CUDA, of one type."""
    first = tensors[0]
    return first.is_cuda and first.dtype in DTYPES and all(each.dtype == first.dtype for each in tensors)


def add_norm(layer: Any, hidden: Tensor, added: Tensor | None, fuse: bool) -> tuple[Tensor, Tensor]:
    """A stock RMS norm of hidden + added, [..., C] each, and the sum; added: None is nothing.

    Under autocast the norm comes, where it is fused, in the type that the products after it would round it to, which
    saves each of them a pass; the stock norm of hidden states in half precision by weights in float32 is in float32.
    Outputs are the same; the gradients of these products are then summed in that type, and not in float32.
    """
    keeps_type = added is None or torch.promote_types(hidden.dtype, added.dtype) == hidden.dtype
    cast = hidden.is_cuda and torch.is_autocast_enabled("cuda")
    if fuse and keeps_type and (fuses(hidden, layer.weight) or (cast and fuses(hidden) and fuses(layer.weight))):
        from videonsa.kernels import fused  # needs triton

        dtype = torch.get_autocast_dtype("cuda") if cast else hidden.dtype
        if added is not None:
            return fused.add_norm(hidden, added, layer.weight, layer.variance_epsilon, dtype)
        return fused.norm(hidden, layer.weight, layer.variance_epsilon, dtype), hidden
    total = hidden if added is None else hidden + added
    return layer(total), total


def rotate(
    query: Tensor, key: Tensor, cosines: Tensor, sines: Tensor, stock: Rotation, fuse: bool
) -> tuple[Tensor, Tensor]:
    """Rotary encoding of query and key [..., heads, D] by cosines and sines [..., D]; where it is not fused by `stock`,
    which computes it as the layer in hand does."""
    if not (fuse and fuses(query)):
        return stock(query, key, cosines, sines)
    from videonsa.kernels import fused

    angles = cosines.flatten(0, -2), sines.flatten(0, -2)
    turned = (fused.rotate(each.flatten(0, -3), *angles).view(each.shape) for each in (query, key))
    return next(turned), next(turned)


class FeedForward(Qwen2MLP):
    """The decoder's feed-forward layer; in inference on CUDA some rows at a time, so that its memory has a bound."""

    def forward(self, x: Tensor, fuse: bool = True) -> Tensor:
        """[..., hidden] -> [..., hidden]."""
        rows = x.flatten(0, -2)
        if not x.is_cuda or len(rows) <= ROWS or torch.is_grad_enabled():
            return self._part(x, fuse)
        out = torch.empty_like(rows)
        for first in range(0, len(rows), ROWS):
            out[first : first + ROWS] = self._part(rows[first : first + ROWS], fuse)
        return out.view(x.shape)

    def _part(self, x: Tensor, fuse: bool) -> Tensor:
        return self.down_proj(activate(self, self.gate_proj(x), self.up_proj(x), fuse))


class VisionFeedForward(Qwen2_5_VLMLP):
    """The tower's feed-forward layer, its inner columns filled up with zeros to a multiple of ALIGNED."""

    def forward(self, hidden_state: Tensor, fuse: bool = True) -> Tensor:
        """[patches, hidden] -> [patches, hidden]."""
        missing = -self.intermediate_size % ALIGNED
        if not (missing and fuse and hidden_state.is_cuda):
            return self.down_proj(activate(self, self.gate_proj(hidden_state), self.up_proj(hidden_state), fuse))
        gate, up = (
            linear(hidden_state, pad(layer.weight, (0, 0, 0, missing)), pad(layer.bias, (0, missing)))
            for layer in (self.gate_proj, self.up_proj)
        )
        return linear(activate(self, gate, up, fuse), pad(self.down_proj.weight, (0, missing)), self.down_proj.bias)


def activate(layer: Any, gate: Tensor, up: Tensor, fuse: bool) -> Tensor:
    """act_fn(gate) * up of a stock feed-forward layer."""
    if fuse and fuses(gate, up) and isinstance(layer.act_fn, SiLUActivation | nn.SiLU):
        from videonsa.kernels import fused

        return fused.gated(gate, up)
    return layer.act_fn(gate) * up
