"""VScan: tokens are kept by two scans of the vision tower, then again at a middle layer (arXiv 2505.22654).

As the authors' code for Qwen2.5-VL, with each temporal patch of a video as they have an image.
"""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from videonsa.methods.compression import FromTower, by_row, keep_highest
from videonsa.methods.tokens import last_token_scores, means_by_target, nearest, pick, top, whole
from videonsa.methods.tower import reading

WINDOW = 4  # tokens of a side, of the local scan


class VScan(FromTower):
    """Keeps floor(keep * n), at least one, of a temporal patch's n tokens, and from `layer` on floor(layer_keep * m),
    at least one, of the m that a prompt has left."""

    @classmethod
    def watch(cls, settings: Any, tower: Any) -> AbstractContextManager[dict[str, Tensor]]:
        """The attention that tokens receive in the first and the last block of full attention."""
        blocks = tower.fullatt_block_indexes
        return reading(tower, {"local": blocks[0], "global": blocks[-1]})

    @classmethod
    def watches(cls, settings: Any) -> Hashable:
        """The same at all settings: what is kept is chosen later."""
        return cls.__name__

    def merge(self, tokens: Tensor, seen: dict[str, Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Half by the local scan, window by window, the others by the global one. A token that is dropped joins the
        kept one that is nearest by the features themselves, which becomes the mean of its group."""
        count = tokens.shape[1]
        kept = two_scans(seen["local"], seen["global"], size, max(1, whole(self.settings.keep, count)))
        assigned = nearest(tokens, pick(tokens, kept))
        assigned = assigned.scatter(1, kept, torch.arange(kept.shape[1], device=kept.device).expand_as(kept))
        return kept, means_by_target(tokens, assigned, kept.shape[1])

    def enters(self, layer: int, hidden_states: Tensor, module: Any) -> Tensor | None:
        """At `layer` by the last token's attention, with this layer's own projections and no position encoding."""
        if layer != self.settings.layer:
            return super().enters(layer, hidden_states, module)
        with self.meter.choice(layer):
            attention, scores = module.self_attn, []
            for row, (places, _) in enumerate(by_row(self.batch)):
                states = module.input_layernorm(hidden_states[row, places])
                query = attention.q_proj(states[-1:]).unflatten(-1, (-1, attention.head_dim))
                key = attention.k_proj(states).unflatten(-1, (-1, attention.head_dim))
                scores.append(last_token_scores(query, key, attention.head_dim**-0.5))
            return keep_highest(self.batch, scores, lambda n: max(1, whole(self.settings.layer_keep, n)))


def two_scans(local: Tensor, everywhere: Tensor, size: tuple[int, int], count: int) -> Tensor:
    """Places [T, count] of the tokens to keep of T patches of size (height, width), by scores [T, height * width].

    count // 2 by `local`, from each window at most the share that falls to one if all give equally; the rest by
    `everywhere`.
    """
    height, width = size
    down, across = max(1, height // WINDOW), max(1, width // WINDOW)
    rows, columns = torch.arange(height, device=local.device), torch.arange(width, device=local.device)
    rows, columns = (
        (rows // WINDOW).clamp(max=down - 1),
        (columns // WINDOW).clamp(max=across - 1),
    )  # rests join the last
    window = (rows[:, None] * across + columns).flatten()
    most = -(-(count // 2) // (down * across))
    first = top(local.masked_fill(ranks_in_group(local, window) >= most, -torch.inf), count // 2)
    second = top(everywhere.scatter(1, first, -torch.inf), count - count // 2)
    return torch.cat([first, second], dim=1).sort(dim=1).values


def ranks_in_group(scores: Tensor, group: Tensor) -> Tensor:
    """How many tokens of its own group score higher than a token: scores [T, n], group [n] -> [T, n]."""
    by_score = scores.sort(dim=1, descending=True, stable=True).indices
    order = by_score.gather(1, group[by_score].sort(dim=1, stable=True).indices)  # group by group, the highest first
    sizes = group.bincount()
    ranks = torch.arange(len(group), device=group.device) - (sizes.cumsum(0) - sizes)[group[order]]
    return torch.empty_like(ranks).scatter_(1, order, ranks)
