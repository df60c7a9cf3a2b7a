"""Attention of one new token of each row to a prompt's cache and the tokens generated since (flash decoding; Triton).

One query alone would keep one program a head busy, so a prompt's keys go to many programs, whose results are put
together by a second kernel. All that changes from prompt to prompt is read from memory, the addresses of the cache's
tensors too (a table of decode.py), so that a captured graph serves every prompt and length.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from videonsa.limits import next_power_of_two

SPLITS = 64  # programs for the keys of one key/value head of one row; of few rows
COLUMNS = 64  # keys of a tile
LOG2E = 1.4426950408889634


@triton.jit
def _partial(query, table, recent, step, out, lse, scale, HK: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr,
             D: tl.constexpr, ROOM: tl.constexpr, SPLITS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """One share of the keys for the query heads of one key/value head; the last share is the recent tokens."""
    batch = tl.program_id(0) // HK
    head = tl.program_id(0) % HK
    split = tl.program_id(1)
    dtype: tl.constexpr = query.dtype.element_ty
    length = tl.load(table + 3).to(tl.int32)
    row = tl.arange(0, ROWS)
    slot = tl.program_id(0) * GROUP + row
    at = tl.arange(0, D)
    query_tile = tl.load(query + slot[:, None] * D + at[None, :], mask=row[:, None] < GROUP, other=0.0)

    is_recent = split == SPLITS
    share = tl.cdiv(tl.cdiv(length, SPLITS), COLUMNS) * COLUMNS
    start = tl.where(is_recent, 0, split * share)
    end = tl.where(is_recent, tl.load(step).to(tl.int32) + 1, tl.minimum(split * share + share, length))
    row_stride = tl.where(is_recent, HK * ROOM * D, tl.load(table + 4))
    head_stride = tl.where(is_recent, ROOM * D, tl.load(table + 5))
    stride = tl.multiple_of(tl.where(is_recent, D, tl.load(table + 6)), 16)  # so that 16 bytes are loaded at a time
    begin = tl.multiple_of(batch * row_stride + head * head_stride, 16)
    size = tl.num_programs(0).to(tl.int64) * ROOM * D  # of the recent keys, behind which the recent values lie
    own = recent.to(tl.int64, bitcast=True)
    item: tl.constexpr = dtype.primitive_bitwidth // 8
    key = tl.where(is_recent, own, tl.load(table)).to(tl.pointer_type(dtype), bitcast=True)
    value = tl.where(is_recent, own + size * item, tl.load(table + 1)).to(tl.pointer_type(dtype), bitcast=True)
    key = tl.multiple_of(key, 16) + begin
    value = tl.multiple_of(value, 16) + begin
    address = tl.load(table + 2)
    masked_end = tl.where(is_recent, 0, tl.where(address == 0, 0, end))
    mask = address.to(tl.pointer_type(tl.int8), bitcast=True) + batch.to(tl.int64) * length

    top = tl.full([ROWS], -1.0e30, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    sum_ = tl.zeros([ROWS, D], tl.float32)
    for j in range(start, end, COLUMNS):
        index = j + tl.arange(0, COLUMNS)
        live = index < end
        place = index.to(tl.int64)[:, None] * stride + at[None, :]
        key_tile = tl.load(key + place, mask=live[:, None], other=0.0)
        seen = live & (tl.load(mask + index, mask=index < masked_end, other=1) != 0)
        score = tl.dot(query_tile, tl.trans(key_tile), input_precision="ieee") * scale
        score = tl.where(seen[None, :], score, float("-inf"))
        new_top = tl.maximum(top, tl.max(score, 1))
        probability = tl.exp2(score - new_top[:, None])
        shrink = tl.exp2(top - new_top)
        total = total * shrink + tl.sum(probability, 1)
        value_tile = tl.load(value + place, mask=live[:, None], other=0.0)
        sum_ = sum_ * shrink[:, None]
        sum_ = tl.dot(probability.to(dtype), value_tile, sum_, input_precision="ieee")
        top = new_top
    sees = total > 0
    place = slot * (SPLITS + 1) + split
    tl.store(lse + place, tl.where(sees, top + tl.log2(tl.where(sees, total, 1.0)), float("-inf")), mask=row < GROUP)
    sum_ = sum_ / tl.where(sees, total, 1.0)[:, None]
    tl.store(out + place[:, None] * D + at[None, :], sum_, mask=row[:, None] < GROUP)


@triton.jit
def _combine(partial, lse, out, D: tl.constexpr, SHARES: tl.constexpr, ALL: tl.constexpr):
    """The mean of the shares' results of one head, weighed by what each has seen; the query sees at least itself."""
    slot = tl.program_id(0)
    share = tl.arange(0, ALL)
    at = tl.arange(0, D)
    weight = tl.load(lse + slot * SHARES + share, mask=share < SHARES, other=float("-inf"))
    weight = tl.exp2(weight - tl.max(weight, 0))
    weight = weight / tl.sum(weight, 0)
    place = (slot * SHARES + share)[:, None] * D + at[None, :]
    result = tl.load(partial + place, mask=(share < SHARES)[:, None], other=0.0)
    tl.store(out + slot * D + at, tl.sum(result * weight[:, None], 0))


def decode_attention(query: Tensor, table: Tensor, recent: Tensor, step: Tensor, scale: float) -> Tensor:
    """Attention of the newest token of each row.

    Args:
        query: [B, Hq, D].
        table: int64 [FIELDS] on the device, a row of `make_table`: the prompt's cache.
        recent: [2, B, Hkv, room, D], keys and values of the tokens since the prompt, the newest included.
        step: int64 [1], the newest token's place among the recent ones.
        scale: of the dot products.

    Returns:
        [B, Hq, D].
    """
    query = query.contiguous()
    batch, heads, size = query.shape
    kv_heads, room = recent.shape[2:4]
    splits = max(4, SPLITS // next_power_of_two(batch))
    shares = splits + 1
    partial = torch.empty(batch * heads, shares, size, dtype=torch.float32, device=query.device)
    lse = torch.empty(batch * heads, shares, dtype=torch.float32, device=query.device)
    group = heads // kv_heads
    with torch.cuda.device_of(query):
        _partial[(batch * kv_heads, shares)](
            query, table, recent, step, partial, lse, scale * LOG2E, HK=kv_heads, GROUP=group,
            ROWS=max(16, next_power_of_two(group)), D=size, ROOM=room, SPLITS=splits, COLUMNS=COLUMNS,
            num_warps=4, num_stages=3,
        )  # fmt: skip
        out = torch.empty_like(query)
        _combine[(batch * heads,)](partial, lse, out, D=size, SHARES=shares, ALL=next_power_of_two(shares))
    return out
