"""Text queries of mixed sequences: causal attention over every earlier token, without a mask and without copied heads.

Few queries meet long sequences, so on CUDA each program takes a tile of one sequence's queries and walks all their keys
(flash.py), of all sequences in one launch; elsewhere, and where the reference is asked for, plain torch computes the
same.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from videonsa.kernels import tiling
from videonsa.kernels.empty import empty_output


class Span(NamedTuple):
    """One sequence's queries and keys, as places on the axes of all."""

    first_query: int
    end_query: int
    first_key: int
    end_key: int


def text_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    positions: Tensor,
    scale: float | None = None,
    backend: str = "auto",
    spans: Sequence[Span] | None = None,
) -> Tensor:
    """Attention of some tokens of each sequence to every token of it up to themselves.

    Args:
        query: [N, Hq, D], the queries of the tokens at `positions`; Hq is a multiple of Hkv.
        key, value: [L, Hkv, D], of whole sequences, one after the other.
        positions: [N] integers, each a place in its own sequence, in any order; rising order is fastest.
        scale: of the dot products; 1/sqrt(D) when None.
        backend: as in `nsa_attention`; reference is plain torch on every device.
        spans: of each sequence, in order, all N queries in one of them; None: one sequence.

    Returns:
        [N, Hq, D] in the dtype of query; differentiable in query, key and value.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if query.numel() == 0:
        return empty_output(query, key, value)
    whole = (Span(0, len(query), 0, len(key)),) if spans is None else tuple(spans)
    half = query.is_cuda and query.dtype in (torch.float16, torch.bfloat16)
    if backend != "reference" and half and query.shape[-1] in tiling.HEAD_SIZES:
        return _on_device(query, key, value, positions, scale, whole)
    parts = []
    for span in whole:
        queries, keys = slice(span.first_query, span.end_query), slice(span.first_key, span.end_key)
        parts.append(_plain(query[queries], key[keys], value[keys], positions[queries], scale))
    return torch.cat(parts)


def _plain(query: Tensor, key: Tensor, value: Tensor, positions: Tensor, scale: float) -> Tensor:
    dtype = torch.promote_types(query.dtype, torch.float32)
    query_HGND = query.to(dtype).unflatten(1, (key.shape[1], -1)).permute(1, 2, 0, 3)
    key_H1LD, value_H1LD = (tensor.to(dtype).transpose(0, 1)[:, None] for tensor in (key, value))
    future = torch.arange(key.shape[0], device=key.device) > positions[:, None]
    score = (query_HGND @ key_H1LD.transpose(-1, -2) * scale).masked_fill(future, -torch.inf)
    return (score.softmax(-1) @ value_H1LD).permute(2, 0, 1, 3).flatten(1, 2).to(query.dtype)


@torch.compiler.disable
def _on_device(
    query: Tensor, key: Tensor, value: Tensor, positions: Tensor, scale: float, spans: tuple[Span, ...]
) -> Tensor:
    with torch.cuda.device_of(query):  # kernels run on the current device
        return _Text.apply(query, key, value, positions.to(torch.int32), scale, spans)


class _Text(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, positions: Tensor, scale: float, spans: tuple[Span, ...]
    ) -> Tensor:
        from videonsa.kernels import flash  # needs triton

        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        tiles = _query_tiles(spans, tiling.flash_forward(query.shape[2]).rows, query.device)
        out, lse = flash.forward(query, key, value, positions, tiles, scale)
        assert out is not None
        ctx.scale, ctx.spans = scale, spans
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
        tiles = _query_tiles(ctx.spans, tiling.flash_query_gradient().rows, query.device)
        flash.query_gradient(*shared, positions, tiles, ctx.scale, grad_query=grad_query, add=False)
        tiles = _key_tiles(ctx.spans, len(key), tiling.flash_key_gradient().columns, query.device)
        most = max(span.end_query - span.first_query for span in ctx.spans)
        grad_key, grad_value = flash.key_gradient(*shared, tiles, ctx.scale, splits=1, split_rows=most, ordered=False)
        return grad_query, grad_key[0].to(key.dtype), grad_value[0].to(value.dtype), None, None, None


@lru_cache(maxsize=64)  # one for all layers
def _query_tiles(spans: tuple[Span, ...], rows: int, device: torch.device) -> Tensor:
    """plan.py's table of query tiles."""
    tiles = [
        (first, min(first + rows, span.end_query), span.first_key)
        for span in spans
        for first in range(span.first_query, span.end_query, rows)
    ]
    return torch.tensor(tiles, dtype=torch.int32, device=device).view(-1, 3)


@lru_cache(maxsize=64)
def _key_tiles(spans: tuple[Span, ...], keys: int, columns: int, device: torch.device) -> Tensor:
    """plan.py's table of key tiles; of keys in no sequence, padding, too: they get a gradient of 0."""
    edges = [0, *(edge for span in spans for edge in span[2:]), keys]
    gaps = [Span(0, 0, end, start) for end, start in zip(edges[::2], edges[1::2], strict=True)]
    tiles = [
        (first, min(first + columns, span.end_key), span.first_key, span.first_query, span.end_query, first)
        for span in (*spans, *gaps)
        for first in range(span.first_key, span.end_key, columns)
    ]
    return torch.tensor(tiles, dtype=torch.int32, device=device).view(-1, 6)
