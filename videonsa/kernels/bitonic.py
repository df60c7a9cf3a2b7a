"""The sorting network of the release's block choice, so that ties fall as they fell there.

The release ranks blocks with a bitonic network (Batcher 1968) over groups of W = block_size columns. Such a network is
not stable: which of several equal blocks comes first depends on its wiring alone, so one that is wired alike gives the
same order. The groups are merged in turn: the better half of what is kept so far with the better half of the next one.
So as soon as there is a second group, at most W/2 blocks of one group survive, also when more are asked for.

Shape suffixes: R rows (one query of one key/value head each), W columns of a group, J blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor


def is_power_of_two(number: int) -> bool:
    """Whether number is 1, 2, 4, ..."""
    return number > 0 and number & (number - 1) == 0


def next_power_of_two(number: int) -> int:
    """The smallest power of two that is at least number (number >= 1)."""
    return 1 << (number - 1).bit_length()


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
    for group in range(1, groups):
        part = slice(group * width, (group + 1) * width)
        merged = _merge_group(best_RW, label_RW, worth_RJ[:, part], label_RJ[:, part])
        reached_R1 = (own_R >= group * width)[:, None]
        best_RW = torch.where(reached_R1, merged[0], best_RW)
        label_RW = torch.where(reached_R1, merged[1], label_RW)
    return label_RW[:, :count] - 1


def sort_rows(worth_RW: Tensor, label_RW: Tensor, descending: bool) -> tuple[Tensor, Tensor]:
    """Both tensors in the order in which the network leaves worth_RW; W is a power of two."""
    stages = worth_RW.shape[1].bit_length() - 1
    column_W = torch.arange(worth_RW.shape[1], device=worth_RW.device)
    for stage in range(1, stages + 1):
        alternating_W = (column_W >> stage) & 1 == 1  # runs of 2^stage columns: up, down, up, ...
        down_W = alternating_W if stage < stages else torch.full_like(alternating_W, descending)
        worth_RW, label_RW = _merge(worth_RW, label_RW, stage, down_W)
    return worth_RW, label_RW


def _merge_group(best_RW: Tensor, label_RW: Tensor, worth_RW: Tensor, new_label_RW: Tensor) -> tuple[Tensor, Tensor]:
    """Keep the first half of the ranking so far and the better half of a new group, ranked together."""
    half = best_RW.shape[1] // 2
    new_RW, new_label_RW = sort_rows(worth_RW, new_label_RW, descending=False)
    joined_RW = torch.cat([best_RW[:, :half], new_RW[:, half:]], dim=1)
    joined_label_RW = torch.cat([label_RW[:, :half], new_label_RW[:, half:]], dim=1)
    down_W = torch.ones(best_RW.shape[1], dtype=torch.bool, device=best_RW.device)
    return _merge(joined_RW, joined_label_RW, best_RW.shape[1].bit_length() - 1, down_W)


def _merge(worth_RW: Tensor, label_RW: Tensor, stage: int, down_W: Tensor) -> tuple[Tensor, Tensor]:
    """Merge bitonic runs of 2^stage columns: compare columns 2^(stage-1), ..., 2, 1 apart."""
    for exponent in reversed(range(stage)):
        shape = (worth_RW.shape[0], -1, 2, 1 << exponent)
        left, right = worth_RW.view(shape).unbind(2)
        left_label, right_label = label_RW.view(shape).unbind(2)
        # An ascending pair swaps when left > right; a descending one unless left > right, so equals swap there.
        swap = (left > right) != down_W.view(shape[1:]).unbind(1)[0]
        worth_RW = torch.stack([torch.where(swap, right, left), torch.where(swap, left, right)], 2).flatten(1)
        label_RW = torch.stack(
            [torch.where(swap, right_label, left_label), torch.where(swap, left_label, right_label)], 2
        ).flatten(1)
    return worth_RW, label_RW
