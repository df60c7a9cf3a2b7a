"""FastV: after layer K-1 the vision tokens stay that the last text token attends to most (arXiv 2403.06764)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from videonsa.methods.compression import Compression, by_row, keep_highest
from videonsa.methods.contract import LayerCall
from videonsa.methods.tokens import last_token_scores, rounded


class FastV(Compression):
    """All images and videos of a prompt are one pool. Layers below `layer` see all tokens, the others those kept."""

    def attend(self, call: LayerCall) -> Tensor:
        """Dense; in layer K-1 the attention of each prompt's last token is looked at."""
        if call.layer == self.settings.layer - 1:
            with self.meter.choice(call.layer):
                self.scores = [
                    last_token_scores(call.query[row, places[-1:]], call.key[row, places], call.scale)
                    for row, (places, _) in enumerate(by_row(self.batch))
                ]
        return super().attend(call)

    def enters(self, layer: int, hidden_states: Tensor, module: Any) -> Tensor | None:
        """From `layer` on round(keep * n), at least one, of n vision tokens."""
        if layer != self.settings.layer:
            return None
        with self.meter.choice(layer):
            return keep_highest(self.batch, self.scores, lambda n: rounded(self.settings.keep, n))
