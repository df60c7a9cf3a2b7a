"""FlexPrefill: each head keeps a share gamma of the attention, by a pattern that the last block of queries decides.

Source: "FlexPrefill" (arXiv 2502.20766), and `get_active_blocks` of ByteDance-Seed/FlexPrefill.
"""

from __future__ import annotations

import torch
from torch import Tensor

from videonsa.kernels.key_choice import KeyChoice
from videonsa.methods.estimate import (
    best,
    block_means,
    block_sums,
    diagonal_sums,
    fewest,
    last_attention,
    products,
)
from videonsa.methods.settings import FlexPrefillSettings
from videonsa.methods.sparse import SparsePrefill


class FlexPrefill(SparsePrefill):
    """`flexprefill_choice` by its settings, the same in every layer."""

    settings: FlexPrefillSettings

    def choose(self, query: Tensor, key: Tensor, scale: float, layer: int) -> KeyChoice | None:
        asked = self.settings
        return flexprefill_choice(
            query,
            key,
            scale,
            gamma=asked.gamma,
            tau=asked.tau,
            min_budget=asked.min_budget,
            max_budget=asked.max_budget,
            block_size=asked.block_size,
        )


def flexprefill_choice(
    query: Tensor,
    key: Tensor,
    scale: float,
    *,
    gamma: float = 0.9,
    tau: float = 0.1,
    min_budget: int = 1024,
    max_budget: int | None = None,
    block_size: int = 128,
) -> KeyChoice | None:
    """Blocks that hold a share `gamma` of the attention, by query head.

    The definition looks at the end of the prompt: the last block_size queries decide the pattern of a head, and, of one
    that is vertical and slash, the blocks of all queries.

    Args:
        query: [L, Hq, D], key: [L, Hkv, D], position encoding applied.
        scale: of their products.
        gamma: share of the attention to keep; 1 keeps everything.
        tau: a head is query aware where the estimate by block means is nearer than this to the last queries' attention,
            as the square root of the Jensen-Shannon divergence (natural logarithm, so at most 0.83).
        min_budget, max_budget: tokens in the columns of blocks, and in the diagonals of blocks, of a head.

    None, everything, where L is at most two blocks or min_budget, in whole blocks.
    """
    length, heads = query.shape[:2]
    least = -(-min_budget // block_size)
    blocks = -(-length // block_size)
    most = blocks if max_budget is None else min(blocks, -(-max_budget // block_size))
    if gamma >= 1 or length <= max(2, least) * block_size:
        return None
    key_means = block_means(key, block_size)
    group = heads // key.shape[1]
    last_means = query[-block_size:].float().mean(0).split(group)
    columns, diagonals, estimates = [], [], []
    for head, attention in enumerate(last_attention(query, key, block_size, scale)):
        columns.append(attention.mean(1))
        diagonals.append(diagonal_sums(attention) / block_size)
        estimates.append((products(last_means[head], key_means[:, head]) * scale).softmax(-1))
    column, diagonal = torch.cat(columns), torch.cat(diagonals)  # of all heads at once: a third of the launches
    by_block = block_sums(column, block_size)
    query_aware = distance(by_block, torch.cat(estimates)) < tau
    sizes = [_blocks_to_cover(mass, gamma, block_size) for mass in (column, diagonal)]
    wide, steep = (size.clamp_min(least).masked_fill(query_aware, least).clamp_max(most) for size in sizes)
    chosen = vertical_slash_blocks(by_block, _by_block_diagonal(diagonal, block_size), wide, steep)
    for number in query_aware.nonzero()[:, 0].tolist():
        query_means = block_means(query[:, number : number + 1], block_size)[:, 0]
        scores = products(query_means, key_means[:, number // group]) * scale
        chosen[number] |= query_aware_blocks(scores, gamma)
    return KeyChoice.of_blocks(chosen, block_size, length)


def distance(left: Tensor, right: Tensor) -> Tensor:
    """Square root of the Jensen-Shannon divergence of distributions [..., N], in natural units: [...]."""
    middle = (left + right) / 2
    parts = [torch.special.xlogy(one, one / middle).where(one > 0, 0).sum(-1) for one in (left, right)]
    return (sum(parts) / 2).clamp_min(0).sqrt()


def _blocks_to_cover(mass: Tensor, gamma: float, block_size: int) -> Tensor:
    """[G, L] -> [G]: blocks for as many tokens as hold a share gamma, always rounded up to more than they need."""
    return fewest(mass, mass.new_full((len(mass), 1), gamma)).sum(-1) // block_size + 1


def _by_block_diagonal(diagonal: Tensor, block_size: int) -> Tensor:
    """Diagonals [G, L] to diagonals of blocks [G, blocks]; blocks are counted from the farthest on, as keys are."""
    return block_sums(diagonal.flip(-1), block_size).flip(-1)


def vertical_slash_blocks(columns: Tensor, diagonals: Tensor, wide: Tensor, steep: Tensor) -> Tensor:
    """The best columns and diagonals of blocks, always the first: scores [G, n], counts [G] -> bool [G, n, n]."""
    columns, diagonals = columns.clone(), diagonals.clone()
    columns[:, 0] = diagonals[:, 0] = torch.inf
    place = torch.arange(columns.shape[-1], device=columns.device)
    back = (place[:, None] - place).clamp_min(0)
    return best(columns, wide)[:, None] | best(diagonals, steep)[:, back]


def query_aware_blocks(scores: Tensor, gamma: float) -> Tensor:
    """The fewest blocks of the whole map [n, n] that hold a share gamma of the attention of all blocks of queries."""
    later = torch.ones_like(scores, dtype=torch.bool).triu(1)
    mass = scores.masked_fill(later, -torch.inf).softmax(-1).flatten()
    return fewest(mass, mass.new_full((1,), gamma * len(scores))).view(scores.shape)
