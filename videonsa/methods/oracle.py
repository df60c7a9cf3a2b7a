"""Oracle top-k: each query attends to the k keys of highest probability, an upper bound for choices of that size.

The choice costs as much as dense attention, so no time is claimed. Shape suffixes: H key/value heads, G query heads of
one of them, R queries of a chunk, K the keys up to its end, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from videonsa.methods.contract import LayerCall, Method, by_sample, dense_attention
from videonsa.methods.settings import OracleSettings
from videonsa.methods.sparse import causal_scores

CHUNK_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 27}  # scores held at once


class Oracle(Method):
    """Prefill by the exact top k; decoding is dense, as of every method."""

    settings: OracleSettings
    needs_vision = False

    def attend(self, call: LayerCall) -> Tensor:
        """Padding gets 0."""
        output = by_sample(call, self.batch, lambda *tensors: self._attend(call.layer, *tensors))
        keys = self.settings.keys
        self.computed(call.layer, float(sum(kept_pairs(length, keys) for length in self.batch.lengths)))
        return output

    def _attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        with self.meter.choice(layer):
            keeps_all = len(query) <= self.settings.keys
        if keeps_all:
            with self.meter.attention(layer):
                return dense_attention(query, key, value, scale)
        length, outputs = len(query), []
        at_L = torch.arange(length, device=query.device)
        value_HLD, broken_HL = whole(value)
        rows = max(1, CHUNK_ELEMENTS[query.device.type] // (query.shape[1] * length))
        for start in range(0, length, rows):
            end = min(start + rows, length)
            with self.meter.choice(layer):
                score_HGRK = causal_scores(query[start:end], key[:end], at_L[start:end], scale)
                kept_HGRK = top_keys(score_HGRK, self.settings.keys)
            with self.meter.attention(layer):
                weight_HGRK = score_HGRK.where(kept_HGRK, -torch.inf).softmax(-1)
                output_HGRD = (weight_HGRK.flatten(1, 2) @ value_HLD[:, :end]).unflatten(1, (-1, end - start))
                reached_HGR1 = (kept_HGRK & broken_HL[:, None, None, :end]).any(-1, keepdim=True)
                outputs.append(output_HGRD.masked_fill(reached_HGR1, torch.nan))
        return torch.cat(outputs, 2).permute(2, 0, 1, 3).flatten(1, 2).to(query.dtype)

    def keeps(self, call: LayerCall, at: Tensor) -> dict[str, Tensor]:
        """The top k."""
        score_HGRK = causal_scores(call.query[0, at], call.key[0], at, call.scale)
        return {"keys": top_keys(score_HGRK, self.settings.keys).flatten(0, 1)}


def kept_pairs(length: int, keys: int) -> int:
    """Pairs of a query and a key where each query keeps at most so many of those up to itself."""
    few = min(length, keys)
    return few * (few + 1) // 2 + (length - few) * keys


def top_keys(score_XRK: Tensor, keys: int) -> Tensor:
    """True for the keys of the highest scores of each query, so many or all that are there; -inf is not there.

    Of equal scores the earlier keys are kept. NaN counts as the highest: what it meets becomes NaN, as in dense
    attention.
    """
    there_XRK = score_XRK != -torch.inf
    if score_XRK.shape[-1] <= keys:
        return there_XRK
    order_XRK = score_XRK.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
    least_XR1 = order_XRK.topk(keys, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    kept_XRK = there_XRK & (order_XRK >= least_XR1)
    if bool((kept_XRK.sum(-1) > keys).any()):  # some are equal to the last one
        above_XRK = order_XRK > least_XR1
        room_XR1 = keys - above_XRK.sum(-1, keepdim=True)
        equal_XRK = kept_XRK & ~above_XRK
        kept_XRK = above_XRK | (equal_XRK & (equal_XRK.cumsum(-1, dtype=torch.int32) <= room_XR1))
    return kept_XRK


def whole(value: Tensor) -> tuple[Tensor, Tensor]:
    """(values [H, L, D] with those that hold a NaN or an infinity put to 0, which these are [H, L]).

    0 times NaN is NaN, so that a key which nobody keeps would still be seen.
    """
    value_HLD = value.to(torch.promote_types(value.dtype, torch.float32)).transpose(0, 1)
    broken_HL = ~value_HLD.isfinite().all(-1)
    return value_HLD.masked_fill(broken_HL[..., None], 0), broken_HL
