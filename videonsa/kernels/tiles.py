"""Tiles of tokens in and out of memory: rows [*, heads, D] of one head (Triton)."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor


def rows_of(tensor: Tensor, rows: int) -> TensorDescriptor:
    """Descriptor of a contiguous [N, H, D] for tiles of `rows` rows of a head."""
    if tensor.data_ptr() % 16:  # as for a view into other memory; the copy engine wants 16 bytes
        tensor = tensor.clone()
    return TensorDescriptor.from_tensor(tensor.flatten(1), [rows, tensor.shape[2]])


@triton.jit
def load_rows(base, rows, live, head, HEADS: tl.constexpr, D: tl.constexpr):
    """Tile [rows, D] of a [*, HEADS, D] tensor; rows that are not live read as 0."""
    offset = (rows.to(tl.int64) * HEADS + head) * D
    return tl.load(base + offset[:, None] + tl.arange(0, D)[None, :], mask=live[:, None], other=0.0)


@triton.jit
def store_rows(base, tile, rows, live, head, HEADS: tl.constexpr, D: tl.constexpr):
    offset = (rows.to(tl.int64) * HEADS + head) * D
    tl.store(base + offset[:, None] + tl.arange(0, D)[None, :], tile.to(base.dtype.element_ty), mask=live[:, None])


@triton.jit
def load_tile(rows_, first, head, D: tl.constexpr):
    """Tile [rows, D] from row `first` on, of a head; `rows_` from `rows_of`. Rows past the tensor's end read as 0."""
    return rows_.load([first, head * D])
