"""A control: vision tokens chosen at random, before layer 0."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from videonsa.methods.compression import Compression, by_row, find_media, keeping
from videonsa.methods.tokens import at_random, rounded, seed_of
from videonsa.methods.tower import reading


class RandomTokens(Compression):
    """round(keep * n), at least one, of a prompt's n vision tokens, drawn by what the question holds."""

    @classmethod
    def watch(cls, settings: Any, tower: Any) -> AbstractContextManager[dict[str, Tensor]]:
        """A value of each token's pixels: the draw is by the content."""
        return reading(tower, {})

    def compress(self, embeds: Tensor) -> Tensor:
        """Embeddings stay what they are."""
        content: list[list[Tensor]] = [[] for _ in embeds]
        for media in find_media(self.batch, self.items):
            content[media.row].append(media.item.seen["pixels"])
        kept = []
        for row, (places, is_vision) in enumerate(by_row(self.batch)):
            if self.batch.input_ids is not None:
                content[row].append(self.batch.input_ids[row, places])
            vision = places[is_vision]
            count = rounded(self.settings.keep, len(vision))
            chosen = at_random(count, len(vision), seed_of(self.settings.seed, content[row]))
            kept.append(vision[chosen.to(vision.device)])
        self.entering = keeping(self.batch, kept)
        return embeds
