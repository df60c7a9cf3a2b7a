"""The choice of blocks turned round: for each block, the queries of a chunk that chose it, in rising order (Triton).

A bitmap [HK, blocks, queries / 32] is set with atomic ORs (their order does not matter: deterministic). Each block's
bits are then written out as a list; the lists lie one after the other. A (query, block) pair is known by its position
among all lists, which the bitmap and the running count before each of its words give back (`pair_position`).

Lists differ in length, by far where queries agree on what matters. So the work is dealt out in items: a run of at most
`limit` entries of one list, one program each. A slot (a block of one key/value head) has at least one item.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from videonsa.kernels.plan import Chunk, Plan
from videonsa.limits import next_power_of_two

MARK_ROWS = 32
SPARE = 128  # zeros after the lists: a tile may read past the end of the last one


@dataclass(frozen=True)
class Inverse:
    """queries [pairs + SPARE]: rows within the chunk; first, count [HK * blocks]: each slot's list.

    bits, before [HK, blocks, words]: who chose the block, and the pairs that lie before each word's first.
    items [HK * blocks + extra]: slot of each item, or -1; first_item [HK * blocks]; extra: the most items that are not
    the first of their slot.
    """

    queries: Tensor
    first: Tensor
    count: Tensor
    bits: Tensor
    before: Tensor
    words: int
    items: Tensor
    first_item: Tensor
    limit: int

    @property
    def extra(self) -> int:
        return len(self.items) - len(self.count)


@triton.jit(do_not_specialize=["chunk_start", "rows", "first_block", "blocks", "words"])
def _mark(index, bits, position, chunk_start, rows, first_block, blocks, words, HK: tl.constexpr, BLOCK: tl.constexpr,
          COUNT: tl.constexpr, COUNT_2: tl.constexpr, LEAST: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    head = tl.program_id(1)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    rank = tl.arange(0, COUNT_2)
    place = ((chunk_start + row).to(tl.int64) * HK + head)[:, None] * COUNT + rank[None, :]
    chooses = tl.load(position + chunk_start + row, mask=row < rows, other=-1) // BLOCK >= LEAST
    chooses = chooses & (row < rows)
    block = tl.load(index + place, mask=chooses[:, None] & (rank < COUNT)[None, :], other=-1)
    slot = (head * blocks + block - first_block).to(tl.int64)
    bit = (row % 32)[:, None] + tl.zeros_like(block)
    tl.atomic_or(bits + slot * words + (row // 32)[:, None], 1 << bit, mask=block >= 0, sem="relaxed")


@triton.jit
def _ones(word):
    """Number of set bits of a uint32."""
    word = word - ((word >> 1) & 0x55555555)
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    return ((word * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def _load_words(bits, slot, words, WORDS_2: tl.constexpr):
    i = tl.arange(0, WORDS_2)
    return tl.load(bits + slot.to(tl.int64) * words + i, mask=i < words, other=0).to(tl.uint32, bitcast=True)


@triton.jit(do_not_specialize=["words", "slots"])
def _count(bits, count, words, slots, WORDS_2: tl.constexpr, LIMIT: tl.constexpr):
    """count[0, slot] = entries of its list, count[1, slot] = its items."""
    slot = tl.program_id(0)
    many = tl.sum(_ones(_load_words(bits, slot, words, WORDS_2)), 0)
    tl.store(count + slot, many)
    tl.store(count + slots + slot, tl.maximum(tl.cdiv(many, LIMIT), 1))


@triton.jit(do_not_specialize=["words", "slots"])
def _compact(bits, first, count, before, queries, items, words, slots, WORDS_2: tl.constexpr, LIMIT: tl.constexpr):
    """first, count [2, slots]: of the pairs and of the items."""
    slot = tl.program_id(0)
    many = tl.load(count + slot)
    i = tl.arange(0, WORDS_2)
    tl.store(items + tl.load(first + slots + slot) + i, slot + tl.zeros_like(i), mask=i < tl.load(count + slots + slot))
    if many > 0:
        word = _load_words(bits, slot, words, WORDS_2)
        ones = _ones(word)
        pair = tl.load(first + slot) + tl.cumsum(ones, 0) - ones
        tl.store(before + slot.to(tl.int64) * words + i, pair, mask=i < words)
        bit = tl.arange(0, 32)
        below = (tl.full([32], 1, tl.uint32) << bit.to(tl.uint32)) - 1
        is_set = ((word[:, None] >> bit.to(tl.uint32)[None, :]) & 1) != 0
        place = pair[:, None] + _ones(word[:, None] & below[None, :])
        tl.store(queries + place, i[:, None] * 32 + bit[None, :], mask=is_set)


@triton.jit
def entries_of(item, slot, first, count, first_item, LIMIT: tl.constexpr):
    """The run of its slot's list that an item handles: its first entry, that entry's pair, and how many there are."""
    begin = (item - tl.load(first_item + slot)) * LIMIT
    return begin, tl.load(first + slot) + begin, tl.minimum(tl.load(count + slot) - begin, LIMIT)


@triton.jit
def pair_position(bits, before, slot, row, words, live):
    """Position among all lists of the pairs (row of the chunk, block slot); slot and live are vectors."""
    place = slot.to(tl.int64) * words + row // 32
    word = tl.load(bits + place, mask=live, other=0).to(tl.uint32, bitcast=True)
    lower = (1 << (row % 32)).to(tl.uint32) - 1
    return tl.load(before + place, mask=live, other=0) + _ones(word & lower)


def invert(index: Tensor, plan: Plan, chunk: Chunk, limit: int, least: int) -> Inverse:
    """index [T, HK, block_count] (global blocks, -1 for none) -> the lists of the chunk's queries; limit is 32 or more.

    Queries before block `least` of their sequence are in no list (prefix.py).
    """
    kv_heads, block_count = index.shape[1:]
    rows, blocks = chunk.end - chunk.start, chunk.last_block - chunk.first_block
    words = -(-rows // 32)
    words_2 = next_power_of_two(words)
    bits = torch.zeros(kv_heads * blocks, words, dtype=torch.int32, device=index.device)
    _mark[(triton.cdiv(rows, MARK_ROWS), kv_heads)](
        index, bits, plan.position(), chunk.start, rows, chunk.first_block, blocks, words,
        HK=kv_heads, BLOCK=plan.block_size, COUNT=block_count, COUNT_2=next_power_of_two(block_count), LEAST=least,
        ROWS=MARK_ROWS,
    )  # fmt: skip
    count = torch.empty(2, kv_heads * blocks, dtype=torch.int32, device=index.device)  # of pairs, of items
    _count[(count.shape[1],)](bits, count, words, count.shape[1], WORDS_2=words_2, LIMIT=limit, num_warps=1)
    last = torch.cumsum(count, 1, dtype=torch.int32)
    first = last - count
    before = torch.empty_like(bits)
    pairs = rows * kv_heads * block_count
    queries = torch.zeros(pairs + SPARE, dtype=torch.int32, device=index.device)
    items = torch.full((count.shape[1] + pairs // limit,), -1, dtype=torch.int32, device=index.device)
    _compact[(count.shape[1],)](
        bits, first, count, before, queries, items, words, count.shape[1], WORDS_2=words_2, LIMIT=limit,
        num_warps=4 if words_2 <= 256 else 8,
    )  # fmt: skip
    return Inverse(queries, first[0], count[0], bits, before, words, items, first[1], limit)
