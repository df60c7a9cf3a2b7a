"""Selection branch: attention to the chosen blocks, block by block (Triton).

A query-by-query kernel would fetch b * s keys and values for a tile of only G rows, and is bound by the L2 cache. Here
one program takes one block and gathers the queries that chose it (inverse.py): its keys and values are read once for
many queries. Each (query, head, rank of the block) yields a normalised partial output and its lse, merged afterwards;
the backward pass writes partial query gradients in the same way and sums key and value gradients where they belong.
Queries go in chunks, so the partial results stay within a fixed workspace. Order of all sums is fixed: deterministic.

Shapes: query [T, HQ, D]; key, value [T, HK, D]; index [T, HK, COUNT]; partial [rows of the chunk, HQ, COUNT, D].
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from videonsa.kernels import tiling
from videonsa.kernels.flash import LOG2E, _load_rows, _store_rows
from videonsa.kernels.inverse import Inverse, invert
from videonsa.kernels.plan import Chunk, Plan


@triton.jit
def _tile_of_queries(queries, index, first, i, many, block, chunk_start, head, HK: tl.constexpr, COUNT: tl.constexpr,
                     COUNT_2: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    """Rows (within the chunk) of queries i .. i + ROWS of a block's list, and the block's rank among their choices."""
    entry = i + tl.arange(0, ROWS)
    live = entry < many
    row = tl.load(queries + first + entry, mask=live, other=0)
    rank = tl.arange(0, COUNT_2)
    place = ((chunk_start + row).to(tl.int64) * HK + head)[:, None] * COUNT + rank[None, :]
    chosen = tl.load(index + place, mask=live[:, None] & (rank < COUNT)[None, :], other=-1)
    before = (chosen >= 0) & (chosen < block)
    return row, live, tl.sum(before.to(tl.int32), 1)


@triton.jit(do_not_specialize=["chunk_start", "first_block", "blocks"])
def _partial_forward(query, key, value, index, queries, first, count, block_range, partial, partial_lse, chunk_start,
                     first_block, blocks, scale, HQ: tl.constexpr, HK: tl.constexpr, D: tl.constexpr,
                     BLOCK_2: tl.constexpr, COUNT: tl.constexpr, COUNT_2: tl.constexpr, ROWS: tl.constexpr,
                     SPLITS: tl.constexpr):  # fmt: skip
    kv_head = tl.program_id(2)
    slot = kv_head * blocks + tl.program_id(0)
    block = first_block + tl.program_id(0)
    many = tl.load(count + slot)
    start = tl.program_id(1) * ROWS
    if start < many:
        token = tl.load(block_range + block * 2) + tl.arange(0, BLOCK_2)
        live_key = token < tl.load(block_range + block * 2 + 1)
        key_tile = tl.trans(_load_rows(key, token, live_key, kv_head, HK, D))
        value_tile = _load_rows(value, token, live_key, kv_head, HK, D)
        for i in range(start, many, ROWS * SPLITS):
            row, live, rank = _tile_of_queries(queries, index, tl.load(first + slot), i, many, block, chunk_start,
                                               kv_head, HK, COUNT, COUNT_2, ROWS)  # fmt: skip
            visible = live_key[None, :] & (token[None, :] <= (chunk_start + row)[:, None])
            for head in range(kv_head * (HQ // HK), (kv_head + 1) * (HQ // HK)):
                query_tile = _load_rows(query, chunk_start + row, live, head, HQ, D)
                score = tl.dot(query_tile, key_tile, input_precision="ieee") * scale
                score = tl.where(visible, score, float("-inf"))
                top = tl.max(score, 1)  # finite: a query sees at least the block's first token
                top = tl.where(live, top, 0.0)
                probability = tl.exp2(score - top[:, None])
                total = tl.where(live, tl.sum(probability, 1), 1.0)
                out = tl.dot(probability.to(value_tile.dtype), value_tile, input_precision="ieee")
                place = (row.to(tl.int64) * HQ + head) * COUNT + rank
                size = tl.arange(0, D)
                out = (out / total[:, None]).to(partial.dtype.element_ty)
                tl.store(partial + place[:, None] * D + size[None, :], out, mask=live[:, None])
                tl.store(partial_lse + place, top + tl.log2(total), mask=live)


@triton.jit(do_not_specialize=["chunk_start"])
def _merge_forward(partial, partial_lse, out, lse, position, chunk_start, HQ: tl.constexpr, D: tl.constexpr,
                   BLOCK: tl.constexpr, COUNT: tl.constexpr, COUNT_2: tl.constexpr, STEP: tl.constexpr):  # fmt: skip
    """out = sum over ranks of exp2(lse_rank - lse) * partial_rank, for one query and head."""
    row = tl.program_id(0)
    head = tl.program_id(1)
    token = (chunk_start + row).to(tl.int64)
    ranks = tl.minimum(tl.load(position + token) // BLOCK + 1, COUNT)
    base = (row.to(tl.int64) * HQ + head) * COUNT
    rank = tl.arange(0, COUNT_2)
    partial_row = tl.load(partial_lse + base + rank, mask=rank < ranks, other=float("-inf"))
    top = tl.max(partial_row, 0)
    total = top + tl.log2(tl.sum(tl.exp2(partial_row - top), 0))
    size = tl.arange(0, D)
    sum_ = tl.zeros([D], tl.float32)
    for i in tl.static_range(0, COUNT_2, STEP):
        rank = i + tl.arange(0, STEP)
        weight = tl.exp2(tl.load(partial_lse + base + rank, mask=rank < ranks, other=float("-inf")) - total)
        tile = tl.load(partial + (base + rank)[:, None] * D + size[None, :], mask=(rank < ranks)[:, None], other=0.0)
        sum_ += tl.sum(tile.to(tl.float32) * weight[:, None], 0)
    place = token * HQ + head
    tl.store(lse + place, total)
    tl.store(out + place * D + size, sum_.to(out.dtype.element_ty))


@triton.jit(do_not_specialize=["chunk_start", "first_block", "blocks"])
def _partial_backward(query, key, value, grad, lse, gate, share, gate_stride, index, queries, first, count, block_range,
                      partial, grad_key, grad_value, chunk_start, first_block, blocks, scale, natural_scale,
                      HQ: tl.constexpr, HK: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, BLOCK_2: tl.constexpr,
                      COUNT: tl.constexpr, COUNT_2: tl.constexpr, ROWS: tl.constexpr, SPLITS: tl.constexpr):  # fmt: skip
    """partial[row, head, rank] = this block's part of the query gradient; key and value gradients are added (one split)
    to grad_key, grad_value [T, HK, D] or (more) written to their split's [blocks * BLOCK, HK, D], to be added later.

    Transposed (keys x queries), as in flash.py's key gradient.
    """
    kv_head = tl.program_id(2)
    split = tl.program_id(1)
    slot = kv_head * blocks + tl.program_id(0)
    block = first_block + tl.program_id(0)
    many = tl.load(count + slot)
    if many > split * ROWS:
        inside = tl.arange(0, BLOCK_2)
        token = tl.load(block_range + block * 2) + inside
        live_key = token < tl.load(block_range + block * 2 + 1)
        key_tile = _load_rows(key, token, live_key, kv_head, HK, D)
        value_tile = _load_rows(value, token, live_key, kv_head, HK, D)
        key_sum = tl.zeros([BLOCK_2, D], tl.float32)
        value_sum = tl.zeros([BLOCK_2, D], tl.float32)
        for i in range(split * ROWS, many, ROWS * SPLITS):
            row, live, rank = _tile_of_queries(queries, index, tl.load(first + slot), i, many, block, chunk_start,
                                               kv_head, HK, COUNT, COUNT_2, ROWS)  # fmt: skip
            visible = live_key[:, None] & live[None, :] & (token[:, None] <= (chunk_start + row)[None, :])
            for head in range(kv_head * (HQ // HK), (kv_head + 1) * (HQ // HK)):
                offset = (chunk_start + row).to(tl.int64) * HQ + head
                query_tile = _load_rows(query, chunk_start + row, live, head, HQ, D)
                grad_tile = _load_rows(grad, chunk_start + row, live, head, HQ, D)
                lse_row = tl.load(lse + offset, mask=live, other=0.0)
                gate_row = tl.load(gate + offset * gate_stride, mask=live, other=0.0).to(tl.float32)
                share_row = tl.load(share + offset * gate_stride, mask=live, other=0.0).to(tl.float32)
                score = tl.dot(key_tile, tl.trans(query_tile), input_precision="ieee") * scale
                probability = tl.where(visible, tl.exp2(score - lse_row[None, :]) * gate_row[None, :], 0.0)
                value_sum = tl.dot(probability.to(grad_tile.dtype), grad_tile, value_sum, input_precision="ieee")
                grad_probability = tl.dot(value_tile, tl.trans(grad_tile), input_precision="ieee")
                grad_score = (probability * (grad_probability - share_row[None, :])).to(query_tile.dtype)
                key_sum = tl.dot(grad_score, query_tile, key_sum, input_precision="ieee")
                out = tl.dot(tl.trans(grad_score), key_tile, input_precision="ieee") * natural_scale
                place = (row.to(tl.int64) * HQ + head) * COUNT + rank
                place = place[:, None] * D + tl.arange(0, D)[None, :]
                tl.store(partial + place, out.to(partial.dtype.element_ty), mask=live[:, None])
        if SPLITS == 1:
            key_sum = key_sum * natural_scale + _load_rows(grad_key, token, live_key, kv_head, HK, D)
            value_sum += _load_rows(grad_value, token, live_key, kv_head, HK, D)
            _store_rows(grad_key, key_sum, token, live_key, kv_head, HK, D)
            _store_rows(grad_value, value_sum, token, live_key, kv_head, HK, D)
        else:
            place = (split * blocks + tl.program_id(0)) * BLOCK + inside
            _store_rows(grad_key, key_sum * natural_scale, place, live_key, kv_head, HK, D)
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


@triton.jit(do_not_specialize=["chunk_start"])
def _merge_backward(partial, grad_query, position, chunk_start, HQ: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
                    COUNT: tl.constexpr, COUNT_2: tl.constexpr, STEP: tl.constexpr, ADD: tl.constexpr):  # fmt: skip
    """grad_query (+)= sum of the partial query gradients, for one query and head."""
    row = tl.program_id(0)
    head = tl.program_id(1)
    token = (chunk_start + row).to(tl.int64)
    ranks = tl.minimum(tl.load(position + token) // BLOCK + 1, COUNT)
    base = (row.to(tl.int64) * HQ + head) * COUNT
    size = tl.arange(0, D)
    place = grad_query + (token * HQ + head) * D + size
    sum_ = tl.zeros([D], tl.float32)
    if ADD:
        sum_ = tl.load(place).to(tl.float32)
    for i in tl.static_range(0, COUNT_2, STEP):
        rank = i + tl.arange(0, STEP)
        tile = tl.load(partial + (base + rank)[:, None] * D + size[None, :], mask=(rank < ranks)[:, None], other=0.0)
        sum_ += tl.sum(tile.to(tl.float32), 0)
    tl.store(place, sum_.to(grad_query.dtype.element_ty))


def _sizes(query: Tensor, key: Tensor, index: Tensor, plan: Plan) -> dict[str, int]:
    return {
        "HQ": query.shape[1],
        "HK": key.shape[1],
        "D": query.shape[2],
        "BLOCK_2": tiling.power_of_two(plan.block_size),
        "COUNT": index.shape[2],
        "COUNT_2": tiling.power_of_two(index.shape[2]),
    }


def _merge_sizes(query: Tensor, index: Tensor, plan: Plan) -> dict[str, int]:
    count_2 = tiling.power_of_two(index.shape[2])
    return {
        "HQ": query.shape[1],
        "D": query.shape[2],
        "BLOCK": plan.block_size,
        "COUNT": index.shape[2],
        "COUNT_2": count_2,
        "STEP": min(32, count_2),
        "num_warps": tiling.MERGE_WARPS,
    }


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
    inverse = invert(index, chunk)
    partial = torch.empty(rows, heads, index.shape[2], size, dtype=query.dtype, device=query.device)
    partial_lse = torch.empty(partial.shape[:3], dtype=torch.float32, device=query.device)
    tile = tiling.selection_forward()
    splits = tiling.forward_splits(rows * index.shape[2], blocks, tile.rows)
    _partial_forward[(blocks, splits, key.shape[1])](
        query, key, value, index, inverse.queries, inverse.first, inverse.count, plan.block_range(), partial,
        partial_lse, chunk.start, chunk.first_block, blocks, scale * LOG2E,
        **_sizes(query, key, index, plan), ROWS=tile.rows, SPLITS=splits, **tile.options,
    )  # fmt: skip
    _merge_forward[(rows, heads)](
        partial, partial_lse, out, lse, plan.position(), chunk.start, **_merge_sizes(query, index, plan)
    )


def backward_chunk(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    grad: Tensor,
    lse: Tensor,
    gate: Tensor,
    share: Tensor,
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
    """Write (add: add to) the chunk's rows of grad_query, and add to grad_key, grad_value [T, HK, D] float32."""
    rows, blocks = chunk.end - chunk.start, chunk.last_block - chunk.first_block
    heads, size = query.shape[1:]
    kv_heads = key.shape[1]
    inverse = invert(index, chunk)
    partial = torch.empty(rows, heads, index.shape[2], size, dtype=query.dtype, device=query.device)
    tile = tiling.selection_gradient()
    splits = tiling.gradient_splits(blocks * kv_heads)
    key_sum, value_sum = grad_key, grad_value
    if splits > 1:
        shape = (splits * blocks * plan.block_size, kv_heads, size)
        key_sum = torch.empty(shape, dtype=torch.float32, device=key.device)
        value_sum = torch.empty_like(key_sum)
    sizes = _sizes(query, key, index, plan)
    _partial_backward[(blocks, splits, kv_heads)](
        query, key, value, grad, lse, gate, share, gate.stride(1), index, inverse.queries, inverse.first, inverse.count,
        plan.block_range(), partial, key_sum, value_sum, chunk.start, chunk.first_block, blocks, scale * LOG2E, scale,
        **sizes, BLOCK=plan.block_size, ROWS=tile.rows, SPLITS=splits, **tile.options,
    )  # fmt: skip
    if splits > 1:
        _add_splits[(blocks, kv_heads)](
            key_sum, value_sum, inverse.count, plan.block_range(), grad_key, grad_value, chunk.first_block, blocks,
            HK=kv_heads, D=size, BLOCK=plan.block_size, BLOCK_2=sizes["BLOCK_2"], ROWS=tile.rows, SPLITS=splits,
        )  # fmt: skip
    _merge_backward[(rows, heads)](
        partial, grad_query, plan.position(), chunk.start, ADD=add, **_merge_sizes(query, index, plan)
    )


__all__ = ["Inverse", "backward_chunk", "forward_chunk"]
