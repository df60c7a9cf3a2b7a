"""The gated sum of the branches, its gradient for the gates, and the final key and value gradients (Triton)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from videonsa.kernels.plan import Plan
from videonsa.names import BRANCHES

ROWS = 16  # (query, head) pairs of a program


@triton.jit
def _combine(cmp, slc, swa, gates, out, rows, D: tl.constexpr, CMP: tl.constexpr, SLC: tl.constexpr, SWA: tl.constexpr,
             ROWS: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    live = row < rows
    place = row[:, None] * D + tl.arange(0, D)[None, :]
    sum_ = tl.zeros([ROWS, D], tl.float32)
    if CMP:
        gate = tl.load(gates + row * 3, mask=live, other=0.0).to(tl.float32)
        sum_ += gate[:, None] * tl.load(cmp + place, mask=live[:, None], other=0.0).to(tl.float32)
    if SLC:
        gate = tl.load(gates + row * 3 + 1, mask=live, other=0.0).to(tl.float32)
        sum_ += gate[:, None] * tl.load(slc + place, mask=live[:, None], other=0.0).to(tl.float32)
    if SWA:
        gate = tl.load(gates + row * 3 + 2, mask=live, other=0.0).to(tl.float32)
        sum_ += gate[:, None] * tl.load(swa + place, mask=live[:, None], other=0.0).to(tl.float32)
    tl.store(out + place, sum_.to(out.dtype.element_ty), mask=live[:, None])


@triton.jit
def _share_of(branch, grad, place, live):
    return tl.sum(grad * tl.load(branch + place, mask=live[:, None], other=0.0).to(tl.float32), 1)


@triton.jit
def _shares(cmp, slc, swa, grad, shares, rows, HQ: tl.constexpr, SLOTS: tl.constexpr, D: tl.constexpr,
            CMP: tl.constexpr, SLC: tl.constexpr, SWA: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    live = row < rows
    place = row[:, None] * D + tl.arange(0, D)[None, :]
    source = place
    if SLOTS != HQ:
        source = (row // SLOTS * HQ + row % SLOTS % HQ)[:, None] * D + tl.arange(0, D)[None, :]
    grad_tile = tl.load(grad + source, mask=live[:, None], other=0.0).to(tl.float32)
    zero = tl.zeros([ROWS], tl.float32)
    tl.store(shares + row * 3, _share_of(cmp, grad_tile, place, live) if CMP else zero, mask=live)
    tl.store(shares + row * 3 + 1, _share_of(slc, grad_tile, place, live) if SLC else zero, mask=live)
    tl.store(shares + row * 3 + 2, _share_of(swa, grad_tile, place, live) if SWA else zero, mask=live)


@triton.jit
def _spread(token_sum, block_sum, out, whole_block, rows, HK: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
            TOKEN: tl.constexpr, COMPRESSED: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    """out = TOKEN sums by token + the token's share of its block's sum; the rows are (token, head) pairs."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    live = row < rows
    size = tl.arange(0, D)
    place = row[:, None] * D + size[None, :]
    sum_ = tl.zeros([ROWS, D], tl.float32)
    for i in tl.static_range(TOKEN):
        sum_ += tl.load(token_sum + tl.cast(rows, tl.int64) * i * D + place, mask=live[:, None], other=0.0)
    if COMPRESSED:
        block = tl.load(whole_block + row // HK, mask=live, other=-1)
        source = (block.to(tl.int64) * HK + row % HK)[:, None] * D + size[None, :]
        sum_ += tl.load(block_sum + source, mask=(block >= 0)[:, None], other=0.0) / BLOCK
    tl.store(out + place, sum_.to(out.dtype.element_ty), mask=live[:, None])


def _branches(outputs: dict[str, Tensor]) -> dict[str, bool]:
    return {name.upper(): name in outputs for name in BRANCHES}


def combine(outputs: dict[str, Tensor], gates: Tensor) -> Tensor:
    """Sum over the branches in `outputs` ([T, HQ, D] each) of gates[..., branch] * output; gates [T, HQ, 3]."""
    some = next(iter(outputs.values()))
    out = torch.empty_like(some)
    rows = some.shape[0] * some.shape[1]
    cmp, slc, swa = (outputs.get(name, some) for name in BRANCHES)
    _combine[(triton.cdiv(rows, ROWS),)](
        cmp, slc, swa, gates, out, rows, D=some.shape[2], ROWS=ROWS, **_branches(outputs)
    )
    return out


def shares(outputs: dict[str, Tensor], grad: Tensor) -> Tensor:
    """[T, HQ, 3] float32: dot products of each branch's output with grad. They are the gates' gradients.

    Outputs of slots, [T, slots, D], meet the gradient of the head that they hold: [T, slots, 3].
    """
    slots = next(iter(outputs.values())).shape[1]
    result = torch.empty(len(grad), slots, 3, dtype=torch.float32, device=grad.device)
    rows = len(grad) * slots
    cmp, slc, swa = (outputs.get(name, grad) for name in BRANCHES)
    _shares[(triton.cdiv(rows, ROWS),)](
        cmp,
        slc,
        swa,
        grad,
        result,
        rows,
        HQ=grad.shape[1],
        SLOTS=slots,
        D=grad.shape[2],
        ROWS=ROWS,
        **_branches(outputs),
    )
    return result


def spread(token_sum: Tensor | None, block_sum: Tensor | None, like: Tensor, plan: Plan) -> Tensor:
    """Gradient of key or value: that of its token [T, HK, D], or several to be summed [n, T, HK, D], plus that of its
    block's mean [blocks, HK, D]."""
    out = torch.empty_like(like)
    rows = like.shape[0] * like.shape[1]
    sums = 0 if token_sum is None else token_sum.numel() // like.numel()
    _spread[(triton.cdiv(rows, ROWS),)](
        out if token_sum is None else token_sum, out if block_sum is None else block_sum, out, plan.whole_block(), rows,
        HK=like.shape[1], D=like.shape[2], BLOCK=plan.block_size, TOKEN=sums,
        COMPRESSED=block_sum is not None, ROWS=ROWS,
    )  # fmt: skip
    return out
