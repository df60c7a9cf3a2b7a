"""The release's choice of blocks (Triton): importances of a chunk of queries, the best of them, ties in its order.

    importance[t, j] = sum over the slots n of a key/value head of exp(query_tn . mean_key_j - lse_tn),

the scaled query and the mean key both rounded, the lse read in the layout that the release reads it in, and t's own
block weighing what `own_weight` says. An empty slot has a query of 0.

Which blocks a sorting network over groups of WIDTH columns keeps follows from their order alone while none of them ties
with one that is left out: of the groups before the last and of the last one, the best WIDTH / 2 each, and of these the
best COUNT. Only rows where a tie decides go through the network itself (bitonic.py), column by column.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from videonsa.kernels import tiling
from videonsa.kernels.flash import LOG2E
from videonsa.kernels.plan import Chunk, Plan
from videonsa.kernels.select import RUN, _largest
from videonsa.kernels.slots import Slots
from videonsa.kernels.tiles import load_tile, rows_of
from videonsa.limits import next_power_of_two


@triton.jit(do_not_specialize=["chunk_start", "chunk_rows"])
def _importance(query, key, lse, importance, peaks, position, tiles, chunk_start, scale, columns, chunk_rows,
                own_weight, HQ: tl.constexpr, D: tl.constexpr, GROUP: tl.constexpr, SLOTS: tl.constexpr,
                ALL_SLOTS: tl.constexpr, BLOCK: tl.constexpr, LEAST: tl.constexpr, ROWS: tl.constexpr,
                COLUMNS: tl.constexpr, PEAKS: tl.constexpr, RUN: tl.constexpr):  # fmt: skip
    tile = tl.program_id(0)
    first_column = tl.program_id(1) * COLUMNS
    kv_head = tl.program_id(2)
    first = tl.load(tiles + tile * 3)
    rows = first + tl.arange(0, ROWS)
    live = rows < tl.load(tiles + tile * 3 + 1)
    own = tl.load(position + rows, mask=live, other=0) // BLOCK
    last = tl.max(own, 0)
    if (first_column <= last) & (last >= LEAST):
        first_key = tl.load(tiles + tile * 3 + 2) + first_column
        key_tile = tl.trans(load_tile(key, first_key, kv_head, D))
        total = tl.zeros([ROWS, COLUMNS], tl.float32)
        lse_place = lse + rows.to(tl.int64) * ALL_SLOTS
        end = (kv_head + 1) * GROUP
        for slot in range(kv_head * GROUP, tl.minimum(end, SLOTS)):
            query_tile = load_tile(query, first, slot % HQ, D)
            lse_row = tl.load(lse_place + slot, mask=live, other=0.0)
            score = tl.dot(query_tile, key_tile, input_precision="ieee")
            total += tl.exp2(score * scale - lse_row[:, None])
        for slot in range(tl.maximum(kv_head * GROUP, SLOTS), end):
            total += tl.exp2(-tl.load(lse_place + slot, mask=live, other=0.0))[:, None]
        total = tl.where(total == total, total, float("inf"))  # NaN: the bits of what is chosen from have an order
        index = first_column + tl.arange(0, COLUMNS)
        total = tl.where(index[None, :] == own[:, None], own_weight, total)
        row = (kv_head * chunk_rows + rows - chunk_start).to(tl.int64)
        place = row[:, None] * columns + index[None, :]
        tl.store(importance + place, total, mask=live[:, None] & (index < columns)[None, :])
        if PEAKS:
            candidate = tl.where(index[None, :] <= own[:, None], total, -1.0)
            peak = tl.max(tl.reshape(candidate, [ROWS, COLUMNS // RUN, RUN]), 2)
            run = first_column // RUN + tl.arange(0, COLUMNS // RUN)
            place = row[:, None] * (columns // RUN) + run[None, :]
            tl.store(peaks + place, peak, mask=live[:, None] & (run < columns // RUN)[None, :])


@triton.jit
def _ties(value, chosen):
    """Whether another choice of as many would be as good, or one of value 0 is among the chosen."""
    lowest = tl.min(tl.where(chosen, value, float("inf")), 0)
    return (lowest <= 0) | (tl.max(tl.where(chosen, -1.0, value), 0) >= lowest)


@triton.jit(do_not_specialize=["chunk_start", "chunk_rows"])
def _choose(importance, peaks, index, tied, position, first_block, chunk_start, columns, chunk_rows, HK: tl.constexpr,
            BLOCK: tl.constexpr, COUNT: tl.constexpr, COUNT_2: tl.constexpr, COLUMNS_2: tl.constexpr,
            LEAST: tl.constexpr, WIDTH: tl.constexpr, HALVES: tl.constexpr, PEAKS: tl.constexpr,
            RUN: tl.constexpr):  # fmt: skip
    """One row: index[t, head, :] = chosen blocks in rising order. WIDTH: of the network's groups; 0: ties go to the
    earlier block. HALVES: more than half of a group may be asked for. tied[row]: whether the network must say."""
    row = tl.program_id(0)
    head = tl.program_id(1)
    token = chunk_start + row
    own = tl.load(position + token) // BLOCK
    if own >= LEAST:
        base = tl.load(first_block + token)
        place = (head * chunk_rows + row).to(tl.int64)
        importance += place * columns
        least = tl.full([], 0.0, tl.float32)
        left_out = tl.full([], -1.0, tl.float32)  # largest peak of the runs that are not read
        unsure = own < 0
        if PEAKS:
            peaks += place * (columns // RUN)
            run = tl.arange(0, COLUMNS_2 // RUN)
            peak = tl.load(peaks + run, mask=run * RUN <= own, other=-1.0)
            chosen = _largest(peak, COUNT, least)
            left_out = tl.max(tl.where(chosen, -1.0, peak), 0)
            if tl.cdiv(own + 1, RUN) >= COUNT:
                least = tl.min(tl.where(chosen, peak, float("inf")), 0)
            # the i-th chosen run follows all those that have at most i chosen ones up to and with themselves
            before = tl.cumsum(chosen.to(tl.int32), 0)
            if COUNT == COUNT_2:  # what follows the last chosen run has no bin
                bins = tl.histogram(before, COUNT_2, mask=before < COUNT)
            else:
                bins = tl.histogram(before, COUNT_2)
            chosen_run = tl.cumsum(bins, 0)
            block = chosen_run[:, None] * RUN + tl.arange(0, RUN)[None, :]
            value = tl.load(importance + block, mask=(chosen_run * RUN <= own)[:, None], other=-1.0)
            block = tl.reshape(block, [COUNT_2 * RUN])
            value = tl.reshape(value, [COUNT_2 * RUN])
        else:
            block = tl.arange(0, COLUMNS_2)
            value = tl.load(importance + block, mask=block < columns, other=-1.0)
        value = tl.where(block <= own, value, -1.0)
        if HALVES:
            start = own // WIDTH * WIDTH  # of the last group
            if start > 0:
                early = tl.where(block < start, value, -1.0)
                late = tl.where(block >= start, value, -1.0)
                kept = _largest(early, WIDTH // 2, least)
                joined = _largest(late, WIDTH // 2, least)
                unsure = unsure | _ties(early, kept) | _ties(late, joined)
                value = tl.where(kept | joined, value, -1.0)
        chosen = _largest(value, COUNT, least)
        rank = tl.cumsum(chosen.to(tl.int32), 0) - 1
        tl.store(index + (token.to(tl.int64) * HK + head) * COUNT + rank, base + block, mask=chosen)
        if WIDTH > 0:
            lowest = tl.min(tl.where(chosen, value, float("inf")), 0)
            unsure = unsure | _ties(value, chosen) | (left_out >= lowest)
            tl.store(tied + place, unsure.to(tl.int8))


@triton.jit
def _merge_runs(worth, label, column, down, STAGE: tl.constexpr):
    """bitonic._merge: merge bitonic runs of 2^STAGE columns."""
    for i in tl.static_range(STAGE):
        partner = column ^ (1 << (STAGE - 1 - i))
        other = tl.gather(worth, partner, 0)
        other_label = tl.gather(label, partner, 0)
        greater = tl.where(column < partner, worth > other, other > worth)
        swap = greater != down
        worth = tl.where(swap, other, worth)
        label = tl.where(swap, other_label, label)
    return worth, label


@triton.jit
def _sort(worth, label, column, DESCENDING: tl.constexpr, LOG: tl.constexpr):
    """bitonic.sort_rows."""
    for stage in tl.static_range(1, LOG):
        worth, label = _merge_runs(worth, label, column, ((column >> stage) & 1) == 1, stage)
    down = (column >= 0) if DESCENDING else (column < 0)
    return _merge_runs(worth, label, column, down, LOG)


@triton.jit(do_not_specialize=["chunk_start", "chunk_rows"])
def _network(importance, index, tied, position, first_block, chunk_start, columns, chunk_rows, HK: tl.constexpr,
             BLOCK: tl.constexpr, COUNT: tl.constexpr, WIDTH: tl.constexpr, LOG: tl.constexpr):  # fmt: skip
    """One row of those where a tie decides: bitonic.network_topk."""
    row = tl.program_id(0)
    head = tl.program_id(1)
    place = (head * chunk_rows + row).to(tl.int64)
    if tl.load(tied + place) != 0:
        token = chunk_start + row
        own = tl.load(position + token) // BLOCK
        importance += place * columns
        column = tl.arange(0, WIDTH)
        best = tl.load(importance + column, mask=column <= own, other=0.0)
        label = tl.where(column <= own, column + 1, 0)
        best, label = _sort(best, label, column, True, LOG)
        for start in range(WIDTH, own + 1, WIDTH):
            block = start + column
            worth = tl.load(importance + block, mask=block <= own, other=0.0)
            joined = tl.where(block <= own, block + 1, 0)
            worth, joined = _sort(worth, joined, column, False, LOG)
            best = tl.where(column < WIDTH // 2, best, worth)
            label = tl.where(column < WIDTH // 2, label, joined)
            best, label = _merge_runs(best, label, column, column >= 0, LOG)
        block = tl.where(label > 0, tl.load(first_block + token) + label - 1, -1)
        tl.store(index + (token.to(tl.int64) * HK + head) * COUNT + column, block, mask=column < COUNT)


def importances(
    ranking: Tensor,
    key_mean: Tensor,
    lse: Tensor,
    plan: Plan,
    chunk: Chunk,
    slots: Slots,
    own_weight: float,
    count: int,
    width: int,
    least: int,
) -> tuple[Tensor, Tensor | None]:
    """[HK, queries of the chunk, columns] float32, of the blocks up to a query's own, and peaks if `choose` wants them.

    ranking [T, HQ, D]: scaled, rounded queries; key_mean [blocks, HK, D], rounded; lse [T, slots.all], base 2;
    least: the first block of a sequence whose queries choose; count, width: see `choose`.
    """
    size = ranking.shape[2]
    tile = tiling.importance()
    rows = chunk.end - chunk.start
    columns = -(-chunk.columns // RUN) * RUN
    result = torch.empty(slots.kv_heads, rows, columns, dtype=torch.float32, device=ranking.device)
    peaks = None
    if tiling.choose_by_peaks(columns, count) and not _halves(count, width):
        peaks = torch.empty(slots.kv_heads, rows, columns // RUN, dtype=torch.float32, device=ranking.device)
    tiles = plan.query_tiles(tile.rows, True, chunk)
    _importance[(len(tiles), triton.cdiv(columns, tile.columns), slots.kv_heads)](
        rows_of(ranking, tile.rows), rows_of(key_mean, tile.columns), lse, result, result if peaks is None else peaks,
        plan.position(), tiles, chunk.start, LOG2E, columns, rows, own_weight,
        HQ=slots.heads, D=size, GROUP=slots.group, SLOTS=slots.used, ALL_SLOTS=slots.all, BLOCK=plan.block_size,
        LEAST=least, ROWS=tile.rows, COLUMNS=tile.columns, PEAKS=peaks is not None, RUN=RUN, **tile.options,
    )  # fmt: skip
    return result, peaks


def _halves(count: int, width: int) -> bool:
    """Whether it matters that no more than half of a group of the network survives."""
    return 0 < width < 2 * count


def choose(
    importance: Tensor, peaks: Tensor | None, index: Tensor, plan: Plan, chunk: Chunk, width: int, least: int
) -> None:
    """Write the rows of `index` [T, HK, count], filled with -1, of the chunk's queries from block `least` on.

    width: of the groups of the release's sorting network, whose order then decides ties; 0: the earlier block wins.
    """
    kv_heads, rows, columns = importance.shape
    count = index.shape[2]
    count_2, columns_2 = next_power_of_two(count), next_power_of_two(columns)
    widest = columns_2 if peaks is None else max(count_2 * RUN, columns_2 // RUN)
    tied = torch.empty(kv_heads, rows, dtype=torch.int8, device=index.device)
    places = plan.position(), plan.first_block()
    _choose[(rows, kv_heads)](
        importance, importance if peaks is None else peaks, index, tied, *places, chunk.start,
        columns, rows,
        HK=kv_heads, BLOCK=plan.block_size, COUNT=count, COUNT_2=count_2, COLUMNS_2=columns_2, LEAST=least,
        WIDTH=width, HALVES=_halves(count, width), PEAKS=peaks is not None, RUN=RUN,
        num_warps=tiling.choice_warps(widest),
    )  # fmt: skip
    if width:
        _network[(rows, kv_heads)](
            importance, index, tied, *places, chunk.start, columns, rows,
            HK=kv_heads, BLOCK=plan.block_size, COUNT=count, WIDTH=width, LOG=width.bit_length() - 1,
            num_warps=max(1, width // 32),
        )  # fmt: skip
