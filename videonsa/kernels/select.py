"""Choice of blocks for the selection branch (Triton): importances of a chunk of queries, then an exact top-b.

Importance of block j for query t and a key/value head: the compression probability, summed over the head's query heads,

    importance[t, j] = sum over heads h of exp2(q_th . mean_key_j * scale - lse_th)

with lse from the compression branch's forward. The probabilities of one head never reach memory; their sum over the
group does, in float32, for a chunk of queries at a time. The mean key enters as high + low part (compress.py), so the
score is exact to float32 rounding. The lse is of both parts where scores are large. Elsewhere it is the branch's own,
of the high part alone: the heads of a group weigh a little otherwise, by some 2^-12 at most, and blocks that all but
tie may change places. (With scores of deviation 14 that was 2 %, and other blocks were chosen than in float64 that no
rounding of the inputs would explain.) The threshold is found by bisection over the bits of
the float (non-negative floats order as their bits do): some 12 counts, at most 31, over a row held in registers. Equal
importances: the earlier block wins.

Long rows are chosen from in two steps. The largest importance of each run of 16 blocks, its peak, is kept beside the
row; the b - 1 largest importances lie in the b - 1 runs with the largest peaks (each of those runs holds a block that
comes before any block outside of them), so only these are read.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from videonsa.kernels import tiling
from videonsa.kernels.flash import LOG2E
from videonsa.kernels.plan import Chunk, Plan
from videonsa.kernels.tiles import load_tile, rows_of
from videonsa.limits import next_power_of_two

RUN = 16  # blocks that share a peak


@triton.jit(do_not_specialize=["queries", "chunk_start", "chunk_rows"])
def _importance(query, key_high, key_low, lse, importance, peaks, position, tiles, queries, chunk_start, scale, columns,
                chunk_rows, HQ: tl.constexpr, HK: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
                COUNT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PEAKS: tl.constexpr,
                RUN: tl.constexpr):  # fmt: skip
    tile = tl.program_id(0)
    first_column = tl.program_id(1) * COLUMNS
    kv_head = tl.program_id(2)
    first = tl.load(tiles + tile * 3)
    rows = first + tl.arange(0, ROWS)
    live = rows < tl.load(tiles + tile * 3 + 1)
    own = tl.load(position + rows, mask=live, other=0) // BLOCK
    last = tl.max(own, 0)
    if (first_column < last) & (last >= COUNT):  # else no candidate for any query of the tile, or no choice
        first_key = tl.load(tiles + tile * 3 + 2) + first_column
        high = tl.trans(load_tile(key_high, first_key, kv_head, D))
        low = tl.trans(load_tile(key_low, first_key, kv_head, D))
        total = tl.zeros([ROWS, COLUMNS], tl.float32)
        for head in range(kv_head * (HQ // HK), (kv_head + 1) * (HQ // HK)):
            query_tile = load_tile(query, first, head, D)
            lse_row = tl.load(lse + tl.cast(head, tl.int64) * queries + rows, mask=live, other=0.0)
            score = tl.dot(query_tile, low, input_precision="ieee")
            score = tl.dot(query_tile, high, score, input_precision="ieee")
            total += tl.exp2(score * scale - lse_row[:, None])
        total = tl.where(
            total <= 3.0e38, total, 3.0e38
        )  # NaN as well: the bits of what is chosen from must have an order
        index = first_column + tl.arange(0, COLUMNS)
        row = (kv_head * chunk_rows + rows - chunk_start).to(tl.int64)
        place = row[:, None] * columns + index[None, :]
        tl.store(importance + place, total, mask=live[:, None] & (index < columns)[None, :])
        if PEAKS:
            candidate = tl.where(index[None, :] < own[:, None], total, -1.0)
            peak = tl.max(tl.reshape(candidate, [ROWS, COLUMNS // RUN, RUN]), 2)
            run = first_column // RUN + tl.arange(0, COLUMNS // RUN)
            place = row[:, None] * (columns // RUN) + run[None, :]
            tl.store(peaks + place, peak, mask=live[:, None] & (run < columns // RUN)[None, :])


@triton.jit
def _largest(value, keep, least):
    """Mask of the `keep` largest of the values that are not negative; the earlier of equal ones; all of them where
    there are fewer. `least`: a number that `keep` of them are known to reach, or 0."""
    key = value.to(tl.int32, bitcast=True)
    threshold = least.to(tl.int32, bitcast=True)  # at least `keep` keys reach it,
    above = tl.max(key, 0) + 1  # and fewer reach this
    at_least = tl.sum((key >= threshold).to(tl.int32), 0)
    while (above - threshold > 1) & (at_least > keep):
        trial = threshold + (above - threshold) // 2
        count = tl.sum((key >= trial).to(tl.int32), 0)
        enough = count >= keep
        threshold = tl.where(enough, trial, threshold)
        at_least = tl.where(enough, count, at_least)
        above = tl.where(enough, above, trial)
    chosen = key >= threshold
    if at_least > keep:  # ties at the threshold: the earliest of them
        larger = key > threshold
        tied = key == threshold
        room = keep - tl.sum(larger.to(tl.int32), 0)
        chosen = larger | (tied & (tl.cumsum(tied.to(tl.int32), 0) <= room))
    return chosen


@triton.jit(do_not_specialize=["chunk_start", "chunk_rows"])
def _choose(importance, peaks, index, position, first_block, chunk_start, columns, chunk_rows, HK: tl.constexpr,
            BLOCK: tl.constexpr, COUNT: tl.constexpr, COUNT_2: tl.constexpr, COLUMNS_2: tl.constexpr,
            PEAKS: tl.constexpr, RUN: tl.constexpr):  # fmt: skip
    """One row: index[t, head, :] = chosen blocks in rising order, for a query that sees more than COUNT of them."""
    row = tl.program_id(0)
    head = tl.program_id(1)
    token = chunk_start + row
    own = tl.load(position + token) // BLOCK
    base = tl.load(first_block + token)
    out = index + (token.to(tl.int64) * HK + head) * COUNT
    if own >= COUNT:
        keep: tl.constexpr = COUNT - 1  # besides the query's own block
        importance += (head * chunk_rows + row).to(tl.int64) * columns
        least = tl.full([], 0.0, tl.float32)
        if PEAKS:
            peaks += (head * chunk_rows + row).to(tl.int64) * (columns // RUN)
            run = tl.arange(0, COLUMNS_2 // RUN)
            peak = tl.load(peaks + run, mask=run * RUN < own, other=-1.0)
            chosen = _largest(peak, keep, least)
            if tl.cdiv(own, RUN) >= keep:
                least = tl.min(tl.where(chosen, peak, float("inf")), 0)
            # the i-th chosen run follows all those that have at most i chosen ones up to and with themselves
            before = tl.cumsum(chosen.to(tl.int32), 0)
            chosen_run = tl.cumsum(tl.histogram(before, COUNT_2), 0)
            block = chosen_run[:, None] * RUN + tl.arange(0, RUN)[None, :]
            value = tl.load(importance + block, mask=(chosen_run * RUN < own)[:, None], other=-1.0)
            block = tl.reshape(block, [COUNT_2 * RUN])
            value = tl.reshape(value, [COUNT_2 * RUN])
        else:
            block = tl.arange(0, COLUMNS_2)
            value = tl.load(importance + block, mask=block < columns, other=-1.0)  # a mask by 16: whole words
        value = tl.where(block < own, value, -1.0)
        chosen = _largest(value, keep, least)
        rank = tl.cumsum(chosen.to(tl.int32), 0) - 1
        tl.store(out + rank, base + block, mask=chosen)
        tl.store(out + keep, base + own)


def importances(
    query: Tensor, key_high: Tensor, key_low: Tensor, lse: Tensor, plan: Plan, chunk: Chunk, scale: float, count: int
) -> tuple[Tensor, Tensor | None]:
    """[HK, queries of the chunk, columns] float32, and its peaks [.., columns / RUN] where `choose` wants them for
    `count` blocks a query. Written for queries that see more than that, and of the blocks before a query's own."""
    heads, size = query.shape[1:]
    kv_heads = key_high.shape[1]
    tile = tiling.importance()
    rows = chunk.end - chunk.start
    columns = -(-chunk.columns // RUN) * RUN
    result = torch.empty(kv_heads, rows, columns, dtype=torch.float32, device=query.device)
    peaks = None
    if tiling.choose_by_peaks(columns, count):
        peaks = torch.empty(kv_heads, rows, columns // RUN, dtype=torch.float32, device=query.device)
    tiles = plan.query_tiles(tile.rows, True, chunk)
    _importance[(len(tiles), triton.cdiv(columns, tile.columns), kv_heads)](
        rows_of(query, tile.rows), rows_of(key_high, tile.columns), rows_of(key_low, tile.columns), lse, result,
        result if peaks is None else peaks, plan.position(), tiles, len(query), chunk.start, scale * LOG2E, columns,
        rows,
        HQ=heads, HK=kv_heads, D=size, BLOCK=plan.block_size, COUNT=count, ROWS=tile.rows, COLUMNS=tile.columns,
        PEAKS=peaks is not None, RUN=RUN, **tile.options,
    )  # fmt: skip
    return result, peaks


def choose(importance: Tensor, peaks: Tensor | None, index: Tensor, plan: Plan, chunk: Chunk) -> None:
    """Write the rows of `index` [T, HK, block_count] that belong to the chunk."""
    kv_heads, rows, columns = importance.shape
    count = index.shape[2]
    count_2, columns_2 = next_power_of_two(count), next_power_of_two(columns)
    widest = columns_2 if peaks is None else max(count_2 * RUN, columns_2 // RUN)
    _choose[(rows, kv_heads)](
        importance, importance if peaks is None else peaks, index, plan.position(), plan.first_block_seen(),
        chunk.start, columns, rows,
        HK=kv_heads, BLOCK=plan.block_size, COUNT=count, COUNT_2=count_2, COLUMNS_2=columns_2, PEAKS=peaks is not None,
        RUN=RUN, num_warps=tiling.choice_warps(widest),
    )  # fmt: skip
