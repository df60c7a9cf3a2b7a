"""Compression branch: attention over the means of complete blocks (Triton; the attention itself is flash.py's).

A mean key is kept as two numbers of the input's type, high + low: attention uses the high part, as any kernel in that
type would, and the choice of blocks (select.py) both, so that it agrees with a float32 computation but where blocks
tie. So there are two lse: the attention's own, and one to choose by, which differs where scores are large.

Mean keys are kept less that of their sequence's first block (`centred`). A softmax does not notice what is taken from
all of its scores, nor does a gradient; and what all keys share, as a bias, then costs no precision.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from videonsa.kernels import flash, tiling
from videonsa.kernels.plan import Plan
from videonsa.kernels.tiles import load_rows


@triton.jit
def _mean(tensor, block_range, block, head, HK: tl.constexpr, D: tl.constexpr, SIZE: tl.constexpr):
    start = tl.load(block_range + block * 2)
    end = tl.load(block_range + block * 2 + 1)
    rows = start + tl.arange(0, SIZE)
    tile = load_rows(tensor, rows, rows < end, head, HK, D).to(tl.float32)
    return tl.sum(tile, 0) / tl.minimum(end - start, SIZE).to(tl.float32)


@triton.jit
def _mean_blocks(key, value, key_high, key_low, value_mean, block_range, first_block, HK: tl.constexpr,
                 D: tl.constexpr, SIZE: tl.constexpr, CENTRED: tl.constexpr):  # fmt: skip
    block = tl.program_id(0)
    head = tl.program_id(1)
    mean = _mean(key, block_range, block, head, HK, D, SIZE)
    if CENTRED:
        first = tl.load(first_block + tl.load(block_range + block * 2))
        mean -= _mean(key, block_range, first, head, HK, D, SIZE)
    high = mean.to(key_high.dtype.element_ty)
    place = (block.to(tl.int64) * HK + head) * D + tl.arange(0, D)
    tl.store(key_high + place, high)
    tl.store(key_low + place, (mean - high.to(tl.float32)).to(key_low.dtype.element_ty))
    mean = _mean(value, block_range, block, head, HK, D, SIZE)
    tl.store(value_mean + place, mean.to(value_mean.dtype.element_ty))


def mean_blocks(key: Tensor, value: Tensor, plan: Plan, *, centred: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """key, value [T, HK, D] -> high and low part of the mean keys, mean values; each [blocks, HK, D].

    centred: the mean keys less that of their sequence's first block. A partial last block has a row too, the mean of
    what it has; the paper's method does not look at it.
    """
    heads, size = key.shape[1:]
    high = torch.empty(plan.blocks, heads, size, dtype=key.dtype, device=key.device)
    low, mean = torch.empty_like(high), torch.empty_like(high)
    _mean_blocks[(plan.blocks, heads)](
        key, value, high, low, mean, plan.block_range(), plan.first_block(), HK=heads, D=size, SIZE=plan.block_size,
        CENTRED=centred,
    )  # fmt: skip
    return high, low, mean


def forward(
    query: Tensor,
    key_high: Tensor,
    key_low: Tensor,
    value_mean: Tensor,
    plan: Plan,
    scale: float,
    *,
    with_out: bool,
    count: int | None,
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Output [T, HQ, D] (None without with_out: the choice of blocks alone needs none), its lse [HQ, T], base 2, and
    the lse to choose by.

    count: blocks that a query may choose, None where there is no choice to make.
    """
    tiles = plan.query_tiles(tiling.flash_forward(query.shape[2]).rows, True)
    sharp = None
    if count is not None and query.dtype != torch.float32:  # in which the high part is the mean
        sharp = key_low, torch.empty(query.shape[1], len(query), dtype=torch.float32, device=query.device), count
    out, lse = flash.forward(
        query, key_high, value_mean, plan.position(), tiles, scale, stride=plan.block_size, with_out=with_out,
        sharp=sharp,
    )  # fmt: skip
    return out, lse, lse if sharp is None else sharp[1]


def backward(
    query: Tensor,
    key_mean: Tensor,
    value_mean: Tensor,
    grad: Tensor,
    statistics: Tensor,
    plan: Plan,
    scale: float,
    *,
    grad_query: Tensor,
    add: bool,
) -> tuple[Tensor, Tensor]:
    """Writes (add: adds to) grad_query; returns the gradients of the mean keys and values, [blocks, HK, D] float32."""
    rows = tiling.flash_query_gradient().rows
    shared = (query, key_mean, value_mean, grad, statistics)
    flash.query_gradient(
        *shared,
        plan.position(),
        plan.query_tiles(rows, True),
        scale,
        grad_query=grad_query,
        add=add,
        stride=plan.block_size,
    )
    return key_gradient(*shared, plan, scale)


def key_gradient(
    query: Tensor, key_mean: Tensor, value_mean: Tensor, grad: Tensor, statistics: Tensor, plan: Plan, scale: float
) -> tuple[Tensor, Tensor]:
    """Gradients of the mean keys and values, [blocks, HK, D] float32."""
    split_rows = tiling.rows_per_split(plan.longest)
    columns = tiling.flash_key_gradient().columns
    grad_key, grad_value = flash.key_gradient(
        query, key_mean, value_mean, grad, statistics, plan.key_tiles(columns, True), scale,
        splits=-(-plan.longest // split_rows), split_rows=split_rows, stride=plan.block_size,
    )  # fmt: skip
    return grad_key.sum(0), grad_value.sum(0)
