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

    def keeps(self, call: LayerCall, at: Tensor) -> dict[str, Tensor]:
        """The choice, made once more."""
        query, key = call.query[0], call.key[0]
        choice = self.choose(query, key, call.scale, call.layer)
        if choice is None:
            return {"keys": causal_rows(len(query), at).expand(query.shape[1], -1, -1)}
        kept = torch.zeros(query.shape[1], len(at), len(query), dtype=torch.bool, device=query.device)
        for row, place in enumerate(at.tolist()):
            block = place // choice.block_size
            rows = choice.rows(block, block + 1)
            kept[:, row, : rows.shape[-1]] = rows[:, place - block * choice.block_size]
        return {"keys": kept}


def causal_scores(query: Tensor, key: Tensor, at: Tensor, scale: float) -> Tensor:
    """Scores [H, G, R, K] of queries [R, Hq, D] at the places `at` [R] with keys [K, Hkv, D]; -inf for later keys.

    In float32, or in float64 for such inputs.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    query_HGRD = query.to(dtype).unflatten(1, (key.shape[1], -1)).permute(1, 2, 0, 3) * scale
    flat = query_HGRD.flatten(1, 2) @ key.to(dtype).permute(1, 2, 0)
    return flat.unflatten(1, (-1, len(query))).masked_fill(~causal_rows(len(key), at), -torch.inf)


def causal_rows(keys: int, at: Tensor) -> Tensor:
    """The keys that queries at these places may see, bool [R, keys]."""
    return torch.arange(keys, device=at.device) <= at[:, None]
