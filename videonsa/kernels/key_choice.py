"""`KeyChoice`: the keys that each query of a sample attends to, by query head, as a sparse prefill hands them on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from videonsa.limits import is_whole


@dataclass(frozen=True)
class KeyChoice:
    """The keys of each block of queries of one sample: whole blocks of keys, and single columns. All is causal: of what
    is chosen, a query at position i attends to the keys j <= i.

    Block b of queries holds the positions b * block_size .. (b + 1) * block_size - 1; there are nq = ceil(length /
    block_size), the last one perhaps partial. A block of keys is block_size keys from any position on, and may reach
    past the sample's end. A query for which nothing is chosen gets an output of 0.

    length: tokens L of the sample.
    block_size: rows of a block of queries, and keys of a block of keys.
    starts: int32 [Hq, nq, M], the first key of each block of keys chosen for a block of queries: >= 0, ascending, not
        overlapping, unused places (with any number) at the end. Blocks that begin after the last query cost time and
        change nothing. May be an expanded view, as where all heads choose alike.
    counts: int32 [Hq, nq], how many of the M places are used.
    columns: int32 [Hq, C] or None: single keys that every query attends to besides its blocks, >= 0, ascending, each
        once, -1 in unused places at the end. A pair of a query and a key that is in both counts once.
    band: (sink, window, dense_from) or None: then a pair in a chosen block counts only if j < sink, or i - j < window,
        or i >= dense_from. Not together with columns.

    Raises ValueError for shapes and types that do not fit; the numbers in the tensors are not looked at, as that would
    wait for the device.
    """

    length: int
    block_size: int
    starts: Tensor
    counts: Tensor
    columns: Tensor | None = None
    band: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        for name, number in (("length", self.length), ("block_size", self.block_size)):
            if not is_whole(number, 1):
                raise ValueError(f"{name}={number!r} is not valid: a whole number of at least 1")
        for name, tensor in (("starts", self.starts), ("counts", self.counts), ("columns", self.columns)):
            if tensor is not None and tensor.dtype != torch.int32:
                raise ValueError(f"{name} must be int32; got {tensor.dtype}")
        if self.starts.dim() != 3 or self.starts.shape[1] != self.blocks:
            raise ValueError(
                f"starts must be [Hq, {self.blocks}, M] for {self.length} tokens in blocks of {self.block_size}; "
                f"got {list(self.starts.shape)}"
            )
        if self.counts.shape != self.starts.shape[:2]:
            raise ValueError(f"counts must be {list(self.starts.shape[:2])}; got {list(self.counts.shape)}")
        if self.columns is not None and (self.columns.dim() != 2 or len(self.columns) != self.heads):
            raise ValueError(f"columns must be [{self.heads}, C]; got {list(self.columns.shape)}")
        if self.columns is not None and self.band is not None:
            raise ValueError("columns and band exclude each other: give one of them")

    @classmethod
    def of_blocks(
        cls,
        chosen: Tensor,
        block_size: int,
        length: int,
        *,
        columns: Tensor | None = None,
        band: tuple[int, int, int] | None = None,
    ) -> KeyChoice:
        """Of a map: chosen bool [Hq, nq, nq], True where a block of queries attends to an aligned block of keys; what
        lies after the queries' own block is dropped."""
        chosen = chosen.tril()
        rank = chosen.cumsum(-1, dtype=torch.int32)
        blocks = chosen.shape[-1]
        first = torch.arange(0, blocks * block_size, block_size, dtype=torch.int32, device=chosen.device)
        place = torch.where(chosen, rank - 1, blocks).long()  # what is not chosen goes to one place more, cut off
        starts = torch.zeros(*chosen.shape[:-1], blocks + 1, dtype=torch.int32, device=chosen.device)
        starts.scatter_(-1, place, first.expand(chosen.shape))
        counts = rank[..., -1].contiguous()
        return cls(length, block_size, starts[..., :blocks], counts, columns, band)

    @property
    def heads(self) -> int:
        return self.starts.shape[0]

    @property
    def blocks(self) -> int:
        """Blocks of queries."""
        return -(-self.length // self.block_size)

    def mask(self) -> Tensor:
        """bool [Hq, L, L]: whether the query (row) attends to the key (column). For small L."""
        return self.rows(0, self.blocks)

    def rows(self, first_block: int, last_block: int) -> Tensor:
        """The rows of `mask` of some blocks of queries, bool [Hq, rows, keys up to the last of these rows]."""
        chosen = self.by_block(first_block, last_block).repeat_interleave(self.block_size, 1)
        seen = self.seen(first_block * self.block_size, chosen.shape[-1])
        return chosen[:, : len(seen)] & seen

    def by_block(self, first_block: int, last_block: int) -> Tensor:
        """The keys of each of some blocks of queries before causality and band, bool [Hq, blocks, keys up to the last
        of these queries]."""
        end = min(last_block * self.block_size, self.length)
        chosen = self._in_blocks(first_block, last_block, end)
        return chosen if self.columns is None else chosen | self._is_column(end)[:, None]

    def seen(self, start: int, end: int) -> Tensor:
        """What causality and band leave of the keys before `end` to the queries start .. end - 1 of any head, bool
        [rows, end]."""
        query = torch.arange(start, end, device=self.starts.device)[:, None]
        key = torch.arange(end, device=query.device)
        seen = key <= query
        if self.band is not None:
            sink, window, dense_from = self.band
            seen &= (key < sink) | (query - key < window) | (query >= dense_from)
        return seen

    def _in_blocks(self, first_block: int, last_block: int, end: int) -> Tensor:
        """Whether each of the keys 0 .. end - 1 is in a chosen block of each block of queries, [Hq, blocks, end]."""
        starts = self._used_starts(slice(first_block, last_block))
        edge = torch.zeros(*starts.shape[:2], end + 1, dtype=torch.int8, device=starts.device)
        for edges, step in ((starts, 1), (starts + self.block_size, -1)):
            edges = edges.clamp_max(end).long()
            edge.scatter_add_(-1, edges, torch.full((), step, dtype=torch.int8, device=edge.device).expand(edges.shape))
        return edge[..., :end].cumsum(-1, dtype=torch.int8).bool()

    def _used_starts(self, blocks: slice = slice(None), heads: slice = slice(None)) -> Tensor:
        """Starts of some blocks of queries and heads, `length` in unused places: so ascending all through."""
        used = torch.arange(self.starts.shape[-1], device=self.starts.device) < self.counts[heads, blocks, None]
        return self.starts[heads, blocks].masked_fill(~used, self.length)

    def _is_column(self, end: int) -> Tensor:
        """Whether each of the keys 0 .. end - 1 is a column, [Hq, end]."""
        assert self.columns is not None
        found = torch.zeros(self.heads, end + 1, dtype=torch.bool, device=self.columns.device)
        place = self.columns.masked_fill(self.columns < 0, end).clamp_max(end).long()
        return found.scatter_(-1, place, True)[:, :end]

    def pairs(self) -> Tensor:
        """Pairs of a query and a key that are computed, int64 [Hq]; all causal pairs are L (L + 1) / 2."""
        alike = self.columns is None and self.starts.stride(0) == self.counts.stride(0) == 0  # views of one head's
        heads = range(1 if alike else self.heads)
        return torch.stack([self._pairs(head) for head in heads]).expand(self.heads)  # by head: [nq, M] at a time

    def _pairs(self, head: int) -> Tensor:
        starts = self._used_starts(heads=slice(head, head + 1))[0]
        small = self.length * self.block_size < 1 << 30  # then no number below passes 32 bits, which take half the time
        starts = starts if small else starts.long()
        first = torch.arange(0, self.length, self.block_size, dtype=starts.dtype, device=starts.device)[:, None]
        last = (first + self.block_size).clamp_max(self.length)
        seen = _staircase(first, last, starts, self.block_size)
        if self.band is not None:
            sink, window, dense_from = (min(number, self.length) for number in self.band)
            begin = starts.clamp_min(sink)
            width = (starts + self.block_size - begin).clamp_min(0)
            end = last.clamp_max(dense_from)
            seen = seen - _staircase(first.minimum(end), end, begin + window, width)
        total = seen.sum()
        if self.columns is not None:
            column = self.columns[head].to(starts.dtype)
            column = column.masked_fill(column < 0, self.length).expand(self.blocks, -1).contiguous()
            at = torch.searchsorted(starts, column, right=True)  # of the first block after the column
            start = pad(starts, (1, 0), value=-self.block_size).gather(-1, at)
            alone = column >= start + self.block_size
            total = total + ((last - column.maximum(first)).clamp_min(0) * alone).sum()
        return total


def _staircase(first: Tensor, last: Tensor, key: Tensor, width: Tensor | int) -> Tensor:
    """Pairs of the queries first .. last - 1 and those of the `width` keys from `key` on that they do not precede."""
    return _stairs(last - key, width) - _stairs(first - key, width)


def _stairs(rows: Tensor, width: Tensor | int) -> Tensor:
    """1 + 2 + ... of `rows` summands, none above width."""
    rows = rows.clamp_min(0)
    rising = rows.clamp_max(width) if isinstance(width, int) else rows.minimum(width)
    return rising * (rising + 1) // 2 + (rows - rising) * width
