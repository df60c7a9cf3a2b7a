"""As tiling.py, of the kernels that only sparse prefills run: a file of its own, so that a change here leaves the
identity of every cell of NSA, and of the weights trained with it, as it is."""

from __future__ import annotations

from videonsa.kernels.tiling import Tile


def attention(block_size: int, head_size: int, item: int) -> Tile:
    """Rows and columns divide the block; item: bytes of a number. Large tiles lie in shared memory seven times over."""
    if block_size == 128 and head_size * item <= 256:
        return Tile(128, 128, 8, 3)
    side = min(block_size, 64)
    return Tile(side, side, 4, 2)


def columns() -> Tile:
    """Of the search for the columns that no block holds: columns at a time; rows and stages are unused."""
    return Tile(1, 1024, 4, 1)


def antidiagonals(per_block: int) -> Tile:
    """per_block: groups of a block, which divide the columns."""
    return Tile(128, max(128, per_block), 8, 3)
