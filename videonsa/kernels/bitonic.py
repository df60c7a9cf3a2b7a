"""The sorting network of the release's block choice, so that ties fall as they fell there.

The release ranks blocks with a bitonic network (Batcher 1968) over groups of W = block_size columns. Such a network is
not stable: which of several equal blocks comes first depends on its wiring alone, so one that is wired alike gives the
same order. The groups are merged in turn: the better half of what is kept so far with the better half of the next one.
So as soon as there is a second group, at most W/2 blocks of one group survive, also when more are asked for.

Shape suffixes: R rows (one query of one key/value head each), W columns of a group, I groups after the first, J blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor


def network_topk(importance_RJ: Tensor, own_R: Tensor, count: int, width: int) -> Tensor:
    """The blocks that the network ranks first, int64 [R, count], best first; -1 where a row has fewer.

    importance_RJ: no NaN. Columns after own_R, the block that holds the query, are no candidates and count as 0.
    count, width: powers of two with count <= width.
    """
    blocks = importance_RJ.shape[1]
    groups = -(-blocks // width)
    padded_RJ = torch.nn.functional.pad(importance_RJ, (0, groups * width - blocks))
    column_J = torch.arange(groups * width, device=importance_RJ.device)
    candidate_RJ = column_J <= own_R[:, None]
    worth_RJ = padded_RJ.masked_fill(~candidate_RJ, 0.0)
    label_RJ = (column_J + 1) * candidate_RJ  # 0 stands for "no block"
    best_RW, label_RW = sort_rows(worth_RJ[:, :width], label_RJ[:, :width], descending=True)
    worth_RIW, label_RIW = (tensor[:, width:].unflatten(1, (-1, width)) for tensor in (worth_RJ, label_RJ))
    worth_RIW, label_RIW = sort_rows(worth_RIW, label_RIW, descending=False)
    half, down_W = width // 2, torch.ones(width, dtype=torch.bool, device=own_R.device)
    for group in range(1, groups):
        joined_RW = torch.cat([best_RW[:, :half], worth_RIW[:, group - 1, half:]], dim=1)
        joined_label_RW = torch.cat([label_RW[:, :half], label_RIW[:, group - 1, half:]], dim=1)
        merged_RW, merged_label_RW = _merge(joined_RW, joined_label_RW, _log2(width), down_W)
        reached_R1 = (own_R >= group * width)[:, None]
        best_RW = torch.where(reached_R1, merged_RW, best_RW)
        label_RW = torch.where(reached_R1, merged_label_RW, label_RW)
    return label_RW[:, :count] - 1


def sort_rows(worth: Tensor, label: Tensor, descending: bool) -> tuple[Tensor, Tensor]:
    """Both tensors [..., W] in the order in which the network leaves worth; W is a power of two."""
    stages = _log2(worth.shape[-1])
    column_W = torch.arange(worth.shape[-1], device=worth.device)
    for stage in range(1, stages + 1):
        alternating_W = (column_W >> stage) & 1 == 1  # runs of 2^stage columns: up, down, up, ...
        down_W = alternating_W if stage < stages else torch.full_like(alternating_W, descending)
        worth, label = _merge(worth, label, stage, down_W)
    return worth, label


def _merge(worth: Tensor, label: Tensor, stage: int, down_W: Tensor) -> tuple[Tensor, Tensor]:
    """Merge bitonic runs of 2^stage columns: compare columns 2^(stage-1), ..., 2, 1 apart."""
    column_W = torch.arange(worth.shape[-1], device=worth.device)
    for distance in (1 << exponent for exponent in reversed(range(stage))):
        partner_W = column_W ^ distance
        other, other_label = worth[..., partner_W], label[..., partner_W]
        left_is_greater = torch.where(column_W < partner_W, worth > other, other > worth)
        # An ascending pair swaps when left > right; a descending one unless left > right, so equals swap there.
        swap = left_is_greater != down_W
        worth, label = torch.where(swap, other, worth), torch.where(swap, other_label, label)
    return worth, label


def _log2(power_of_two: int) -> int:
    return power_of_two.bit_length() - 1
