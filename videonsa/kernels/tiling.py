"""Tile sizes and launch settings, the only place that knows them; chosen by measurement (benchmarks/notes.md)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from videonsa.limits import TRITON_BLOCK_SIZES, next_power_of_two

WORKSPACE_BYTES = 4 << 30  # of one temporary buffer that grows with queries x blocks; longer inputs go in chunks

MOST_ELEMENTS = 1 << 20  # of a tensor in a kernel; a query's partial results of one head are one

HEAD_SIZES = (16, 32, 64, 128)


def serves(head_size: int, block_size: int) -> bool:
    """Whether the Triton backend takes such heads and blocks."""
    return head_size in HEAD_SIZES and block_size in TRITON_BLOCK_SIZES


@dataclass(frozen=True)
class Tile:
    """Queries and keys of a tile; warps and pipeline stages as Triton counts them."""

    rows: int
    columns: int
    warps: int
    stages: int

    @property
    def options(self) -> dict[str, int]:
        return {"num_warps": self.warps, "num_stages": self.stages}


def flash_forward(head_size: int, window: int = 0) -> Tile:
    """Small tiles waste less of a window's two edges."""
    if window:
        return Tile(64, 32, 4, 2)
    return Tile(64, 64, 4, 3) if head_size > 64 else Tile(128, 64, 4, 3)


def flash_query_gradient() -> Tile:
    return Tile(64, 64, 4, 2)


def flash_key_gradient() -> Tile:
    return Tile(32, 64, 4, 3)


def importance() -> Tile:
    return Tile(64, 128, 4, 3)


SELECTION = "measured"  # or, for every length, "masked" or "listed" (`selection`)
LISTED_COST = 3.0  # of a pair of a query and a chosen key, by lists, where one that is scored and masked costs 1
LISTED_GRADIENT_COST = 1.5


@contextmanager
def selection(way: str) -> Iterator[None]:
    """One way for every length, forward and backward: what checks the kernels at small sizes wants."""
    global SELECTION
    before, SELECTION = SELECTION, way
    try:
        yield
    finally:
        SELECTION = before


def masks(longest: int, chosen: int, *, backward: bool = False) -> bool:
    """Whether queries score every key and mask what they did not choose (masked.py), or go by lists (selected.py).

    longest: tokens of the longest sequence; chosen: that a query chooses, where there are so many. Up to 1,024 tokens
    launches cost more than arithmetic.
    """
    if SELECTION != "measured":
        return SELECTION == "masked"
    listed = chosen * longest - chosen * chosen / 2
    cost = LISTED_GRADIENT_COST if backward else LISTED_COST
    return longest <= max(chosen, 1024) or longest * longest / 2 <= cost * listed


def keeps_window(tokens: int) -> bool:
    """Whether the window's output waits for the backward pass; computed anew, it spares 7 KiB a token (28 heads of
    128)."""
    return tokens <= LONG


def masked_forward(head_size: int) -> Tile:
    return Tile(64, 64, 4, 3)


def masked_query_gradient() -> Tile:
    return Tile(64, 64, 4, 2)


def masked_key_gradient() -> Tile:
    return Tile(64, 64, 4, 2)


def heads_per_split(programs: int, group: int) -> int:
    """Query heads of a group that one program of the keys' gradient sums: all, or so few that the machine is full."""
    return max(1, min(group, programs * group // 512))


LIST_RUN = 512  # entries of a block's list that one program takes at most


def selection_forward() -> Tile:
    """columns is unused here and in selection_gradient: a tile of keys is one block."""
    return Tile(64, 0, 4, 5)


def selection_gradient(block_size: int) -> Tile:
    """A block of 128 has sums that fill the registers of 8 warps."""
    return Tile(32, 0, 8 if block_size > 64 else 4, 3)


def rows_per_split(queries: int) -> int:
    """Of a sequence's queries, for each program that sums the gradient of compressed keys: at most 32 splits."""
    return max(256, -(-queries // 32 // 64) * 64)


FORWARD_CHUNK = 16384  # queries; each list pays once for its block's keys and values


LONG = 65536  # tokens, beyond which memory is short: 128K tokens take 9 GiB in all


def backward_chunk(tokens: int) -> int:
    """As FORWARD_CHUNK; there the partial results come on top of everything saved."""
    return 16384 if tokens <= LONG else 11264


def prefix_splits(programs: int) -> int:
    """Runs of queries that a block of keys is given to, where all its queries are in one short piece of a sequence: so
    many that the machine is full."""
    return min(8, max(1, 1024 // programs))


def chunk_tokens(most: int, heads_size: Sequence[int], kv_heads: int, block_count: int, blocks: int, item: int) -> int:
    """Queries handled at a time: at most `most`, and so few that each temporary buffer stays below WORKSPACE_BYTES, but
    1,024 at the least.

    heads_size: query heads and head size; blocks: of the longest sequence; item: bytes of a number.
    """
    heads, size = heads_size
    partial = heads * block_count * (size * item + 4)
    importance = kv_heads * blocks * 4
    tokens = WORKSPACE_BYTES // max(partial, importance)
    return max(1024, min(most, tokens // 1024 * 1024))


def choose_by_peaks(columns: int, count: int) -> bool:
    """Whether the choice of `count` of `columns` blocks reads the peaks first: where that spares half of the row."""
    return columns >= 32 * next_power_of_two(count)


def choice_warps(columns: int) -> int:
    """A row of importances lies in the registers of one program: at most 64 a thread."""
    return min(32, max(1, columns // 2048))


def merge_warps(elements: int) -> int:
    """For the partial results of one query and head, all in registers: about 128 a thread at most."""
    return min(32, max(1, elements // 4096))
