"""Choice of blocks for the selection branch (Triton): importances of a chunk of queries, then an exact top-b.

Importance of block j for query t and a key/value head: the compression probability, summed over the head's query heads,

    importance[t, j] = sum over heads h of exp2(q_th . mean_key_j * scale - lse_th)

with lse from the compression branch's forward. The probabilities of one head never reach memory; their sum over the
group does, in float32, for a chunk of queries at a time. The mean key enters as high + low part (compress.py), so the
sum is exact to float32 rounding. The threshold is found by bisection over the bits of the float (non-negative floats
order as their bits do): some 12 counts, at most 31, over a row held in registers. Equal importances: the earlier block
wins.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from videonsa.kernels import tiling
from videonsa.kernels.flash import LOG2E, _load_rows
from videonsa.kernels.plan import Chunk, Plan


@triton.jit(do_not_specialize=["queries", "chunk_start", "chunk_rows"])
def _importance(query, key_high, key_low, lse, importance, position, tiles, queries, chunk_start, scale, columns,
                chunk_rows, HQ: tl.constexpr, HK: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
                ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    tile = tl.program_id(0)
    first_column = tl.program_id(1) * COLUMNS
    kv_head = tl.program_id(2)
    rows = tl.load(tiles + tile * 4) + tl.arange(0, ROWS)
    live = rows < tl.load(tiles + tile * 4 + 1)
    own = tl.load(position + rows, mask=live, other=0) // BLOCK
    if first_column < tl.max(own, 0):  # else no candidate for any query of the tile
        index = first_column + tl.arange(0, COLUMNS)
        live_key = index < tl.load(tiles + tile * 4 + 3)
        keys = tl.load(tiles + tile * 4 + 2) + index
        high = tl.trans(_load_rows(key_high, keys, live_key, kv_head, HK, D))
        low = tl.trans(_load_rows(key_low, keys, live_key, kv_head, HK, D))
        total = tl.zeros([ROWS, COLUMNS], tl.float32)
        for head in range(kv_head * (HQ // HK), (kv_head + 1) * (HQ // HK)):
            query_tile = _load_rows(query, rows, live, head, HQ, D)
            lse_row = tl.load(lse + tl.cast(head, tl.int64) * queries + rows, mask=live, other=0.0)
            score = tl.dot(query_tile, low, input_precision="ieee")
            score = tl.dot(query_tile, high, score, input_precision="ieee")
            total += tl.exp2(score * scale - lse_row[:, None])
        row = kv_head * chunk_rows + rows - chunk_start
        place = row.to(tl.int64)[:, None] * columns + index[None, :]
        tl.store(importance + place, total, mask=live[:, None] & (index < columns)[None, :])


@triton.jit(do_not_specialize=["chunk_start", "chunk_rows"])
def _choose(importance, index, position, first_block, chunk_start, columns, chunk_rows, HK: tl.constexpr,
            BLOCK: tl.constexpr, COUNT: tl.constexpr, COUNT_2: tl.constexpr, COLUMNS_2: tl.constexpr):  # fmt: skip
    """One row: index[t, head, :] = chosen blocks in rising order, -1 where fewer than COUNT are visible."""
    row = tl.program_id(0)
    head = tl.program_id(1)
    token = chunk_start + row
    own = tl.load(position + token) // BLOCK
    base = tl.load(first_block + token)
    out = index + (token.to(tl.int64) * HK + head) * COUNT
    if own < COUNT:
        first = tl.arange(0, COUNT_2)
        tl.store(out + first, tl.where(first <= own, base + first, -1), mask=first < COUNT)
    else:
        keep: tl.constexpr = COUNT - 1  # besides the query's own block
        block = tl.arange(0, COLUMNS_2)
        place = (head * chunk_rows + row).to(tl.int64) * columns
        value = tl.load(importance + place + block, mask=block < columns, other=-1.0)  # a mask by 16: whole words
        key = tl.where(block < own, value, -1.0).to(tl.int32, bitcast=True)
        threshold = tl.full([], 0, tl.int32)  # at least `keep` keys reach it,
        above = tl.max(key, 0) + 1  # and fewer reach this
        at_least = own
        while (above - threshold > 1) & (at_least != keep):
            trial = threshold + (above - threshold) // 2
            count = tl.sum((key >= trial).to(tl.int32), 0)
            enough = count >= keep
            threshold = tl.where(enough, trial, threshold)
            at_least = tl.where(enough, count, at_least)
            above = tl.where(enough, above, trial)
        chosen = key >= threshold
        if at_least != keep:  # ties at the threshold: the earliest of them
            larger = key > threshold
            tied = key == threshold
            room = keep - tl.sum(larger.to(tl.int32), 0)
            chosen = larger | (tied & (tl.cumsum(tied.to(tl.int32), 0) <= room))
        rank = tl.cumsum(chosen.to(tl.int32), 0) - 1
        tl.store(out + rank, base + block, mask=chosen)
        tl.store(out + keep, base + own)


def importances(
    query: Tensor, key_high: Tensor, key_low: Tensor, lse: Tensor, plan: Plan, chunk: Chunk, scale: float
) -> Tensor:
    """[HK, queries of the chunk, columns] float32; only blocks before a query's own are written."""
    heads, size = query.shape[1:]
    kv_heads = key_high.shape[1]
    tile = tiling.importance()
    rows = chunk.end - chunk.start
    columns = -(-chunk.columns // 16) * 16
    result = torch.empty(kv_heads, rows, columns, dtype=torch.float32, device=query.device)
    tiles = plan.query_tiles(tile.rows, True, chunk)
    _importance[(len(tiles), triton.cdiv(columns, tile.columns), kv_heads)](
        query, key_high, key_low, lse, result, plan.position(), tiles, len(query), chunk.start, scale * LOG2E,
        columns, rows,
        HQ=heads, HK=kv_heads, D=size, BLOCK=plan.block_size, ROWS=tile.rows, COLUMNS=tile.columns, **tile.options,
    )  # fmt: skip
    return result


def choose(importance: Tensor, index: Tensor, plan: Plan, chunk: Chunk) -> None:
    """Write the rows of `index` [T, HK, block_count] that belong to the chunk."""
    kv_heads, rows, columns = importance.shape
    count = index.shape[2]
    columns_2 = tiling.power_of_two(columns)
    _choose[(rows, kv_heads)](
        importance, index, plan.position(), plan.first_block(), chunk.start, columns, rows,
        HK=kv_heads, BLOCK=plan.block_size, COUNT=count, COUNT_2=tiling.power_of_two(count), COLUMNS_2=columns_2,
        num_warps=tiling.choice_warps(columns_2),
    )  # fmt: skip
