"""Selection branch: attention to the chosen blocks, block by block (Triton).

A query-by-query kernel would fetch b * s keys and values for a tile of only G rows, and is bound by the L2 cache. Here
one program takes one block and gathers the queries that chose it (inverse.py): its keys and values are read once for
many queries. Each pair of a query and a chosen block yields, for each head, a normalised partial output and its lse,
which lie at the pair's place among the lists and are merged afterwards; the backward pass writes partial query
gradients in the same way and sums key and value gradients where they belong. Queries go in chunks, so that the partial
results stay within a fixed workspace. The order of all sums is fixed: deterministic.

Shapes: query [T, HQ, D]; key, value [T, HK, D]; index [T, HK, COUNT]; partial [pairs, GROUP, D]. GROUP = HQ / HK.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from videonsa.kernels import tiling
from videonsa.kernels.flash import LOG2E, _load_rows, _store_rows
from videonsa.kernels.inverse import invert, pair_position
from videonsa.kernels.plan import Chunk, Plan
from videonsa.kernels.rowstats import load_four


@triton.jit
def _gather(base, rows, head, HEADS: tl.constexpr, D: tl.constexpr):
    """Tile [rows, D] of a chunk [*, HEADS, D], so small that 32 bits address it; no mask, as any row may be read."""
    offset = (rows * HEADS + head) * D
    return tl.load(base + offset[:, None] + tl.arange(0, D)[None, :])


@triton.jit(do_not_specialize=["chunk_start", "first_block", "blocks"])
def _partial_forward(query, key, value, queries, first, count, block_range, partial, partial_lse, chunk_start,
                     first_block, blocks, scale, HQ: tl.constexpr, HK: tl.constexpr, D: tl.constexpr,
                     BLOCK_2: tl.constexpr, ROWS: tl.constexpr, SPLITS: tl.constexpr):  # fmt: skip
    """The splits of a block take its tiles of queries in turn; one loop runs over tiles and heads, so that Triton
    prefetches the next gather across both."""
    GROUP: tl.constexpr = HQ // HK
    kv_head = tl.program_id(2)
    slot = kv_head * blocks + tl.program_id(0)
    block = first_block + tl.program_id(0)
    many = tl.load(count + slot)
    tiles = tl.cdiv(many, ROWS) - tl.program_id(1)
    if tiles > 0:
        pair = tl.load(first + slot)
        token = tl.load(block_range + block * 2) + tl.arange(0, BLOCK_2)
        end = tl.load(block_range + block * 2 + 1)
        own = tl.minimum(end - chunk_start, BLOCK_2)
        query += tl.cast(chunk_start, tl.int64) * HQ * D
        partial += pair.to(tl.int64) * GROUP * D
        partial_lse += pair.to(tl.int64) * GROUP
        key_tile = tl.trans(_load_rows(key, token, token < end, kv_head, HK, D))
        value_tile = _load_rows(value, token, token < end, kv_head, HK, D)
        size = tl.arange(0, D)
        for step in range(0, tl.cdiv(tiles, SPLITS) * GROUP):
            first_entry = (tl.program_id(1) + step // GROUP * SPLITS) * ROWS
            entry = first_entry + tl.arange(0, ROWS)
            live = entry < many
            row = tl.load(queries + pair + entry)
            query_tile = _gather(query, row, kv_head * GROUP + step % GROUP, HQ, D)
            score = tl.dot(query_tile, key_tile, input_precision="ieee")
            if first_entry < own:  # only the block's own tokens, first in its list, may not see all of it
                score = tl.where(token[None, :] <= chunk_start + row[:, None], score, float("-inf"))
            top = tl.max(score, 1) * scale  # finite: a query sees at least the block's first token
            probability = tl.exp2(score * scale - top[:, None])
            total = tl.sum(probability, 1)
            out = tl.dot(probability.to(value_tile.dtype), value_tile, input_precision="ieee")
            out = out * (1 / total)[:, None]
            place = entry * GROUP + step % GROUP
            out = out.to(partial.dtype.element_ty)
            tl.store(partial + place[:, None] * D + size[None, :], out, mask=live[:, None])
            tl.store(partial_lse + place, top + tl.log2(total), mask=live)


@triton.jit
def _pairs_of(index, bits, before, position, token, row, head, first_block, blocks, words, HK: tl.constexpr,
              BLOCK: tl.constexpr, COUNT: tl.constexpr, COUNT_2: tl.constexpr):  # fmt: skip
    """Places of a query's pairs among the lists, and which of the COUNT_2 there are."""
    rank = tl.arange(0, COUNT_2)
    live = rank < tl.minimum(tl.load(position + token) // BLOCK + 1, COUNT)
    block = tl.load(index + (token * HK + head) * COUNT + rank, mask=live, other=0)
    return pair_position(bits, before, head * blocks + block - first_block, row, words, live).to(tl.int64), live


@triton.jit(do_not_specialize=["chunk_start", "first_block", "blocks", "words"])
def _merge_forward(partial, partial_lse, index, bits, before, out, lse, position, chunk_start, first_block, blocks,
                   words, HQ: tl.constexpr, HK: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
                   COUNT: tl.constexpr, COUNT_2: tl.constexpr):  # fmt: skip
    """out = sum over a query's pairs of exp2(lse_pair - lse) * partial_pair, for the heads of one key/value head."""
    GROUP: tl.constexpr = HQ // HK
    row = tl.program_id(0)
    kv_head = tl.program_id(1)
    token = (chunk_start + row).to(tl.int64)
    pair, live = _pairs_of(index, bits, before, position, token, row, kv_head, first_block, blocks, words, HK, BLOCK,
                           COUNT, COUNT_2)  # fmt: skip
    size = tl.arange(0, D)
    for head in range(0, GROUP):
        place = pair * GROUP + head
        pair_lse = tl.load(partial_lse + place, mask=live, other=float("-inf"))
        top = tl.max(pair_lse, 0)
        total = top + tl.log2(tl.sum(tl.exp2(pair_lse - top), 0))
        tile = tl.load(partial + place[:, None] * D + size[None, :], mask=live[:, None], other=0.0)
        merged = tl.sum(tile.to(tl.float32) * tl.exp2(pair_lse - total)[:, None], 0)
        to = token * HQ + kv_head * GROUP + head
        tl.store(lse + to, total)
        tl.store(out + to * D + size, merged.to(out.dtype.element_ty))


@triton.jit(do_not_specialize=["chunk_start", "first_block", "blocks"])
def _partial_backward(query, key, value, grad, statistics, queries, first, count, block_range, partial, grad_key,
                      grad_value, chunk_start, first_block, blocks, scale, natural_scale, HQ: tl.constexpr,
                      HK: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, BLOCK_2: tl.constexpr,
                      ROWS: tl.constexpr, SPLITS: tl.constexpr):  # fmt: skip
    """partial[pair, head] = the block's part of the query gradient; key and value gradients are added (one split) to
    grad_key, grad_value [T, HK, D] or (more) written to their split's [blocks * BLOCK, HK, D], to be added later.

    Transposed (keys x queries), so that probabilities feed the next product from registers.
    """
    GROUP: tl.constexpr = HQ // HK
    kv_head = tl.program_id(2)
    slot = kv_head * blocks + tl.program_id(0)
    block = first_block + tl.program_id(0)
    many = tl.load(count + slot)
    tiles = tl.cdiv(many, ROWS) - tl.program_id(1)
    if tiles > 0:
        pair = tl.load(first + slot)
        inside = tl.arange(0, BLOCK_2)
        token = tl.load(block_range + block * 2) + inside
        end = tl.load(block_range + block * 2 + 1)
        live_key = token < end
        own = tl.minimum(end - chunk_start, BLOCK_2)
        query += tl.cast(chunk_start, tl.int64) * HQ * D
        grad += tl.cast(chunk_start, tl.int64) * HQ * D
        statistics += tl.cast(chunk_start, tl.int64) * HQ * 4
        partial += pair.to(tl.int64) * GROUP * D
        key_tile = _load_rows(key, token, live_key, kv_head, HK, D)
        value_tile = _load_rows(value, token, live_key, kv_head, HK, D)
        key_sum = tl.zeros([BLOCK_2, D], tl.float32)
        value_sum = tl.zeros([BLOCK_2, D], tl.float32)
        size = tl.arange(0, D)
        for step in range(0, tl.cdiv(tiles, SPLITS) * GROUP):
            head = step % GROUP
            first_entry = (tl.program_id(1) + step // GROUP * SPLITS) * ROWS
            entry = first_entry + tl.arange(0, ROWS)
            live = entry < many
            row = tl.load(queries + pair + entry)
            query_tile = _gather(query, row, kv_head * GROUP + head, HQ, D)
            grad_tile = _gather(grad, row, kv_head * GROUP + head, HQ, D)
            lse, gate, share, at = load_four(statistics, row * HQ + kv_head * GROUP + head, live, ROWS)
            score = tl.dot(key_tile, tl.trans(query_tile), input_precision="ieee") * scale
            probability = tl.exp2(score - lse[None, :]) * gate[None, :]
            if first_entry < own:
                probability = tl.where(token[:, None] <= at[None, :], probability, 0.0)
            value_sum = tl.dot(probability.to(grad_tile.dtype), grad_tile, value_sum, input_precision="ieee")
            grad_probability = tl.dot(value_tile, tl.trans(grad_tile), input_precision="ieee")
            grad_score = (probability * (grad_probability - share[None, :])).to(query_tile.dtype)
            key_sum = tl.dot(grad_score, query_tile, key_sum, input_precision="ieee")
            out = tl.trans(tl.dot(tl.trans(key_tile), grad_score, input_precision="ieee"))
            place = (entry * GROUP + head)[:, None] * D + size[None, :]
            tl.store(partial + place, out.to(partial.dtype.element_ty), mask=live[:, None])
        key_sum = key_sum * natural_scale
        if SPLITS == 1:
            key_sum += _load_rows(grad_key, token, live_key, kv_head, HK, D)
            value_sum += _load_rows(grad_value, token, live_key, kv_head, HK, D)
            _store_rows(grad_key, key_sum, token, live_key, kv_head, HK, D)
            _store_rows(grad_value, value_sum, token, live_key, kv_head, HK, D)
        else:
            place = (tl.program_id(1) * blocks + tl.program_id(0)) * BLOCK + inside
            _store_rows(grad_key, key_sum, place, live_key, kv_head, HK, D)
            _store_rows(grad_value, value_sum, place, live_key, kv_head, HK, D)


@triton.jit(do_not_specialize=["first_block", "blocks"])
def _add_splits(split_key, split_value, count, block_range, grad_key, grad_value, first_block, blocks, HK: tl.constexpr,
                D: tl.constexpr, BLOCK: tl.constexpr, BLOCK_2: tl.constexpr, ROWS: tl.constexpr,
                SPLITS: tl.constexpr):  # fmt: skip
    """Add the splits that a block has (its list is long enough for them) to its key and value gradients."""
    head = tl.program_id(1)
    splits = tl.minimum(tl.cdiv(tl.load(count + head * blocks + tl.program_id(0)), ROWS), SPLITS)
    inside = tl.arange(0, BLOCK_2)
    block = first_block + tl.program_id(0)
    token = tl.load(block_range + block * 2) + inside
    live = token < tl.load(block_range + block * 2 + 1)
    key_sum = _load_rows(grad_key, token, live, head, HK, D)
    value_sum = _load_rows(grad_value, token, live, head, HK, D)
    for split in range(0, splits):
        place = (split * blocks + tl.program_id(0)) * BLOCK + inside
        key_sum += _load_rows(split_key, place, live, head, HK, D)
        value_sum += _load_rows(split_value, place, live, head, HK, D)
    _store_rows(grad_key, key_sum, token, live, head, HK, D)
    _store_rows(grad_value, value_sum, token, live, head, HK, D)


@triton.jit(do_not_specialize=["chunk_start", "first_block", "blocks", "words"])
def _merge_backward(partial, index, bits, before, grad_query, position, chunk_start, first_block, blocks, words, scale,
                    HQ: tl.constexpr, HK: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, COUNT: tl.constexpr,
                    COUNT_2: tl.constexpr, ADD: tl.constexpr):  # fmt: skip
    """grad_query (+)= scale * sum of the partial gradients of a query's pairs, for the heads of one key/value head."""
    GROUP: tl.constexpr = HQ // HK
    row = tl.program_id(0)
    kv_head = tl.program_id(1)
    token = (chunk_start + row).to(tl.int64)
    pair, live = _pairs_of(index, bits, before, position, token, row, kv_head, first_block, blocks, words, HK, BLOCK,
                           COUNT, COUNT_2)  # fmt: skip
    size = tl.arange(0, D)
    for head in range(0, GROUP):
        place = (pair * GROUP + head)[:, None] * D + size[None, :]
        merged = scale * tl.sum(tl.load(partial + place, mask=live[:, None], other=0.0).to(tl.float32), 0)
        to = grad_query + (token * HQ + kv_head * GROUP + head) * D + size
        if ADD:
            merged += tl.load(to).to(tl.float32)
        tl.store(to, merged.to(grad_query.dtype.element_ty))


def _sizes(query: Tensor, key: Tensor, plan: Plan) -> dict[str, int]:
    heads, size = query.shape[1:]
    return {"HQ": heads, "HK": key.shape[1], "D": size, "BLOCK_2": tiling.power_of_two(plan.block_size)}


def _merge_sizes(query: Tensor, index: Tensor, plan: Plan) -> dict[str, int]:
    heads, size = query.shape[1:]
    kv_heads, count = index.shape[1:]
    count_2 = tiling.power_of_two(count)
    return {"HQ": heads, "HK": kv_heads, "D": size, "BLOCK": plan.block_size, "COUNT": count, "COUNT_2": count_2,
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
) -> None:
    """Write the chunk's rows of out [T, HQ, D] and lse [T, HQ] (base 2)."""
    rows, blocks = chunk.end - chunk.start, chunk.last_block - chunk.first_block
    heads, size = query.shape[1:]
    kv_heads, block_count = index.shape[1:]
    lists = invert(index, chunk)
    partial = torch.empty(len(lists.queries), heads // kv_heads, size, dtype=query.dtype, device=query.device)
    partial_lse = torch.empty(partial.shape[:2], dtype=torch.float32, device=query.device)
    tile = tiling.selection_forward()
    splits = tiling.forward_splits(rows * block_count, blocks, tile.rows)
    _partial_forward[(blocks, splits, kv_heads)](
        query, key, value, lists.queries, lists.first, lists.count, plan.block_range(), partial, partial_lse,
        chunk.start, chunk.first_block, blocks, scale * LOG2E,
        **_sizes(query, key, plan), ROWS=tile.rows, SPLITS=splits, **tile.options,
    )  # fmt: skip
    _merge_forward[(rows, kv_heads)](
        partial, partial_lse, index, lists.bits, lists.before, out, lse, plan.position(), chunk.start,
        chunk.first_block, blocks, lists.words, **_merge_sizes(query, index, plan),
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
) -> None:
    """Write (add: add to) the chunk's rows of grad_query, and add to grad_key, grad_value [T, HK, D] float32.

    statistics [T, HQ, 4], of rowstats.pack by query with positions on the packed token axis.
    """
    blocks = chunk.last_block - chunk.first_block
    heads, size = query.shape[1:]
    kv_heads = key.shape[1]
    lists = invert(index, chunk)
    partial = torch.empty(len(lists.queries), heads // kv_heads, size, dtype=query.dtype, device=query.device)
    tile = tiling.selection_gradient(plan.block_size)
    splits = tiling.gradient_splits(blocks * kv_heads)
    key_sum, value_sum = grad_key, grad_value
    if splits > 1:
        shape = (splits * blocks * plan.block_size, kv_heads, size)
        key_sum = torch.empty(shape, dtype=torch.float32, device=key.device)
        value_sum = torch.empty_like(key_sum)
    sizes = {**_sizes(query, key, plan), "BLOCK": plan.block_size, "ROWS": tile.rows, "SPLITS": splits}
    _partial_backward[(blocks, splits, kv_heads)](
        query, key, value, grad, statistics, lists.queries, lists.first, lists.count, plan.block_range(), partial,
        key_sum, value_sum, chunk.start, chunk.first_block, blocks, scale * LOG2E, scale,
        **sizes, **tile.options,
    )  # fmt: skip
    if splits > 1:
        sizes.pop("HQ")
        _add_splits[(blocks, kv_heads)](
            key_sum,
            value_sum,
            lists.count,
            plan.block_range(),
            grad_key,
            grad_value,
            chunk.first_block,
            blocks,
            **sizes,
        )
    _merge_backward[(chunk.end - chunk.start, kv_heads)](
        partial, index, lists.bits, lists.before, grad_query, plan.position(), chunk.start, chunk.first_block, blocks,
        lists.words, scale, ADD=add, **_merge_sizes(query, index, plan),
    )  # fmt: skip
