"""From chosen diagonals to blocks of keys, as MInference merges them, all queries at once."""

from __future__ import annotations

import torch
from torch import Tensor


def blocks_of_diagonals(chosen: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """The blocks of keys that chosen diagonals touch, for each block of queries: (starts, counts) of a `KeyChoice`.

    A diagonal d = i - j touches, of a block of queries that ends before e, the block_size keys that end before e - d
    (or the first ones, where that is less). MInference walks from the first of these to the last and lays blocks, not
    overlapping and not aligned: where the next keys begin after the last block's end, a block of their own; else a
    block right behind the last one. (csrc/vertical_slash_index.cu of microsoft/MInference.)

    With u = e - (the last block's end), what is left, a step of that walk is u -> min(largest chosen d < u,
    u - block_size), from u = e until nothing is left. It does not depend on the block of queries, so the steps of all
    of them are found at once, by doubling: the path of 2n steps is that of n, and n more from its end.

    chosen: bool [Hq, L], at d the diagonal of the keys d before their query; the main one, d = 0, counts as chosen.
    """
    heads, length = chosen.shape
    blocks = -(-length // block_size)
    place = torch.arange(length, dtype=torch.int32, device=chosen.device)
    nearest = torch.where(chosen, place, 0).cummax(-1).values  # the largest chosen d <= place
    left = torch.arange(1, blocks * block_size + 1, dtype=torch.int32, device=chosen.device)
    step = nearest[:, (left - 1).clamp_max(length - 1).long()].minimum(left - block_size)

    # Nodes: u from -block_size on, so that index = u + block_size; those with u <= 0 are ends and lead to themselves.
    ends = torch.arange(block_size + 1, dtype=torch.int32, device=chosen.device).expand(heads, -1)
    leads = torch.cat([ends, step + block_size], dim=1)
    offset = torch.arange(heads, dtype=torch.int32, device=chosen.device)[:, None, None] * leads.shape[1] + block_size
    jump = (leads[:, None] + offset - block_size).flatten()
    first = torch.arange(1, blocks + 1, dtype=torch.int32, device=chosen.device)[:, None] * block_size  # u = e
    path = (first + offset).expand(heads, blocks, 1)
    path = _follow(jump, path)
    while bool((path[..., -1:] > offset).any()):
        path = torch.cat([path, _follow(jump, path)], dim=-1)
        jump = _follow(jump, jump)

    left_after = path - offset
    left_before = torch.cat([first.expand(heads, blocks, 1), left_after[..., :-1]], dim=-1)
    return first - block_size - left_after, (left_before > 0).sum(-1, dtype=torch.int32)


def _follow(jump: Tensor, nodes: Tensor) -> Tensor:
    return jump.index_select(0, nodes.flatten()).view(nodes.shape)
