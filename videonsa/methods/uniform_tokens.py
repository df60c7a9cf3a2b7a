"""A control: vision tokens evenly spaced in the order of the prompt, before layer 0."""

from __future__ import annotations

from torch import Tensor

from videonsa.methods.compression import Compression, by_row, keeping
from videonsa.methods.tokens import evenly, rounded


class UniformTokens(Compression):
    """round(keep * n), at least one, of a prompt's n vision tokens.

    Where the spacing divides the tokens of a row or a frame, the same places are kept in each.
    """

    def compress(self, embeds: Tensor) -> Tensor:
        """Embeddings stay what they are."""
        kept = []
        for places, is_vision in by_row(self.batch):
            vision = places[is_vision]
            count = rounded(self.settings.keep, len(vision))
            kept.append(vision[evenly(count, len(vision)).to(vision.device)])
        self.entering = keeping(self.batch, kept)
        return embeds
