"""VisionZip: dominant tokens stay, the others are merged into few contextual ones (arXiv 2412.04467).

As the authors' code for Qwen2.5-VL, with each temporal patch of a video as they have an image: scores and keys are
those of the tower's last block of full attention, a contextual token is its target plus the mean of the group.
"""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from videonsa.methods.compression import FromTower
from videonsa.methods.tokens import means_by_target, nearest, others, pick, top, whole
from videonsa.methods.tower import reading


class VisionZip(FromTower):
    """Keeps floor(dominant * n) and floor(contextual * n), at least one, of a temporal patch's n tokens."""

    @classmethod
    def watch(cls, settings: Any, tower: Any) -> AbstractContextManager[dict[str, Tensor]]:
        """The attention that tokens receive, and their keys."""
        return reading(tower, {"last": tower.fullatt_block_indexes[-1]})

    @classmethod
    def watches(cls, settings: Any) -> Hashable:
        """The same at all settings: what is kept is chosen later."""
        return cls.__name__

    def merge(self, tokens: Tensor, seen: dict[str, Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Targets are evenly spaced among the tokens that are not dominant; the rest joins the nearest by its keys."""
        count = tokens.shape[1]
        dominant = top(seen["last"], whole(self.settings.dominant, count))
        rest = others(dominant, count)
        contextual = min(max(whole(self.settings.contextual, count), 1), rest.shape[1])
        if not contextual:
            return dominant, tokens
        spacing = rest.shape[1] // contextual
        is_target = torch.zeros(rest.shape[1], dtype=torch.bool, device=rest.device)
        is_target[: contextual * spacing : spacing] = True
        targets, joining = rest[:, is_target], rest[:, ~is_target]
        assigned = nearest(pick(seen["last.keys"], joining), pick(seen["last.keys"], targets))
        joined = means_by_target(pick(tokens, joining), assigned, contextual)
        kept = torch.cat([dominant, targets], dim=1)
        merged = torch.cat([pick(tokens, dominant).float(), pick(tokens, targets).float() + joined], dim=1)
        order = kept.argsort(dim=1)
        return kept.gather(1, order), pick(merged, order)
