"""MInference: by head, the columns and the diagonals that the last queries attend to most.

Source: "MInference 1.0" (arXiv 2407.02490), and `vertical_and_slash_kernel` of microsoft/MInference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from videonsa.kernels.key_choice import KeyChoice
from videonsa.methods.diagonals import blocks_of_diagonals
from videonsa.methods.estimate import best, diagonal_sums, last_attention
from videonsa.methods.head_table import UNIFORM, read_table
from videonsa.methods.settings import MInferenceSettings
from videonsa.methods.sparse import SparsePrefill


class MInference(SparsePrefill):
    """`vertical_slash_choice` with each head's columns and diagonals from a table, or the same for all heads."""

    settings: MInferenceSettings

    def __init__(self, settings: MInferenceSettings, config: Any) -> None:
        super().__init__(settings, config)
        self.table = None if settings.table == UNIFORM else read_table(settings.table)

    def choose(self, query: Tensor, key: Tensor, scale: float, layer: int) -> KeyChoice | None:
        asked, heads = self.settings, query.shape[1]
        vertical, slash = [asked.vertical] * heads, [asked.slash] * heads
        if self.table is not None:
            vertical, slash = self.table.layer(layer)
        return vertical_slash_choice(query, key, scale, vertical, slash, **self.settings.sizes())


def vertical_slash_choice(
    query: Tensor,
    key: Tensor,
    scale: float,
    vertical: Sequence[int],
    slash: Sequence[int],
    *,
    last_queries: int = 64,
    first_columns: int = 30,
    recent_diagonals: int = 100,
    least_diagonals: int = 50,
    block_size: int = 64,
) -> KeyChoice | None:
    """Columns and diagonals that the sample's last queries give the most attention, by query head.

    The definition looks at the end of the prompt: the last queries' choice serves all queries before them. A diagonal
    becomes the blocks of keys that it touches (see `blocks_of_diagonals`); a column is one key, for all queries.

    Args:
        query: [L, Hq, D], key: [L, Hkv, D], position encoding applied.
        scale: of their products.
        vertical, slash: [Hq] columns and diagonals of each head. Where one is at least L, the head is dense; where all
            heads are, the choice is None, everything.
        last_queries: that are looked at.
        first_columns: always chosen, and a head has no fewer columns.
        recent_diagonals: the nearest ones, which come first.
        least_diagonals: a head has no fewer.
    """
    length = len(query)
    column_counts = [min(length, max(count, first_columns)) for count in vertical]
    diagonal_counts = [min(length, max(count, least_diagonals)) for count in slash]
    is_dense = [length in counts for counts in zip(column_counts, diagonal_counts, strict=True)]
    if all(is_dense):
        return None
    columns, diagonals = [], []
    for attention in last_attention(query, key, min(last_queries, length), scale):
        columns.append(attention.sum(1))
        diagonals.append(diagonal_sums(attention))
    column_score, diagonal_score = torch.cat(columns), torch.cat(diagonals)
    column_score[:, :first_columns] = torch.inf
    diagonal_score[:, :recent_diagonals] = torch.inf

    by_columns, by_diagonals, dense = torch.tensor(
        [column_counts, diagonal_counts, is_dense], device=query.device
    )  # one transfer
    all_of_head = dense.bool()[:, None]
    starts, used = blocks_of_diagonals(best(diagonal_score, by_diagonals) | all_of_head, block_size)
    single = best(column_score, by_columns) & ~all_of_head
    return KeyChoice(length, block_size, starts, used, columns=_places(single, max(column_counts)))


def _places(chosen: Tensor, most: int) -> Tensor:
    """The places of at most `most` True of each row, ascending, then -1: bool [H, L] -> int32 [H, most]."""
    length = chosen.shape[-1]
    place = torch.arange(length, dtype=torch.int32, device=chosen.device)
    first = torch.where(chosen, place, length).sort(-1).values[:, :most]
    return first.masked_fill_(first == length, -1)
