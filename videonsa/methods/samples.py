"""Which sample each token of a batch belongs to: a row holds one, or several packed one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """The S samples of a batch [B, L], in the order of their tokens."""

    index: Tensor  # [B, L] the sample of each token, 0 .. S - 1; of padding, that of the token before it
    rows: tuple[int, ...]  # [S]
    starts: tuple[int, ...]  # [S] position in its row of each sample's first token
    have_holes: bool  # whether there is padding between two tokens of a sample

    def __len__(self) -> int:
        return len(self.rows)

    def count(self, chosen: Tensor) -> Tensor:
        """How many tokens of each sample are chosen: bool [B, L] -> [S]."""
        return self.index[chosen].bincount(minlength=len(self))


def find_samples(is_token: Tensor, text_positions: Tensor | None = None) -> Samples:
    """The samples of a batch: is_token bool [B, L]; text_positions [B, L] or [1, L], or None where a row is a sample.

    As in stock Qwen2.5-VL a sample begins where the text positions do not go on by one from one token to the next.
    Padding is passed over, whether the positions count it or not.
    """
    batch, length = is_token.shape
    index = torch.zeros_like(is_token, dtype=torch.long)
    if text_positions is not None:
        index = _begins(is_token, text_positions.expand(batch, -1)).cumsum(dim=1)
    per_row = index[:, -1] + 1
    index = index + (per_row.cumsum(0) - per_row)[:, None]
    rows = torch.arange(batch, device=index.device).repeat_interleave(per_row)

    tokens = is_token.flatten().nonzero().squeeze(1)
    counts = index.flatten()[tokens].bincount(minlength=len(rows))
    ends = counts.cumsum(0)
    first, last = (tokens[end.clamp(0, len(tokens) - 1)] for end in (ends - counts, ends - 1))
    starts = torch.where(counts > 0, first - rows * length, 0)
    holes = (counts > 0) & (last - first + 1 > counts)
    return Samples(index, tuple(rows.tolist()), tuple(starts.tolist()), bool(holes.any()))


def _begins(is_token: Tensor, positions: Tensor) -> Tensor:
    """Whether a sample, not the row's first, begins at each token: bool [B, L]."""
    place = torch.arange(is_token.shape[1], device=is_token.device).expand_as(is_token)
    token_before = torch.where(is_token, place, -1).cummax(dim=1).values.roll(1, dims=1)
    token_before[:, 0] = -1
    step = positions - positions.gather(1, token_before.clamp_min(0))
    goes_on = (step == 1) | (step == place - token_before)
    return is_token & (token_before >= 0) & ~goes_on


def text_positions(position_ids: Tensor | None, attention_mask: Tensor | None) -> Tensor | None:
    """Each token's place in its sample, [B, L], from a forward's position ids; None where they do not hold it.

    Raises ValueError for packed rows whose position ids do not say where a text ends and the next begins.
    """
    if position_ids is None:
        return None
    if position_ids.dim() == 3 and len(position_ids) == 4:
        return position_ids[0]
    axes = position_ids[None] if position_ids.dim() == 2 else position_ids
    at_start = (axes == 0).all(dim=0)
    is_token = torch.ones_like(at_start) if attention_mask is None else attention_mask.bool()
    if bool((at_start & is_token & (is_token.cumsum(dim=1) > 1)).any()):
        raise ValueError(
            f"position_ids {list(position_ids.shape)} that start again pack several samples into a row: put the text "
            "positions before the three axes, [4, B, L], which say where each sample begins"
        )
    return None


def are_packed(position_ids: Tensor | None, attention_mask: Any = None) -> bool:
    """Whether position ids say that a row holds several samples."""
    if position_ids is None or position_ids.dim() != 3 or len(position_ids) != 4:
        return False
    numbers = position_ids[0]
    padded = isinstance(attention_mask, Tensor) and attention_mask.dim() == 2
    is_token = attention_mask.bool() if padded else torch.ones_like(numbers, dtype=torch.bool)
    return bool(_begins(is_token, numbers.expand_as(is_token)).any())
