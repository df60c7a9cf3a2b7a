"""Selection branch for the queries that choose every block they see: plain causal attention, a case of flash.py.

Those are the first block_count * block_size tokens of a sequence. No partial results are moved for them.
"""

from __future__ import annotations

from torch import Tensor

from videonsa.kernels import flash, tiling
from videonsa.kernels.plan import Plan
from videonsa.kernels.slots import Slots


def forward(
    query: Tensor, key: Tensor, value: Tensor, plan: Plan, tokens: int, scale: float, *, out: Tensor, lse: Tensor
) -> None:
    """Write the rows of out [T, HQ, D] and of lse [T, HQ] (base 2) of each sequence's first `tokens` tokens."""
    tiles = plan.query_tiles(tiling.flash_forward(query.shape[2]).rows, False, prefix=tokens)
    if len(tiles):  # the last tokens of a long sequence alone: none of them is there
        flash.forward(query, key, value, plan.position(), tiles, scale, into=(out, lse))


def backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    grad: Tensor,
    statistics: Tensor,
    plan: Plan,
    tokens: int,
    scale: float,
    *,
    grad_query: Tensor,
    grad_key: Tensor,
    grad_value: Tensor,
    add: bool,
    slots: Slots | None = None,
) -> None:
    """Write (add: add to) those rows of grad_query, and add to grad_key, grad_value [T, HK, D] float32.

    statistics [T, HQ, 4], of rowstats.pack by query with positions on the packed token axis.
    """
    shared = (query, key, value, grad, statistics)
    tiles = plan.query_tiles(tiling.flash_query_gradient().rows, False, prefix=tokens)
    if not len(tiles):
        return
    flash.query_gradient(
        *shared, plan.position(), tiles, scale, grad_query=grad_query, add=add, by_query=True, slots=slots
    )
    tiles = plan.key_tiles(tiling.flash_key_gradient().columns, False, prefix=tokens)
    rows = plan.prefix(tokens)
    splits = tiling.prefix_splits(len(tiles) * key.shape[1])
    key_sums, value_sums = flash.key_gradient(
        *shared,
        tiles,
        scale,
        splits=splits,
        split_rows=-(-min(tokens, plan.longest) // splits),
        by_query=True,
        rows=len(rows),
        slots=slots,
    )
    grad_key[rows] += key_sums.sum(0)
    grad_value[rows] += value_sums.sum(0)
