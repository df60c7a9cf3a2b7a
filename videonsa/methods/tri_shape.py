"""Tri-Shape: a sink, a window, and the last queries dense: a choice that looks at no content.

Source: "SCBench" (arXiv 2412.10319), and `tri_shape_kernel` of microsoft/MInference, whose edges these are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from videonsa.kernels.key_choice import KeyChoice
from videonsa.methods.settings import TriShapeSettings
from videonsa.methods.sparse import SparsePrefill

BLOCK_SIZE = 128  # of the kernel; what is chosen does not depend on it


class TriShape(SparsePrefill):
    """`tri_shape_choice` by its settings, the same in every layer."""

    settings: TriShapeSettings

    def choose(self, query: Tensor, key: Tensor, scale: float, layer: int) -> KeyChoice | None:
        asked = self.settings
        length, heads = query.shape[:2]
        return tri_shape_choice(
            length, heads, asked.n_init, asked.n_local, asked.n_last, BLOCK_SIZE, device=query.device
        )


def tri_shape_choice(
    length: int, heads: int, n_init: int, n_local: int, n_last: int, block_size: int, device: torch.device
) -> KeyChoice | None:
    """Key j of query i where j < n_init, or i - j < n_local, or i is one of the last n_last queries; the same by head.

    At most length - 1 queries are last ones. None, everything, where the tokens before them fit the window.
    """
    dense_from = length - min(n_last, length - 1)
    if dense_from <= n_local:
        return None
    first = torch.arange(0, length, block_size, device=device)  # of each block
    last = (first + block_size).clamp_max(length) - 1
    in_window = first[:, None] - last < n_local
    chosen = in_window | (first < n_init) | (last >= dense_from)[:, None]
    alike = KeyChoice.of_blocks(chosen[None], block_size, length)
    starts, counts = alike.starts.expand(heads, -1, -1), alike.counts.expand(heads, -1)
    return KeyChoice(length, block_size, starts, counts, band=(n_init, n_local, dense_from))
