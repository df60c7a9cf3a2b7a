"""Window branch: causal attention to the last `window` tokens, t included. A banded case of flash.py."""

from __future__ import annotations

from torch import Tensor

from videonsa.kernels import flash, tiling
from videonsa.kernels.plan import Plan
from videonsa.kernels.slots import Slots


def forward(query: Tensor, key: Tensor, value: Tensor, plan: Plan, scale: float, window: int) -> tuple[Tensor, Tensor]:
    """query [T, HQ, D], key and value [T, HK, D] -> output [T, HQ, D], lse [HQ, T] in base 2."""
    tiles = plan.query_tiles(tiling.flash_forward(query.shape[2], window).rows, False)
    out, lse = flash.forward(query, key, value, plan.position(), tiles, scale, window=window)
    assert out is not None
    return out, lse


def backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    grad: Tensor,
    statistics: Tensor,
    plan: Plan,
    scale: float,
    window: int,
    *,
    grad_query: Tensor,
    add: bool,
    slots: Slots | None = None,
) -> tuple[Tensor, Tensor]:
    """Writes (add: adds to) grad_query (of slots, where they are given); returns the gradients of key and
    value, [T, HK, D] float32."""
    shared = (query, key, value, grad, statistics)
    rows, columns = tiling.flash_query_gradient().rows, tiling.flash_key_gradient().columns
    flash.query_gradient(
        *shared, plan.position(), plan.query_tiles(rows, False), scale, grad_query=grad_query, add=add, window=window,
        slots=slots,
    )  # fmt: skip
    grad_key, grad_value = flash.key_gradient(
        *shared, plan.key_tiles(columns, False), scale, splits=1, split_rows=plan.tokens, window=window,
        slots=slots,
    )  # fmt: skip
    return grad_key[0], grad_value[0]
