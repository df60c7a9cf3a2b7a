"""Sparse prefill free of training: a method chooses keys for each query head, one kernel attends to them."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from videonsa.kernels.block_sparse import KeyChoice, block_sparse_attention
from videonsa.methods.contract import LayerCall, Method, by_sample, causal_pairs, dense_attention


class SparsePrefill(Method):
    """Chooses keys for the tokens of each sample, vision and text alike; subclasses give `choose`."""

    needs_vision: ClassVar[bool] = False
    settings: Any  # with a field `backend`

    def choose(self, query: Tensor, key: Tensor, scale: float, layer: int) -> KeyChoice | None:
        """What each query head of one sample attends to: query [L, Hq, D], key [L, Hkv, D]; None: to everything."""
        raise NotImplementedError

    def attend(self, call: LayerCall) -> Tensor:
        """Choice and attention of one sample after the other; padding gets 0."""
        pairs: list[Tensor | float] = []

        def one(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
            with self.meter.choice(call.layer):
                choice = self.choose(query, key, scale, call.layer)
            if self.meter.on:
                pairs.append(causal_pairs([len(query)]) if choice is None else choice.pairs().double().mean())
            with self.meter.attention(call.layer):
                if choice is None:
                    return dense_attention(query, key, value, scale)
                return block_sparse_attention(query, key, value, choice, scale, self.settings.backend)

        with torch.no_grad():
            output = by_sample(call, self.batch, one)
        if self.meter.on:
            self.computed(call.layer, sum(pairs))
        return output
