"""What a backward kernel must know of each query and head, four numbers side by side (Triton).

    0 lse of the branch, base 2     1 gate, the factor of the branch's output
    2 share, the dot product of the branch's output with the output's gradient     3 position (the bits of an int32)

One 16-byte copy a row then brings them in. Loaded from four tensors, Triton copies each number once per thread that
needs it, and those copies and their addresses took a third of the key gradient's time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def load_four(base, rows, live, ROWS: tl.constexpr):
    """lse, gate, share (float32) and position (int32) of some rows.

    Rows that are not live read as 1e30: exp2(score - lse) is then 0, and finite factors keep it so.
    """
    tile = tl.load(base + rows[:, None] * 4 + tl.arange(0, 4)[None, :], mask=live[:, None], other=1.0e30)
    even, odd = tl.split(tl.reshape(tile, [ROWS, 2, 2]))
    lse, share = tl.split(even)
    gate, position = tl.split(odd)
    return lse, gate, share, position.to(tl.int32, bitcast=True)


@triton.jit
def _pack(lse, gate, share, gate_stride, position, statistics, queries, HQ: tl.constexpr, BY_QUERY: tl.constexpr,
          ROWS: tl.constexpr):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    head = tl.program_id(1)
    live = rows < queries
    by_query = rows.to(tl.int64) * HQ + head
    place = by_query if BY_QUERY else head.to(tl.int64) * queries + rows
    lse_row = tl.load(lse + place, mask=live, other=0.0)
    gate_row = tl.load(gate + by_query * gate_stride, mask=live, other=0.0).to(tl.float32)
    share_row = tl.load(share + by_query * gate_stride, mask=live, other=0.0).to(tl.float32)
    bits = tl.load(position + rows, mask=live, other=0).to(tl.float32, bitcast=True)
    which = tl.arange(0, 4)[None, :]
    tile = tl.where(which == 0, lse_row[:, None], gate_row[:, None])
    tile = tl.where(which == 2, share_row[:, None], tile)
    tile = tl.where(which == 3, bits[:, None], tile)
    tl.store(statistics + place[:, None] * 4 + which, tile, mask=live[:, None])


def pack(lse: Tensor, gate: Tensor, share: Tensor, position: Tensor, *, by_query: bool = False) -> Tensor:
    """lse [HQ, T]; gate, share [T, HQ], views of contiguous [T, HQ, n]; position [T] int32 -> [HQ, T, 4] float32.

    by_query: lse [T, HQ] -> [T, HQ, 4], for kernels that gather queries.
    """
    queries, heads = gate.shape
    statistics = torch.empty(*lse.shape, 4, dtype=torch.float32, device=lse.device)
    _pack[(triton.cdiv(queries, 128), heads)](
        lse, gate, share, gate.stride(1), position, statistics, queries, HQ=heads, BY_QUERY=by_query, ROWS=128
    )
    return statistics
