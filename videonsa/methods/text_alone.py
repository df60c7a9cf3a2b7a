"""A control: no vision token before layer 0; what a question's words tell by themselves."""

from __future__ import annotations

from torch import Tensor

from videonsa.methods.compression import Compression, keeping


class TextAlone(Compression):
    """Text stays, at the positions that it has beside what is shown."""

    def compress(self, embeds: Tensor) -> Tensor:
        """Embeddings stay what they are."""
        self.entering = keeping(self.batch, [])
        return embeds
