"""Text queries of a mixed sequence: causal attention over every earlier token, without a mask and without copied heads.

Few queries meet a long sequence, so on CUDA each program takes a tile of queries and walks all their keys (flash.py);
elsewhere, and where the reference is asked for, plain torch computes the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from videonsa.kernels import tiling
from videonsa.kernels.empty import empty_output


def text_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    positions: Tensor,
    scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """Attention of some tokens of a sequence to every token up to themselves.

    Args:
        query: [N, Hq, D], the queries of the tokens at `positions`; Hq is a multiple of Hkv.
        key, value: [L, Hkv, D], of the whole sequence.
        positions: [N] integers in 0 .. L - 1, in any order; rising order is fastest.
        scale: of the dot products; 1/sqrt(D) when None.
        backend: as in `nsa_attention`; reference is plain torch on every device.

    Returns:
        [N, Hq, D] in the dtype of query; differentiable in query, key and value.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if query.numel() == 0:
        return empty_output(query, key, value)
    half = query.is_cuda and query.dtype in (torch.float16, torch.bfloat16)
    if backend != "reference" and half and query.shape[-1] in tiling.HEAD_SIZES:
        return _on_device(query, key, value, positions, scale)
    return _plain(query, key, value, positions, scale)


def _plain(query: Tensor, key: Tensor, value: Tensor, positions: Tensor, scale: float) -> Tensor:
    dtype = torch.promote_types(query.dtype, torch.float32)
    query_HGND = query.to(dtype).unflatten(1, (key.shape[1], -1)).permute(1, 2, 0, 3)
    key_H1LD, value_H1LD = (tensor.to(dtype).transpose(0, 1)[:, None] for tensor in (key, value))
    future = torch.arange(key.shape[0], device=key.device) > positions[:, None]
    score = (query_HGND @ key_H1LD.transpose(-1, -2) * scale).masked_fill(future, -torch.inf)
    return (score.softmax(-1) @ value_H1LD).permute(2, 0, 1, 3).flatten(1, 2).to(query.dtype)


@torch.compiler.disable
def _on_device(query: Tensor, key: Tensor, value: Tensor, positions: Tensor, scale: float) -> Tensor:
    with torch.cuda.device_of(query):  # kernels run on the current device
        return _Text.apply(query, key, value, positions.to(torch.int32), scale)


class _Text(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, positions: Tensor, scale: float) -> Tensor:
        from videonsa.kernels import flash  # needs triton

        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        tiles = _query_tiles(len(query), tiling.flash_forward(query.shape[2]).rows, query.device)
        out, lse = flash.forward(query, key, value, positions, tiles, scale)
        assert out is not None
        ctx.scale = scale
        ctx.save_for_backward(query, key, value, positions, out, lse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from videonsa.kernels import flash, rowstats

        query, key, value, positions, out, lse = ctx.saved_tensors
        grad = grad.contiguous()
        share = (grad.float() * out.float()).sum(-1)
        shared = (query, key, value, grad, rowstats.pack(lse, torch.ones_like(share), share, positions))
        grad_query = torch.empty_like(query)
        tiles = _query_tiles(len(query), tiling.flash_query_gradient().rows, query.device)
        flash.query_gradient(*shared, positions, tiles, ctx.scale, grad_query=grad_query, add=False)
        tiles = _key_tiles(len(query), len(key), tiling.flash_key_gradient().columns, query.device)
        grad_key, grad_value = flash.key_gradient(
            *shared, tiles, ctx.scale, splits=1, split_rows=len(query), ordered=False
        )
        return grad_query, grad_key[0].to(key.dtype), grad_value[0].to(value.dtype), None, None


def _query_tiles(queries: int, rows: int, device: torch.device) -> Tensor:
    """plan.py's table of query tiles, for one sequence."""
    first = torch.arange(0, queries, rows, dtype=torch.int32, device=device)
    return torch.stack([first, (first + rows).clamp_max(queries), first * 0], 1)


def _key_tiles(queries: int, keys: int, columns: int, device: torch.device) -> Tensor:
    first = torch.arange(0, keys, columns, dtype=torch.int32, device=device)
    zero = first * 0
    return torch.stack([first, (first + columns).clamp_max(keys), zero, zero, zero + queries, first], 1)
