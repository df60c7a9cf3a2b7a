"""Flash attention over strided keys: the one dense engine of all branches and of text (Triton).

Key j of a sequence stands at position (j + 1) * STRIDE - 1: STRIDE is 1 for tokens and the block size for compressed
blocks, which are seen from their last token on. A query at position p sees the keys at positions <= p; with
WINDOW > 0 (tokens only) also > p - WINDOW. One program handles a tile of queries of one head (forward, query gradient)
or a tile of keys of one key/value head (key gradient). Nothing is added atomically: results are deterministic.

Tensors: query, out [T, HQ, D]; key, value [K, HK, D]; lse [HQ, T], base 2; statistics [HQ, T, 4], see rowstats.py;
both [T, HQ] first with BY_QUERY. Of other slots than each head once (slots.py), out and lse have a row a slot.
Tables: see plan.py. Tiles of contiguous rows come in through tensor descriptors (`rows_of`), which Hopper's copy engine
fetches without the threads' help; a tile may run into the next sequence, whose rows every kernel masks.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from videonsa.kernels import tiling
from videonsa.kernels.rowstats import load_four
from videonsa.kernels.slots import Slots, plain
from videonsa.kernels.tiles import load_rows, load_tile, rows_of, store_rows

LOG2E = 1.4426950408889634
LARGE = 3.0  # of a row's largest score (base 2): beyond it, rounding the keys moves the lse by more than some 2^-12
WIDE = 6.0  # keys for each that weighs: the others' scores lie far below, so scores are large, if not the largest one
FEW = 32  # keys; the largest score of so few may be small by chance


@triton.jit
def _sees(position, index, STRIDE: tl.constexpr, WINDOW: tl.constexpr):
    """Whether a query at `position` sees key `index`; the arguments broadcast."""
    visible = (index + 1) * STRIDE - 1 <= position
    if WINDOW > 0:
        visible = visible & (index > position - WINDOW)
    return visible


@triton.jit
def _forward_step(query, key, value, first_key, head, scale, position, j, masked, top, total, sum_, D: tl.constexpr,
                  STRIDE: tl.constexpr, WINDOW: tl.constexpr, COLUMNS: tl.constexpr,
                  WITH_OUT: tl.constexpr):  # fmt: skip
    """Take keys j .. j + COLUMNS into the running maximum, denominator and weighted sum of the values.

    masked: whether some query of the tile does not see all of them.
    """
    score = tl.dot(query, tl.trans(load_tile(key, first_key + j, head, D)), input_precision="ieee")
    if masked:
        index = j + tl.arange(0, COLUMNS)
        score = tl.where(_sees(position[:, None], index[None, :], STRIDE, WINDOW), score, float("-inf"))
    new_top = tl.maximum(top, tl.max(score, 1) * scale)
    probability = tl.exp2(score * scale - new_top[:, None])
    shrink = tl.exp2(top - new_top)
    total = total * shrink + tl.sum(probability, 1)
    if WITH_OUT:
        value_tile = load_tile(value, first_key + j, head, D)
        sum_ = sum_ * shrink[:, None]
        sum_ = tl.dot(probability.to(value_tile.dtype), value_tile, sum_, input_precision="ieee")
    return new_top, total, sum_


@triton.jit
def _sharp_lse(query, key, key_low, first_key, head, scale, position, end, D: tl.constexpr, STRIDE: tl.constexpr,
               ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """The lse of the first `end` keys, each key + key_low; 0 for a row that sees none."""
    top = tl.full([ROWS], -1.0e30, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    for j in range(0, end, COLUMNS):
        score = tl.dot(query, tl.trans(load_tile(key_low, first_key + j, head, D)), input_precision="ieee")
        score = tl.dot(query, tl.trans(load_tile(key, first_key + j, head, D)), score, input_precision="ieee")
        index = j + tl.arange(0, COLUMNS)
        score = tl.where(_sees(position[:, None], index[None, :], STRIDE, 0), score, float("-inf"))
        new_top = tl.maximum(top, tl.max(score, 1) * scale)
        total = total * tl.exp2(top - new_top) + tl.sum(tl.exp2(score * scale - new_top[:, None]), 1)
        top = new_top
    return tl.where(total > 0, top + tl.log2(tl.where(total > 0, total, 1.0)), 0.0)


@triton.jit(do_not_specialize=["queries", "count"])
def _forward(query, key, value, out, lse, position, tiles, queries, scale, key_low, sharp_lse, count,
             HQ: tl.constexpr, SLOTS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, STRIDE: tl.constexpr,
             WINDOW: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WITH_OUT: tl.constexpr,
             BY_QUERY: tl.constexpr, SHARP: tl.constexpr, LARGE: tl.constexpr, WIDE: tl.constexpr,
             FEW: tl.constexpr):  # fmt: skip
    slot = tl.program_id(0)
    tile = tl.num_programs(1) - 1 - tl.program_id(1)  # later queries see more keys: longest first
    first = tl.load(tiles + tile * 3)
    rows = first + tl.arange(0, ROWS)
    live = rows < tl.load(tiles + tile * 3 + 1)
    first_key = tl.load(tiles + tile * 3 + 2)
    at = tl.load(position + rows, mask=live, other=-1)
    query_tile = load_tile(query, first, slot % HQ, D)
    kv_head = slot // GROUP

    top = tl.full([ROWS], -1.0e30, tl.float32)  # finite, so that a row which sees nothing yields 0 and no NaN
    total = tl.zeros([ROWS], tl.float32)
    sum_ = tl.zeros([ROWS, D], tl.float32)
    visible = (at + 1) // STRIDE
    end = tl.max(visible, 0)
    seen_by_all = tl.min(tl.where(live, visible, 2147483647), 0)
    if WINDOW > 0:
        for j in range(tl.maximum(seen_by_all - WINDOW, 0), end, COLUMNS):
            masked = (j + COLUMNS > seen_by_all) | (j < end - WINDOW)
            top, total, sum_ = _forward_step(query_tile, key, value, first_key, kv_head, scale, at, j, masked, top,
                                             total, sum_, D, STRIDE, WINDOW, COLUMNS, WITH_OUT)  # fmt: skip
    else:
        edge = seen_by_all // COLUMNS * COLUMNS
        for j in range(0, edge, COLUMNS):
            top, total, sum_ = _forward_step(query_tile, key, value, first_key, kv_head, scale, at, j, False, top,
                                             total, sum_, D, STRIDE, WINDOW, COLUMNS, WITH_OUT)  # fmt: skip
        for j in range(edge, end, COLUMNS):
            top, total, sum_ = _forward_step(query_tile, key, value, first_key, kv_head, scale, at, j, True, top,
                                             total, sum_, D, STRIDE, WINDOW, COLUMNS, WITH_OUT)  # fmt: skip
    sees_any = total > 0
    row_lse = tl.where(sees_any, top + tl.log2(tl.where(sees_any, total, 1.0)), 0.0)
    place = rows.to(tl.int64) * SLOTS + slot if BY_QUERY else slot.to(tl.int64) * queries + rows
    tl.store(lse + place, row_lse, mask=live)
    if WITH_OUT:
        sum_ = sum_ / tl.where(sees_any, total, 1.0)[:, None]
        store_rows(out, sum_, rows, live, slot, SLOTS, D)
    if SHARP:  # whether a row needs it hangs on nothing but what the row sees
        large = (tl.abs(top) > LARGE) | (total * WIDE < visible)
        coarse = (visible >= count) & (large | (visible < FEW))
        if tl.max(coarse.to(tl.int32), 0) > 0:
            sharp = _sharp_lse(query_tile, key, key_low, first_key, kv_head, scale, at, end, D, STRIDE, ROWS, COLUMNS)
            row_lse = tl.where(coarse, sharp, row_lse)
        tl.store(sharp_lse + place, row_lse, mask=live)


@triton.jit
def _head(slot, HQ: tl.constexpr, SLOTS: tl.constexpr):
    """The query head that a slot holds."""
    head = slot
    if SLOTS != HQ:
        head = slot % HQ
    return head


@triton.jit
def _statistics(statistics, rows, live, slot, queries, SLOTS: tl.constexpr, ROWS: tl.constexpr,
                BY_QUERY: tl.constexpr):  # fmt: skip
    """The four numbers of some rows of a slot."""
    if BY_QUERY:
        return load_four(statistics, rows.to(tl.int64) * SLOTS + slot, live, ROWS)
    return load_four(statistics + tl.cast(slot, tl.int64) * queries * 4, rows.to(tl.int64), live, ROWS)


@triton.jit
def query_gradient_step(query, grad, key, value, first_key, head, scale, position, lse, share, j, masked, sum_,
                         D: tl.constexpr, STRIDE: tl.constexpr, WINDOW: tl.constexpr,
                         COLUMNS: tl.constexpr):  # fmt: skip
    key_tile = load_tile(key, first_key + j, head, D)
    value_tile = load_tile(value, first_key + j, head, D)
    score = tl.dot(query, tl.trans(key_tile), input_precision="ieee") * scale
    if masked:
        index = j + tl.arange(0, COLUMNS)
        score = tl.where(_sees(position[:, None], index[None, :], STRIDE, WINDOW), score, float("-inf"))
    probability = tl.exp2(score - lse[:, None])
    grad_probability = tl.dot(grad, tl.trans(value_tile), input_precision="ieee")
    grad_score = (probability * (grad_probability - share[:, None])).to(key_tile.dtype)
    return tl.dot(grad_score, key_tile, sum_, input_precision="ieee")


@triton.jit(do_not_specialize=["queries"])
def _query_gradient(query, key, value, grad, statistics, grad_query, position, tiles, queries, scale, natural_scale,
                    HQ: tl.constexpr, SLOTS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, STRIDE: tl.constexpr,
                    WINDOW: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, ADD: tl.constexpr,
                    BY_QUERY: tl.constexpr):  # fmt: skip
    """grad_query (+)= gate * scale * (P * (grad V^T - share)) K."""
    slot = tl.program_id(0)
    tile = tl.num_programs(1) - 1 - tl.program_id(1)
    first = tl.load(tiles + tile * 3)
    rows = first + tl.arange(0, ROWS)
    live = rows < tl.load(tiles + tile * 3 + 1)
    first_key = tl.load(tiles + tile * 3 + 2)
    query_tile = load_tile(query, first, _head(slot, HQ, SLOTS), D)
    grad_tile = load_tile(grad, first, _head(slot, HQ, SLOTS), D)
    at = tl.load(position + rows, mask=live, other=-1)
    lse, gate, share, _ = _statistics(statistics, rows, live, slot, queries, SLOTS, ROWS, BY_QUERY)
    kv_head = slot // GROUP

    sum_ = tl.zeros([ROWS, D], tl.float32)
    visible = (at + 1) // STRIDE
    end = tl.max(visible, 0)
    seen_by_all = tl.min(tl.where(live, visible, 2147483647), 0)
    if WINDOW > 0:
        for j in range(tl.maximum(seen_by_all - WINDOW, 0), end, COLUMNS):
            masked = (j + COLUMNS > seen_by_all) | (j < end - WINDOW)
            sum_ = query_gradient_step(query_tile, grad_tile, key, value, first_key, kv_head, scale, at, lse, share, j,
                                        masked, sum_, D, STRIDE, WINDOW, COLUMNS)  # fmt: skip
    else:
        edge = seen_by_all // COLUMNS * COLUMNS
        for j in range(0, edge, COLUMNS):
            sum_ = query_gradient_step(query_tile, grad_tile, key, value, first_key, kv_head, scale, at, lse, share, j,
                                        False, sum_, D, STRIDE, WINDOW, COLUMNS)  # fmt: skip
        for j in range(edge, end, COLUMNS):
            sum_ = query_gradient_step(query_tile, grad_tile, key, value, first_key, kv_head, scale, at, lse, share, j,
                                        True, sum_, D, STRIDE, WINDOW, COLUMNS)  # fmt: skip
    sum_ = sum_ * (gate * natural_scale)[:, None]
    if ADD:
        sum_ += load_rows(grad_query, rows, live, slot, SLOTS, D).to(tl.float32)
    store_rows(grad_query, sum_, rows, live, slot, SLOTS, D)


@triton.jit(do_not_specialize=["queries", "result_rows", "split_rows", "reach"])
def _key_gradient(query, key, value, grad, statistics, grad_key, grad_value, tiles, queries, scale, natural_scale,
                  result_rows, split_rows, reach, HQ: tl.constexpr, HK: tl.constexpr, SLOTS: tl.constexpr,
                  GROUP: tl.constexpr, D: tl.constexpr, STRIDE: tl.constexpr, WINDOW: tl.constexpr, ROWS: tl.constexpr,
                  COLUMNS: tl.constexpr, ORDERED: tl.constexpr, REACH: tl.constexpr,
                  BY_QUERY: tl.constexpr):  # fmt: skip
    """Sums for a tile of keys over the queries of one split; grad_key, grad_value [splits, rows, HK, D] float32.

    Everything is transposed (keys x queries), so that probabilities feed the next product from registers.
    ORDERED: queries stand in the order of the tokens, so those that see the tile are a range. REACH: no query
    from (reach - j) * STRIDE on sees key j.
    """
    tile = tl.program_id(0)
    split = tl.program_id(1)
    kv_head = tl.program_id(2)
    first_key = tl.load(tiles + tile * 6)
    keys = first_key + tl.arange(0, COLUMNS)
    live_key = keys < tl.load(tiles + tile * 6 + 1)
    index = keys - tl.load(tiles + tile * 6 + 2)
    first_query = tl.load(tiles + tile * 6 + 3)
    end_query = tl.load(tiles + tile * 6 + 4)
    start = first_query + split * split_rows
    end = tl.minimum(end_query, start + split_rows)
    if ORDERED:
        sees_first = first_query + (tl.min(index, 0) + 1) * STRIDE - 1
        start = tl.maximum(tl.maximum(start, sees_first // ROWS * ROWS), 0)  # tokens below 0 have no query (plan.py)
        if WINDOW > 0:
            end = tl.minimum(end, first_query + tl.max(index, 0) + WINDOW)
    elif REACH:
        end = tl.minimum(end, first_query + (reach - tl.min(index, 0)) * STRIDE)
    key_tile = load_tile(key, first_key, kv_head, D)
    value_tile = load_tile(value, first_key, kv_head, D)
    key_sum = tl.zeros([COLUMNS, D], tl.float32)
    value_sum = tl.zeros([COLUMNS, D], tl.float32)
    end_slot = (kv_head + 1) * GROUP
    if SLOTS % GROUP != 0:
        end_slot = tl.minimum(end_slot, SLOTS)
    for slot in range(kv_head * GROUP, end_slot):
        for i in range(start, end, ROWS):
            rows = i + tl.arange(0, ROWS)
            live = rows < end
            query_tile = load_tile(query, i, _head(slot, HQ, SLOTS), D)
            grad_tile = load_tile(grad, i, _head(slot, HQ, SLOTS), D)
            lse, gate, share, at = _statistics(statistics, rows, live, slot, queries, SLOTS, ROWS, BY_QUERY)
            if ORDERED:
                at = rows - first_query
            score = tl.dot(key_tile, tl.trans(query_tile), input_precision="ieee") * scale
            visible = _sees(at[None, :], index[:, None], STRIDE, WINDOW)
            probability = tl.where(visible, tl.exp2(score - lse[None, :]) * gate[None, :], 0.0)
            value_sum = tl.dot(probability.to(grad_tile.dtype), grad_tile, value_sum, input_precision="ieee")
            grad_probability = tl.dot(value_tile, tl.trans(grad_tile), input_precision="ieee")
            grad_score = (probability * (grad_probability - share[None, :])).to(query_tile.dtype)
            key_sum = tl.dot(grad_score, query_tile, key_sum, input_precision="ieee")
    row = split * result_rows + tl.load(tiles + tile * 6 + 5) + tl.arange(0, COLUMNS)
    store_rows(grad_key, key_sum * natural_scale, row, live_key, kv_head, HK, D)
    store_rows(grad_value, value_sum, row, live_key, kv_head, HK, D)


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    position: Tensor,
    tiles: Tensor,
    scale: float,
    *,
    stride: int = 1,
    window: int = 0,
    with_out: bool = True,
    into: tuple[Tensor, Tensor] | None = None,
    sharp: tuple[Tensor, Tensor, int] | None = None,
    slots: Slots | None = None,
) -> tuple[Tensor | None, Tensor]:
    """Returns out [T, HQ, D] (None without with_out) and lse [HQ, T] float32, base 2; a row that sees no key gets 0.

    into: an out, and an lse [T, HQ], to write the rows of `tiles` into.
    sharp: (low, lse, count): the keys' low part, and an lse [HQ, T] to write, that of key + low where a row sees at
        least `count` keys and rounding the keys would move it.
    slots: other than each head once; out and lse then have the used slots where HQ stands.
    """
    queries, heads, size = query.shape
    slots = slots or plain(heads, key.shape[1])
    out = None
    if with_out and into is None:
        out = torch.empty(queries, slots.used, size, dtype=query.dtype, device=query.device)
    lse = torch.empty(slots.used, queries, dtype=torch.float32, device=query.device) if into is None else into[1]
    if into is not None:
        out = into[0]
    tile = tiling.flash_forward(size, window)
    keys = rows_of(key, tile.columns)
    low, sharp_lse, count = (keys, lse, 0) if sharp is None else (rows_of(sharp[0], tile.columns), *sharp[1:])
    _forward[(slots.used, len(tiles))](
        rows_of(query, tile.rows), keys, rows_of(value, tile.columns), out, lse, position, tiles, queries,
        scale * LOG2E, low, sharp_lse, count,
        HQ=heads, SLOTS=slots.used, GROUP=slots.group, D=size, STRIDE=stride, WINDOW=window, ROWS=tile.rows,
        COLUMNS=tile.columns, WITH_OUT=with_out, BY_QUERY=into is not None, SHARP=sharp is not None, LARGE=LARGE,
        WIDE=WIDE, FEW=FEW, **tile.options,
    )  # fmt: skip
    return out, lse


def query_gradient(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    grad: Tensor,
    statistics: Tensor,
    position: Tensor,
    tiles: Tensor,
    scale: float,
    *,
    grad_query: Tensor,
    add: bool,
    stride: int = 1,
    window: int = 0,
    by_query: bool = False,
    slots: Slots | None = None,
) -> None:
    """Write (add: add) the gradient of the query into grad_query [T, HQ, D]; statistics of rowstats.pack.

    slots: as in `forward`; grad_query and statistics then have the used slots where HQ stands.
    """
    queries, heads, size = query.shape
    slots = slots or plain(heads, key.shape[1])
    tile = tiling.flash_query_gradient()
    _query_gradient[(slots.used, len(tiles))](
        rows_of(query, tile.rows), rows_of(key, tile.columns), rows_of(value, tile.columns), rows_of(grad, tile.rows),
        statistics, grad_query, position, tiles, queries, scale * LOG2E, scale,
        HQ=heads, SLOTS=slots.used, GROUP=slots.group, D=size, STRIDE=stride, WINDOW=window, ROWS=tile.rows,
        COLUMNS=tile.columns, ADD=add, BY_QUERY=by_query, **tile.options,
    )  # fmt: skip


def key_gradient(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    grad: Tensor,
    statistics: Tensor,
    tiles: Tensor,
    scale: float,
    *,
    splits: int,
    split_rows: int,
    ordered: bool = True,
    stride: int = 1,
    window: int = 0,
    by_query: bool = False,
    rows: int | None = None,
    slots: Slots | None = None,
    reach: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradients of key and value, [splits, K, HK, D] float32: sums over the queries of each split, to be added up.

    Rows of keys that are in no tile stay unwritten. splits * split_rows covers the longest sequence's queries.
    rows: of the result, where `tiles` is of some keys only; K if None.
    slots: as in `forward`; statistics then have the used slots where HQ stands.
    reach: with ordered=False, key j is seen by no query from (reach - j) * stride of its sequence on; no limit if None.
    """
    queries, heads, size = query.shape
    slots = slots or plain(heads, key.shape[1])
    tile = tiling.flash_key_gradient()
    rows = key.shape[0] if rows is None else rows
    grad_key = torch.empty(splits, rows, *key.shape[1:], dtype=torch.float32, device=key.device)
    grad_value = torch.empty_like(grad_key)
    if len(tiles):  # compressed keys: none before the first complete block
        _key_gradient[(len(tiles), splits, key.shape[1])](
            rows_of(query, tile.rows), rows_of(key, tile.columns), rows_of(value, tile.columns),
            rows_of(grad, tile.rows), statistics, grad_key, grad_value, tiles, queries, scale * LOG2E, scale,
            rows, split_rows, reach or 0,
            HQ=heads, HK=key.shape[1], SLOTS=slots.used, GROUP=slots.group, D=size, STRIDE=stride, WINDOW=window,
            ROWS=tile.rows, COLUMNS=tile.columns, ORDERED=ordered, REACH=reach is not None, BY_QUERY=by_query,
            **tile.options,
        )  # fmt: skip
    return grad_key, grad_value
