"""Where each sequence, block, tile and chunk lies in a packed row of tokens: small int32 tables, made once per shape.

All sequences of a call lie one after the other on one token axis (a batch is packed too). No row of a table crosses a
sequence's border; a tile that a kernel loads may, and the kernel masks what lies beyond.

Queries may be those of the last tokens alone, as where the processes of a training each take some. They then have an
axis of their own, which begins at the token `first_query`; by whole sequences it is the token axis.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

_ends_seen: WeakIdKeyDictionary = WeakIdKeyDictionary()  # cu_seqlens -> (its version, its values)


@dataclass(frozen=True)
class Chunk:
    """A run of queries handled together, [start, end), and the blocks [first_block, last_block) that they may see."""

    start: int
    end: int
    token: int  # of the first
    first_block: int
    last_block: int
    columns: int  # most blocks that any one of its sequences has up to the chunk's end


@dataclass(frozen=True)
class Plan:
    """ends: sequence borders on the token axis; block_ends: on the block axis, a sequence's partial block included."""

    ends: tuple[int, ...]
    block_size: int
    device: torch.device
    first_query: int = 0  # tokens before it are keys alone

    @property
    def tokens(self) -> int:
        return self.ends[-1]

    @property
    def queries(self) -> int:
        return self.tokens - self.first_query

    @cached_property
    def sequences(self) -> list[tuple[int, int]]:
        return [(a, b) for a, b in itertools.pairwise(self.ends) if b > a]

    @cached_property
    def block_ends(self) -> tuple[int, ...]:
        ends = [0]
        for start, end in self.sequences:
            ends.append(ends[-1] + -(-(end - start) // self.block_size))
        return tuple(ends)

    @property
    def blocks(self) -> int:
        return self.block_ends[-1]

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(end - start for start, end in self.sequences)

    @property
    def most_blocks(self) -> int:
        """Blocks of the longest sequence, the partial one included."""
        return max(b - a for a, b in itertools.pairwise(self.block_ends))

    def position(self) -> Tensor:
        """Index of each query within its own sequence, [queries]."""
        return _position(self)

    def token(self) -> Tensor:
        """Index of each query on the packed axis, [queries]."""
        return _token(self)

    def first_block(self) -> Tensor:
        """First block of each token's sequence, [T]."""
        return _first_block(self, 0)

    def first_block_seen(self) -> Tensor:
        """First block of each query's sequence, [queries]."""
        return _first_block(self, self.first_query)

    def whole_block(self) -> Tensor:
        """Block of each token, -1 for the tokens of a partial block, [T]."""
        return _whole_block(self)

    def block_range(self) -> Tensor:
        """Tokens [start, end) of each block, [blocks, 2]."""
        return _block_range(self)

    def query_tiles(self, rows: int, compressed: bool, chunk: Chunk | None = None, prefix: int | None = None) -> Tensor:
        """[tiles, 3]: first query, end of the queries, first key of the sequence.

        chunk: of its queries alone; prefix: of the first so many tokens of each sequence alone.
        """
        return _query_tiles(self, rows, compressed, chunk, prefix)

    def key_tiles(self, columns: int, compressed: bool, prefix: int | None = None, partial: bool = False) -> Tensor:
        """[tiles, 6]: first key, end of the keys, first key of the sequence, its first query, its end of queries, row
        of the first key in the result.

        The first query is where that of the sequence's first token would be: below 0 where it has none.
        prefix: of the first so many tokens of each sequence alone; the result has rows for no others.
        partial: of compressed keys also the last one of a sequence, whatever it has.
        """
        return _key_tiles(self, columns, compressed, prefix, partial)

    def prefix(self, tokens: int) -> Tensor:
        """Packed index of the first `tokens` tokens of each sequence."""
        return _prefix(self, tokens)

    def chunks(self, tokens: int) -> tuple[Chunk, ...]:
        """Runs of at most `tokens` queries."""
        return _chunks(self, tokens)


def make_plan(query: Tensor, cu_seqlens: Tensor | None, block_size: int, keys: int | None = None) -> Plan:
    """The plan of a call with query [B, L, ...]; sequences are the batch's rows, or what cu_seqlens says.

    keys: of the one sequence, where the queries are its last.
    """
    batch, length = query.shape[:2]
    if keys is not None and keys > length:
        return Plan((0, keys), block_size, query.device, keys - length)
    if cu_seqlens is None:
        ends = tuple(range(0, batch * length + 1, length)) if length else (0,)
    else:
        ends = sequence_ends(cu_seqlens, length)
    return Plan(ends, block_size, query.device)


@torch.compiler.disable
def sequence_ends(cu_seqlens: Tensor, length: int) -> tuple[int, ...]:
    """The values of cu_seqlens; equal neighbours are a sequence of no tokens. ValueError where they do not fit."""
    ends = _values(cu_seqlens)
    if ends[:1] != (0,) or ends[-1] != length or any(a > b for a, b in itertools.pairwise(ends)):
        shown = ", ".join(map(str, ends[:8])) + (f", ... {ends[-1]}" if len(ends) > 8 else "")
        raise ValueError(f"cu_seqlens must rise from 0 to {length}, the packed length; got [{shown}]")
    return ends


def _values(cu_seqlens: Tensor) -> tuple[int, ...]:
    """Read a device's cu_seqlens once, not once a layer: reading waits for the device."""
    if not cu_seqlens.is_cuda or cu_seqlens.is_inference():  # the latter has no version that would tell of a change
        return tuple(cu_seqlens.tolist())
    seen = _ends_seen.get(cu_seqlens)
    if seen is None or seen[0] != cu_seqlens._version:
        seen = (cu_seqlens._version, tuple(cu_seqlens.tolist()))
        _ends_seen[cu_seqlens] = seen
    return seen[1]


def _table(rows: list[Tensor], plan: Plan, width: int) -> Tensor:
    table = torch.cat(rows) if rows else torch.empty(0, width, dtype=torch.int64)
    return table.to(torch.int32).contiguous().to(plan.device)


@lru_cache(maxsize=8)  # a table of all tokens
def _position(plan: Plan) -> Tensor:
    rows = [torch.arange(start, end)[max(plan.first_query - start, 0) :] - start for start, end in plan.sequences]
    return _table(rows, plan, 1)


@lru_cache(maxsize=8)  # a table of all tokens
def _token(plan: Plan) -> Tensor:
    return torch.arange(plan.first_query, plan.tokens, dtype=torch.int32, device=plan.device)


@lru_cache(maxsize=8)  # a table of all tokens
def _first_block(plan: Plan, first: int) -> Tensor:
    """Of the tokens from `first` on."""
    rows = [
        torch.full((max(end - max(start, first), 0),), plan.block_ends[i])
        for i, (start, end) in enumerate(plan.sequences)
    ]
    return _table(rows, plan, 1)


@lru_cache(maxsize=8)  # a table of all tokens
def _whole_block(plan: Plan) -> Tensor:
    rows = []
    for i, (start, end) in enumerate(plan.sequences):
        block = torch.arange(end - start) // plan.block_size
        whole = block < (end - start) // plan.block_size
        rows.append(torch.where(whole, block + plan.block_ends[i], -1))
    return _table(rows, plan, 1)


@lru_cache(maxsize=64)
def _block_range(plan: Plan) -> Tensor:
    rows = []
    for start, end in plan.sequences:
        first = torch.arange(start, end, plan.block_size)
        rows.append(torch.stack([first, (first + plan.block_size).clamp_max(end)], 1))
    return _table(rows, plan, 2)


@lru_cache(maxsize=1024)
def _query_tiles(plan: Plan, rows: int, compressed: bool, chunk: Chunk | None, prefix: int | None) -> Tensor:
    tables = []
    for i, (start, end) in enumerate(plan.sequences):
        last_query = (end if prefix is None else min(end, start + prefix)) - plan.first_query
        first_query = max(start - plan.first_query, 0)
        if chunk is not None:
            first_query, last_query = max(first_query, chunk.start), min(last_query, chunk.end)
        if first_query >= last_query:
            continue
        first = torch.arange(first_query, last_query, rows)
        table = torch.empty(len(first), 3, dtype=torch.int64)
        table[:, 0], table[:, 1] = first, (first + rows).clamp_max(last_query)
        table[:, 2] = plan.block_ends[i] if compressed else start
        tables.append(table)
    return _table(tables, plan, 3)


@lru_cache(maxsize=64)
def _key_tiles(plan: Plan, columns: int, compressed: bool, prefix: int | None, partial: bool) -> Tensor:
    tables, taken = [], 0
    for i, (start, end) in enumerate(plan.sequences):
        if prefix is not None:
            end = min(end, start + prefix)
        base = plan.block_ends[i] if compressed else start
        blocks = -(-(end - start) // plan.block_size) if partial else (end - start) // plan.block_size
        keys = blocks if compressed else end - start
        first = torch.arange(base, base + keys, columns)
        table = torch.empty(len(first), 6, dtype=torch.int64)
        table[:, 0], table[:, 1], table[:, 2] = first, (first + columns).clamp_max(base + keys), base
        table[:, 3], table[:, 4] = start - plan.first_query, end - plan.first_query
        table[:, 5] = first if prefix is None else first - base + taken
        tables.append(table)
        taken += keys
    return _table(tables, plan, 6)


@lru_cache(maxsize=64)
def _prefix(plan: Plan, tokens: int) -> Tensor:
    rows = [torch.arange(start, min(end, start + tokens)) for start, end in plan.sequences]
    return torch.cat(rows).to(plan.device)


@lru_cache(maxsize=64)
def _chunks(plan: Plan, tokens: int) -> tuple[Chunk, ...]:
    chunks = []
    for start in range(plan.first_query, plan.tokens, tokens):
        end = min(start + tokens, plan.tokens)
        inside = [i for i, (a, b) in enumerate(plan.sequences) if a < end and b > start]
        seen = [-(-(min(plan.sequences[i][1], end) - plan.sequences[i][0]) // plan.block_size) for i in inside]
        first, last = plan.block_ends[inside[0]], plan.block_ends[inside[-1]] + seen[-1]
        chunks.append(Chunk(start - plan.first_query, end - plan.first_query, start, first, last, max(seen)))
    return tuple(chunks)
