"""Selection branch: attention to the chosen blocks, block by block (Triton).

A query-by-query kernel would fetch b * s keys and values for a tile of only G rows, and is bound by the L2 cache. Here
one program takes one block and gathers the queries that chose it (inverse.py): its keys and values are read once for
many queries. Each pair of a query and a chosen block yields, for each head, a normalised partial output and its lse,
which lie at the pair's place among the lists and are merged afterwards; the backward pass writes partial query
gradients in the same way and sums key and value gradients where they belong. Queries go in chunks, so that the partial
results stay within a fixed workspace. The order of all sums is fixed: deterministic.

A tile's rows are (pair, head): the heads of a group follow one another, so tiles are full but for a list's last one,
and partial results are written as one contiguous piece.

Queries that see no more than COUNT blocks choose all of them; prefix.py attends for those.

Shapes: query [T, HQ, D]; key, value [T, HK, D]; index [T, HK, COUNT]; partial [pairs, GROUP, D]. GROUP = HQ / HK.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from videonsa.kernels import tiling
from videonsa.kernels.flash import LOG2E
from videonsa.kernels.inverse import entries_of, invert, pair_position
from videonsa.kernels.plan import Chunk, Plan
from videonsa.kernels.rowstats import load_four
from videonsa.kernels.slots import Slots, plain
from videonsa.kernels.tiles import load_rows, load_tile, rows_of, store_rows
from videonsa.limits import next_power_of_two


@triton.jit
def _gather(base, rows, D: tl.constexpr):
    """Tile [rows, D] of a chunk's [queries * HQ, D], so small that 32 bits address it; no mask, as any row may be
    read."""
    return tl.load(base + (rows * D)[:, None] + tl.arange(0, D)[None, :])


@triton.jit
def _filled(kv_head, GROUP: tl.constexpr, SLOTS: tl.constexpr):
    """Slots of a key/value head that hold a query head."""
    filled = GROUP
    if SLOTS % GROUP != 0:
        filled = tl.maximum(tl.minimum(SLOTS - kv_head * GROUP, GROUP), 0)
    return filled


@triton.jit
def _tile_rows(step, queries, pair, kv_head, filled, HQ: tl.constexpr, GROUP: tl.constexpr, SLOTS: tl.constexpr,
               ROWS: tl.constexpr):  # fmt: skip
    """Rows (pair, slot) of an item's tile: their number among the item's, their row in [queries * HQ, D], their place
    among the item's partial results, and their row in the slots' [queries * SLOTS]."""
    row = step * ROWS + tl.arange(0, ROWS)
    entry = row // filled
    query = tl.load(queries + pair + entry)
    place = row
    if SLOTS % GROUP != 0:
        place = entry * GROUP + row - entry * filled
    slot = kv_head * GROUP + row - entry * filled
    head = slot
    if SLOTS != HQ:
        head = slot % HQ
    return row, query * HQ + head, place, query * SLOTS + slot


@triton.jit(do_not_specialize=["chunk_start", "chunk_token", "first_block", "blocks"])
def _partial_forward(query, key, value, queries, first, count, items, first_item, block_range, partial, partial_lse,
                     chunk_start, chunk_token, first_block, blocks, scale, HQ: tl.constexpr, D: tl.constexpr,
                     BLOCK: tl.constexpr, GROUP: tl.constexpr, SLOTS: tl.constexpr, ROWS: tl.constexpr,
                     LIMIT: tl.constexpr):  # fmt: skip
    """One program takes one item of the lists (inverse.py). The chunk's first query is that of token chunk_token."""
    slot = tl.load(items + tl.program_id(0))
    if slot >= 0:
        begin, pair, many = entries_of(tl.program_id(0), slot, first, count, first_item, LIMIT)
        kv_head = slot // blocks
        block = first_block + slot % blocks
        first_token = tl.load(block_range + block * 2)
        token = first_token + tl.arange(0, BLOCK)
        own = tl.minimum(tl.load(block_range + block * 2 + 1) - chunk_token, BLOCK) - begin
        query += tl.cast(chunk_start, tl.int64) * HQ * D
        partial += pair.to(tl.int64) * GROUP * D
        partial_lse += pair.to(tl.int64) * GROUP
        key_tile = tl.trans(load_tile(key, first_token, kv_head, D))
        value_tile = load_tile(value, first_token, kv_head, D)
        size = tl.arange(0, D)
        filled = _filled(kv_head, GROUP, SLOTS)
        for step in range(0, tl.cdiv(many * filled, ROWS)):
            row, source, place, _ = _tile_rows(step, queries, pair, kv_head, filled, HQ, GROUP, SLOTS, ROWS)
            query_tile = _gather(query, source, D)
            score = tl.dot(query_tile, key_tile, input_precision="ieee")
            if step * ROWS < own * filled:  # only the block's own tokens, first in its list, may not see all of it
                score = tl.where(token[None, :] <= (chunk_token + source // HQ)[:, None], score, float("-inf"))
            top = tl.max(score, 1) * scale  # finite: a query sees at least the block's first token
            probability = tl.exp2(score * scale - top[:, None])
            total = tl.sum(probability, 1)
            out = tl.dot(probability.to(value_tile.dtype), value_tile, input_precision="ieee")
            out = (out * (1 / total)[:, None]).to(partial.dtype.element_ty)
            live = row < many * filled
            tl.store(partial + place[:, None] * D + size[None, :], out, mask=live[:, None])
            tl.store(partial_lse + place, top + tl.log2(total), mask=live)


@triton.jit
def _pairs_of(index, bits, before, token, row, head, first_block, blocks, words, HK: tl.constexpr, COUNT: tl.constexpr,
              COUNT_2: tl.constexpr):  # fmt: skip
    """Places of a query's COUNT pairs among the lists, and which of the COUNT_2 there are."""
    rank = tl.arange(0, COUNT_2)
    block = tl.load(index + (token * HK + head) * COUNT + rank, mask=rank < COUNT, other=-1)
    live = block >= 0
    return pair_position(bits, before, head * blocks + block - first_block, row, words, live).to(tl.int64), live


@triton.jit(do_not_specialize=["chunk_start", "first_block", "blocks", "words"])
def _merge_forward(partial, partial_lse, index, bits, before, out, lse, position, chunk_start, first_block, blocks,
                   words, HK: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr,
                   SLOTS: tl.constexpr, COUNT: tl.constexpr, COUNT_2: tl.constexpr, LEAST: tl.constexpr):  # fmt: skip
    """out = sum over a query's pairs of exp2(lse_pair - lse) * partial_pair, for the slots of one key/value head."""
    row = tl.program_id(0)
    kv_head = tl.program_id(1)
    token = (chunk_start + row).to(tl.int64)
    if tl.load(position + token) // BLOCK >= LEAST:  # else it is in no list
        pair, live = _pairs_of(index, bits, before, token, row, kv_head, first_block, blocks, words, HK, COUNT, COUNT_2)
        size = tl.arange(0, D)
        for slot in range(0, _filled(kv_head, GROUP, SLOTS)):
            place = pair * GROUP + slot
            pair_lse = tl.load(partial_lse + place, mask=live, other=float("-inf"))
            top = tl.max(pair_lse, 0)
            total = top + tl.log2(tl.sum(tl.exp2(pair_lse - top), 0))
            tile = tl.load(partial + place[:, None] * D + size[None, :], mask=live[:, None], other=0.0)
            merged = tl.sum(tile.to(tl.float32) * tl.exp2(pair_lse - total)[:, None], 0)
            to = token * SLOTS + kv_head * GROUP + slot
            tl.store(lse + to, total)
            tl.store(out + to * D + size, merged.to(out.dtype.element_ty))


@triton.jit(do_not_specialize=["chunk_start", "chunk_token", "first_block", "blocks"])
def _partial_backward(query, key, value, grad, statistics, queries, first, count, items, first_item, block_range,
                      partial, grad_key, grad_value, extra_key, extra_value, chunk_start, chunk_token, first_block,
                      blocks, scale, natural_scale, HQ: tl.constexpr, HK: tl.constexpr, D: tl.constexpr,
                      BLOCK: tl.constexpr, GROUP: tl.constexpr, SLOTS: tl.constexpr, ROWS: tl.constexpr,
                      LIMIT: tl.constexpr):  # fmt: skip
    """partial[pair, head] = the block's part of the query gradient. Key and value gradients: the first item of a slot
    adds its own to grad_key, grad_value [T, HK, D]; another writes to extra_key, extra_value [extra * BLOCK, D].

    Transposed (keys x queries), so that probabilities feed the next product from registers.
    """
    item = tl.program_id(0)
    slot = tl.load(items + item)
    if slot >= 0:
        begin, pair, many = entries_of(item, slot, first, count, first_item, LIMIT)
        kv_head = slot // blocks
        block = first_block + slot % blocks
        inside = tl.arange(0, BLOCK)
        first_token = tl.load(block_range + block * 2)
        token = first_token + inside
        end = tl.load(block_range + block * 2 + 1)
        live_key = token < end
        own = tl.minimum(end - chunk_token, BLOCK) - begin
        query += tl.cast(chunk_start, tl.int64) * HQ * D
        grad += tl.cast(chunk_start, tl.int64) * HQ * D
        statistics += tl.cast(chunk_start, tl.int64) * SLOTS * 4
        partial += pair.to(tl.int64) * GROUP * D
        key_tile = load_tile(key, first_token, kv_head, D)
        value_tile = load_tile(value, first_token, kv_head, D)
        key_sum = tl.zeros([BLOCK, D], tl.float32)
        value_sum = tl.zeros([BLOCK, D], tl.float32)
        size = tl.arange(0, D)
        filled = _filled(kv_head, GROUP, SLOTS)
        for step in range(0, tl.cdiv(many * filled, ROWS)):
            row, source, place, slot_row = _tile_rows(step, queries, pair, kv_head, filled, HQ, GROUP, SLOTS, ROWS)
            live = row < many * filled
            query_tile = _gather(query, source, D)
            grad_tile = _gather(grad, source, D)
            lse, gate, share, at = load_four(statistics, slot_row, live, ROWS)
            score = tl.dot(key_tile, tl.trans(query_tile), input_precision="ieee") * scale
            probability = tl.exp2(score - lse[None, :]) * gate[None, :]
            if step * ROWS < own * filled:
                probability = tl.where(token[:, None] <= at[None, :], probability, 0.0)
            value_sum = tl.dot(probability.to(grad_tile.dtype), grad_tile, value_sum, input_precision="ieee")
            grad_probability = tl.dot(value_tile, tl.trans(grad_tile), input_precision="ieee")
            grad_score = (probability * (grad_probability - share[None, :])).to(query_tile.dtype)
            key_sum = tl.dot(grad_score, query_tile, key_sum, input_precision="ieee")
            out = tl.trans(tl.dot(tl.trans(key_tile), grad_score, input_precision="ieee"))
            place = place[:, None] * D + size[None, :]
            tl.store(partial + place, out.to(partial.dtype.element_ty), mask=live[:, None])
        key_sum = key_sum * natural_scale
        if begin == 0:
            key_sum += load_rows(grad_key, token, live_key, kv_head, HK, D)
            value_sum += load_rows(grad_value, token, live_key, kv_head, HK, D)
            store_rows(grad_key, key_sum, token, live_key, kv_head, HK, D)
            store_rows(grad_value, value_sum, token, live_key, kv_head, HK, D)
        else:
            place = (item - slot - 1) * BLOCK + inside  # each slot up to this one has one first item
            store_rows(extra_key, key_sum, place, live_key, 0, 1, D)
            store_rows(extra_value, value_sum, place, live_key, 0, 1, D)


@triton.jit(do_not_specialize=["first_block", "blocks"])
def _add_extra(extra_key, extra_value, count, first_item, block_range, grad_key, grad_value, first_block, blocks,
               HK: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, LIMIT: tl.constexpr):  # fmt: skip
    """Add what the further items of a slot have summed to its key and value gradients."""
    slot = tl.program_id(0)
    extra = tl.cdiv(tl.load(count + slot), LIMIT) - 1
    if extra > 0:
        kv_head = slot // blocks
        block = first_block + slot % blocks
        inside = tl.arange(0, BLOCK)
        token = tl.load(block_range + block * 2) + inside
        live = token < tl.load(block_range + block * 2 + 1)
        key_sum = load_rows(grad_key, token, live, kv_head, HK, D)
        value_sum = load_rows(grad_value, token, live, kv_head, HK, D)
        for i in range(0, extra):
            place = (tl.load(first_item + slot) - slot + i) * BLOCK + inside  # as numbered by _partial_backward
            key_sum += load_rows(extra_key, place, live, 0, 1, D)
            value_sum += load_rows(extra_value, place, live, 0, 1, D)
        store_rows(grad_key, key_sum, token, live, kv_head, HK, D)
        store_rows(grad_value, value_sum, token, live, kv_head, HK, D)


@triton.jit(do_not_specialize=["chunk_start", "first_block", "blocks", "words"])
def _merge_backward(partial, index, bits, before, grad_query, position, chunk_start, first_block, blocks, words, scale,
                    HK: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr, SLOTS: tl.constexpr,
                    COUNT: tl.constexpr, COUNT_2: tl.constexpr, LEAST: tl.constexpr, ADD: tl.constexpr):  # fmt: skip
    """grad_query (+)= scale * sum of the partial gradients of a query's pairs, for the slots of one key/value head."""
    row = tl.program_id(0)
    kv_head = tl.program_id(1)
    token = (chunk_start + row).to(tl.int64)
    if tl.load(position + token) // BLOCK >= LEAST:
        pair, live = _pairs_of(index, bits, before, token, row, kv_head, first_block, blocks, words, HK, COUNT, COUNT_2)
        size = tl.arange(0, D)
        for slot in range(0, _filled(kv_head, GROUP, SLOTS)):
            place = (pair * GROUP + slot)[:, None] * D + size[None, :]
            merged = scale * tl.sum(tl.load(partial + place, mask=live[:, None], other=0.0).to(tl.float32), 0)
            to = grad_query + (token * SLOTS + kv_head * GROUP + slot) * D + size
            if ADD:
                merged += tl.load(to).to(tl.float32)
            tl.store(to, merged.to(grad_query.dtype.element_ty))


def _sizes(query: Tensor, key: Tensor, plan: Plan) -> dict[str, int]:
    heads, size = query.shape[1:]
    return {"HQ": heads, "HK": key.shape[1], "D": size, "BLOCK": plan.block_size}


def _merge_sizes(query: Tensor, index: Tensor, plan: Plan) -> dict[str, int]:
    size = query.shape[2]
    kv_heads, count = index.shape[1:]
    count_2 = next_power_of_two(count)
    return {"HK": kv_heads, "D": size, "BLOCK": plan.block_size, "COUNT": count, "COUNT_2": count_2,
            "num_warps": tiling.merge_warps(count_2 * size)}  # fmt: skip


def forward_chunk(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    index: Tensor,
    plan: Plan,
    chunk: Chunk,
    scale: float,
    *,
    out: Tensor,
    lse: Tensor,
    slots: Slots | None = None,
    least: int | None = None,
) -> None:
    """Write the chunk's rows of out [T, HQ, D] and lse [T, HQ] (base 2), or of the used slots in place of HQ.

    least: the first block of a sequence whose queries are in the lists; block_count when None.
    """
    rows, blocks = chunk.end - chunk.start, chunk.last_block - chunk.first_block
    heads, size = query.shape[1:]
    kv_heads = index.shape[1]
    slots = slots or plain(heads, kv_heads)
    least = index.shape[2] if least is None else least
    tile = tiling.selection_forward()
    lists = invert(index, plan, chunk, tiling.LIST_RUN, least)
    partial = torch.empty(len(lists.queries), slots.group, size, dtype=query.dtype, device=query.device)
    partial_lse = torch.empty(partial.shape[:2], dtype=torch.float32, device=query.device)
    _partial_forward[(len(lists.items),)](
        query, rows_of(key, plan.block_size), rows_of(value, plan.block_size), lists.queries, lists.first, lists.count,
        lists.items, lists.first_item, plan.block_range(), partial, partial_lse, chunk.start, chunk.token,
        chunk.first_block, blocks, scale * LOG2E,
        HQ=heads, D=size, BLOCK=plan.block_size, GROUP=slots.group, SLOTS=slots.used, ROWS=tile.rows,
        LIMIT=lists.limit, **tile.options,
    )  # fmt: skip
    _merge_forward[(rows, kv_heads)](
        partial, partial_lse, index, lists.bits, lists.before, out, lse, plan.position(), chunk.start,
        chunk.first_block, blocks, lists.words, GROUP=slots.group, SLOTS=slots.used, LEAST=least,
        **_merge_sizes(query, index, plan),
    )  # fmt: skip


def backward_chunk(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    grad: Tensor,
    statistics: Tensor,
    index: Tensor,
    plan: Plan,
    chunk: Chunk,
    scale: float,
    *,
    grad_query: Tensor,
    grad_key: Tensor,
    grad_value: Tensor,
    add: bool,
    slots: Slots | None = None,
    least: int | None = None,
) -> None:
    """Write (add: add to) the chunk's rows of grad_query, and add to grad_key, grad_value [T, HK, D] float32.

    statistics [T, HQ, 4], of rowstats.pack by query with positions on the packed token axis. slots, least: as in
    `forward_chunk`; statistics and grad_query then have the used slots where HQ stands.
    """
    blocks = chunk.last_block - chunk.first_block
    heads, size = query.shape[1:]
    kv_heads = key.shape[1]
    slots = slots or plain(heads, kv_heads)
    least = index.shape[2] if least is None else least
    tile = tiling.selection_gradient(plan.block_size)
    lists = invert(index, plan, chunk, tiling.LIST_RUN, least)
    partial = torch.empty(len(lists.queries), slots.group, size, dtype=query.dtype, device=query.device)
    extra_key = torch.empty(lists.extra * plan.block_size, size, dtype=torch.float32, device=key.device)
    extra_value = torch.empty_like(extra_key)
    sizes = _sizes(query, key, plan) | {"LIMIT": lists.limit}
    _partial_backward[(len(lists.items),)](
        query, rows_of(key, plan.block_size), rows_of(value, plan.block_size), grad, statistics, lists.queries,
        lists.first, lists.count, lists.items, lists.first_item, plan.block_range(), partial, grad_key, grad_value,
        extra_key, extra_value, chunk.start, chunk.token, chunk.first_block, blocks, scale * LOG2E, scale,
        GROUP=slots.group, SLOTS=slots.used, **sizes, ROWS=tile.rows,
        **tile.options,
    )  # fmt: skip
    sizes.pop("HQ")
    _add_extra[(len(lists.count),)](
        extra_key, extra_value, lists.count, lists.first_item, plan.block_range(), grad_key, grad_value,
        chunk.first_block, blocks, **sizes,
    )  # fmt: skip
    _merge_backward[(chunk.end - chunk.start, kv_heads)](
        partial, index, lists.bits, lists.before, grad_query, plan.position(), chunk.start, chunk.first_block, blocks,
        lists.words, scale, GROUP=slots.group, SLOTS=slots.used, LEAST=least, ADD=add,
        **_merge_sizes(query, index, plan),
    )  # fmt: skip
