"""`block_sparse_attention` on Triton: flash attention that walks a list of blocks, then single columns. Forward only.

One program takes a tile of a block of queries of one head. Blocks of keys come through tensor descriptors from any row
on; only those that reach past the tile's first query, or that the band cuts, are masked. Columns are gathered row by
row: a first kernel leaves out those that lie in a block of the list. The query heads of a key/value head run side by
side, so that blocks that they share are read from the L2 cache; of each head the last queries come first, whose lists
are longest, so that the short ones fill the end.

Tensors: query, out [L, HQ, D]; key, value [L, HK, D]; starts, counts, columns of a `KeyChoice`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

from videonsa.kernels import tiling, tiling_sparse
from videonsa.kernels.flash import LOG2E
from videonsa.kernels.key_choice import KeyChoice
from videonsa.kernels.tiles import load_rows, load_tile, rows_of, store_rows

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


@triton.jit
def _sees(row, index, sink, window, dense_from, BAND: tl.constexpr):
    row, index = row[:, None], index[None, :]
    visible = index <= row
    if BAND:
        visible = visible & ((index < sink) | (row - index < window) | (row >= dense_from))
    return visible


@triton.jit
def _add(query, key_tile, value_tile, row, index, sink, window, dense_from, scale, top, total, sum_,
         MASKED: tl.constexpr, BAND: tl.constexpr):  # fmt: skip
    """Take a tile of keys into the running maximum, denominator and weighted sum of the values.

    MASKED: some query of the tile may not see all of them, and so not even a NaN of theirs: 0 * NaN would be one.
    """
    score = tl.dot(query, tl.trans(key_tile), input_precision="ieee")
    if MASKED:
        visible = _sees(row, index, sink, window, dense_from, BAND)
        score = tl.where(visible, score, float("-inf"))
    new_top = tl.maximum(top, tl.max(score, 1) * scale)
    probability = tl.exp2(score * scale - new_top[:, None])
    shrink = tl.exp2(top - new_top)
    total = total * shrink + tl.sum(probability, 1)
    sum_ = sum_ * shrink[:, None]
    if MASKED:
        broken = tl.max(tl.where(tl.abs(value_tile.to(tl.float32)) < float("inf"), 0, 1), 1) > 0
        value_tile = tl.where(broken[:, None], 0.0, value_tile)
        reached = tl.max((visible & broken[None, :]).to(tl.int32), 1) > 0
        sum_ = tl.where(reached[:, None], float("nan"), sum_)
    sum_ = tl.dot(probability.to(value_tile.dtype), value_tile, sum_, input_precision="ieee")
    return new_top, total, sum_


@triton.jit
def _before(starts, count, bound, SPAN: tl.constexpr):
    """How many blocks of a list begin before `bound`."""
    found = 0
    for i in range(0, count, SPAN):
        place = i + tl.arange(0, SPAN)
        found += tl.sum((tl.load(starts + place, mask=place < count, other=bound) < bound).to(tl.int32), 0)
    return found


@triton.jit
def _whole(starts, count, last_start):
    """How many blocks of a list begin at last_start or before."""
    while (count > 0) & (tl.load(starts + tl.maximum(count - 1, 0)) > last_start):
        count -= 1
    return count


@triton.jit
def _place(program, tiles, GROUP: tl.constexpr):
    """Head and tile of a program: key/value head by key/value head, of each the last tile first."""
    kv_head = program // (tiles * GROUP)
    rest = program - kv_head * tiles * GROUP
    return kv_head * GROUP + rest % GROUP, tiles - 1 - rest // GROUP


@triton.jit(do_not_specialize=["length", "blocks", "most", "head_stride", "block_stride", "sink", "window",
                               "dense_from"])  # fmt: skip
def _attend(query, key, value, keys, values, starts, counts, columns, column_counts, out, length, blocks, most,
            head_stride, block_stride, sink, window, dense_from, scale, HQ: tl.constexpr, HK: tl.constexpr,
            D: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr, BAND: tl.constexpr,
            SINGLE: tl.constexpr):  # fmt: skip
    """keys, values: descriptors of key and value; columns, column_counts of `_outside`, where there are SINGLE ones."""
    STEPS: tl.constexpr = BLOCK // STEP
    head, tile = _place(tl.program_id(0), blocks * (BLOCK // ROWS), HQ // HK)
    kv_head = head // (HQ // HK)
    first = tile * ROWS
    row = first + tl.arange(0, ROWS)
    inside = tl.arange(0, STEP)
    list_ = head * blocks + tile // (BLOCK // ROWS)
    query_tile = load_tile(query, first, head, D)
    starts += tl.cast(head, tl.int64) * head_stride + tl.cast(tile // (BLOCK // ROWS), tl.int64) * block_stride
    count = _whole(starts, tl.load(counts + list_), first + ROWS - 1)
    whole = _whole(starts, count, first - BLOCK + 1)

    top = tl.full([ROWS], -1.0e30, tl.float32)  # finite, so that a row which sees nothing yields 0 and no NaN
    total = tl.zeros([ROWS], tl.float32)
    sum_ = tl.zeros([ROWS, D], tl.float32)
    sunk = 0  # of the `whole` blocks that no query precedes, sunk .. sunk + cut are cut by the band
    cut = 0
    if BAND:
        sunk = _before(starts, whole, sink - BLOCK + 1, 256)
        edge = _before(starts, whole, first + ROWS - window, 256)
        cut = tl.where(first < dense_from, tl.maximum(edge - sunk, 0), 0)
    plain = whole - cut
    following = tl.load(starts + tl.where(sunk > 0, 0, cut), mask=plain > 0, other=0)
    for i in range(0, plain * STEPS):
        j = following + i % STEPS * STEP
        n = tl.minimum((i + 1) // STEPS, plain - 1)
        following = tl.load(starts + tl.where(n < sunk, n, n + cut))  # a step ahead: the copy of a tile waits for it
        key_tile = load_tile(keys, j, kv_head, D)
        value_tile = load_tile(values, j, kv_head, D)
        top, total, sum_ = _add(query_tile, key_tile, value_tile, row, j + inside, sink, window, dense_from, scale, top,
                                total, sum_, False, BAND)  # fmt: skip
    for i in range(0, (count - plain) * STEPS):
        n = i // STEPS
        j = tl.load(starts + tl.where(n < cut, sunk + n, plain + n)) + i % STEPS * STEP
        key_tile = load_tile(keys, j, kv_head, D)
        value_tile = load_tile(values, j, kv_head, D)
        top, total, sum_ = _add(query_tile, key_tile, value_tile, row, j + inside, sink, window, dense_from, scale, top,
                                total, sum_, True, BAND)  # fmt: skip
    if SINGLE:
        columns += tl.cast(list_, tl.int64) * most
        count = tl.load(column_counts + list_ * 2)
        earlier = tl.load(column_counts + list_ * 2 + 1) // STEP * STEP
        for i in range(0, earlier, STEP):
            index = tl.load(columns + i + inside)
            key_tile = load_rows(key, index, index >= 0, kv_head, HK, D)
            value_tile = load_rows(value, index, index >= 0, kv_head, HK, D)
            top, total, sum_ = _add(query_tile, key_tile, value_tile, row, index, sink, window, dense_from, scale, top,
                                    total, sum_, False, False)  # fmt: skip
        for i in range(earlier, count, STEP):
            live = i + inside < count
            index = tl.load(columns + i + inside, mask=live, other=2147483647)
            key_tile = load_rows(key, index, live, kv_head, HK, D)
            value_tile = load_rows(value, index, live, kv_head, HK, D)
            top, total, sum_ = _add(query_tile, key_tile, value_tile, row, index, sink, window, dense_from, scale, top,
                                    total, sum_, True, False)  # fmt: skip
    sum_ = sum_ / tl.where(total > 0, total, 1.0)[:, None]
    store_rows(out, sum_, row, row < length, head, HQ, D)


@triton.jit(do_not_specialize=["length", "blocks", "most", "head_stride", "block_stride", "searches"])
def _outside(starts, counts, columns, found, found_counts, length, blocks, most, head_stride, block_stride, searches,
             BLOCK: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """The columns of a head that its queries of one block see outside of its chosen blocks; found [Hq, nq, most],
    found_counts [Hq, nq, 2]: how many, and how many of them every query of the block sees.

    searches: halvings that find a place in the longest list.
    """
    head = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    starts += tl.cast(head, tl.int64) * head_stride + tl.cast(block, tl.int64) * block_stride
    count = tl.load(counts + tl.program_id(0))
    found += tl.cast(tl.program_id(0), tl.int64) * most
    many = 0
    earlier = 0
    for i in range(0, most, COLUMNS):
        place = i + tl.arange(0, COLUMNS)
        column = tl.load(columns + head * most + place, mask=place < most, other=-1)
        low = tl.zeros([COLUMNS], tl.int32)  # blocks that begin at the column or before: low .. high
        high = low + count
        for _ in range(0, searches):
            middle = (low + high) // 2
            start = tl.load(starts + middle, mask=middle < count, other=2147483647)
            after = (low < high) & (start <= column)
            high = tl.where(after, high, middle)
            low = tl.where(after, middle + 1, low)
        start = tl.load(starts + tl.maximum(low - 1, 0), mask=low > 0, other=-BLOCK)
        outside = (column >= 0) & (column < tl.minimum((block + 1) * BLOCK, length)) & (column >= start + BLOCK)
        one = outside.to(tl.int32)
        tl.store(found + many + tl.cumsum(one, 0) - 1, column, mask=outside)
        many += tl.sum(one, 0)
        earlier += tl.sum((outside & (column <= block * BLOCK)).to(tl.int32), 0)
    tl.store(found_counts + tl.program_id(0) * 2, many)
    tl.store(found_counts + tl.program_id(0) * 2 + 1, earlier)


@torch.compiler.disable
def block_sparse_triton(query: Tensor, key: Tensor, value: Tensor, choice: KeyChoice, scale: float) -> Tensor:
    """`block_sparse_attention` without its checks, on CUDA (or anywhere in Triton's interpreter)."""
    _check(query, key, value, choice, scale)
    with torch.cuda.device_of(query):  # kernels run on the current device
        return _launch(query.contiguous(), key.contiguous(), value.contiguous(), choice, scale)


def _check(query: Tensor, key: Tensor, value: Tensor, choice: KeyChoice, scale: float) -> None:
    asked = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
    if asked:
        raise ValueError("backend='triton' gives no gradients of attention to chosen keys: 'reference' does")
    if not scale > 0:
        raise ValueError(f"scale={scale} is not served by backend='triton': above 0, or 'reference'")
    if not tiling.serves(query.shape[-1], choice.block_size):
        raise ValueError(
            f"heads of {query.shape[-1]} in blocks of {choice.block_size} are not served by backend='triton': heads of "
            f"{tiling.HEAD_SIZES} and blocks of {tiling.TRITON_BLOCK_SIZES}, or 'reference'"
        )
    if query.dtype not in DTYPES:
        raise ValueError(
            f"{query.dtype} is not served by backend='triton': float16, bfloat16 or float32, or 'reference'"
        )
    if not (query.is_cuda or knobs.runtime.interpret):
        raise ValueError(
            f"backend='triton' runs on a CUDA device, or 'reference' anywhere; got tensors on {query.device}"
        )


def _launch(query: Tensor, key: Tensor, value: Tensor, choice: KeyChoice, scale: float) -> Tensor:
    length, heads, size = query.shape
    tile = tiling_sparse.attention(choice.block_size, size, query.element_size())
    starts = choice.starts if choice.starts.stride(2) == 1 else choice.starts.contiguous()
    counts = choice.counts.contiguous()
    columns, column_counts = _columns_outside(choice, starts, counts)
    sink, window, dense_from = (min(number, length) for number in choice.band or (0, 0, 0))
    out = torch.empty_like(query)
    _attend[(heads * choice.blocks * (choice.block_size // tile.rows),)](
        rows_of(query, tile.rows), key, value, rows_of(key, tile.columns), rows_of(value, tile.columns), starts, counts,
        columns, column_counts, out, length, choice.blocks, columns.shape[2], *starts.stride()[:2], sink, window,
        dense_from, scale * LOG2E,
        HQ=heads, HK=key.shape[1], D=size, BLOCK=choice.block_size, ROWS=tile.rows, STEP=tile.columns,
        BAND=choice.band is not None, SINGLE=columns.shape[2] > 0, **tile.options,
    )  # fmt: skip
    return out


def _columns_outside(choice: KeyChoice, starts: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """The columns that each block of queries sees outside of its blocks, [Hq, nq, C], and how many, [Hq, nq, 2]."""
    most = 0 if choice.columns is None else choice.columns.shape[1]
    found = torch.empty(choice.heads, choice.blocks, most, dtype=torch.int32, device=starts.device)
    found_counts = torch.empty(choice.heads, choice.blocks, 2, dtype=torch.int32, device=starts.device)
    if choice.columns is None or most == 0:
        return found, found_counts
    tile = tiling_sparse.columns()
    _outside[(choice.heads * choice.blocks,)](
        starts, counts, choice.columns.contiguous(), found, found_counts, choice.length, choice.blocks, most,
        *starts.stride()[:2], starts.shape[2].bit_length(), BLOCK=choice.block_size, COLUMNS=tile.columns,
        **tile.options,
    )  # fmt: skip
    return found, found_counts
