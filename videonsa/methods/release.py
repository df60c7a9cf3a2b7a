"""VideoNSA as the public release computes it, each difference from the paper by name (docs/semantics.md)."""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor

from videonsa.config import differences
from videonsa.kernels.release import Sizes, block_choices, mixed_attention, slots_of, vision_by_position, vision_rows
from videonsa.methods.contract import LayerCall
from videonsa.methods.paper import AttentionInputs, Gated, count_pairs
from videonsa.methods.sparse import causal_rows


class Release(Gated):
    """Text and vision of each sample together, under semantics other than the paper's."""

    def prepare(self, embeds: Tensor) -> Tensor:
        """Under modality_by_position positions say which tokens are vision."""
        self.given = self.given_gates(embeds.device)
        if "modality_by_position" in differences(self.settings.semantics):
            if self.batch.position_ids is None:
                raise ValueError(
                    "modality_by_position tells vision from text by positions of three axes, and these have one: "
                    "give position_ids [3, B, L], or none, and they are worked out"
                )
            is_vision = vision_by_position(self.batch.position_ids) & self.batch.is_token
            self.batch = dataclasses.replace(self.batch, is_vision=is_vision)
        return embeds

    def attend(self, call: LayerCall) -> Tensor:
        """Padding gets 0."""
        gates = self.layer_gates(call, call.hidden_states, self.given)
        if call.module.captured is not None:
            q, k, v, g = (
                tensor.detach()[self.batch.is_vision][None] for tensor in (call.query, call.key, call.value, gates)
            )
            call.module.captured.append(AttentionInputs(call.layer, q, k, v, g, self.vision_bounds))  # type: ignore[operator,union-attr]
        with self.meter.attention(call.layer):
            output = self._attend(call, gates)
        if self.meter.on:
            self.computed(call.layer, *self.pairs)
        return output

    def _attend(self, call: LayerCall, gates: Tensor) -> Tensor:
        query, key, value, gates = (tensor.flatten(0, 1) for tensor in (call.query, call.key, call.value, gates))
        output = torch.zeros_like(query, memory_format=torch.contiguous_format)
        for tokens, is_vision in self._alike:
            output[tokens] = mixed_attention(
                query[tokens],
                key[tokens],
                value[tokens],
                gates[tokens],
                is_vision,
                block_size=self.settings.block_size,
                block_count=self.settings.block_count,
                window=self.settings.window,
                branches=self.settings.branches,
                differences=differences(self.settings.semantics),
                scale=call.scale,
                backend=self.settings.backend,
            )
        return output.view(call.query.shape)

    def keeps(self, call: LayerCall, at: Tensor) -> dict[str, Tensor]:
        """As of the paper's attention; a head keeps the places that either of its slots reads (head_layout), whichever
        head's keys it finds there, and of text that stands as zeros among the blocks (vision_packing) none."""
        names, is_vision_L = differences(self.settings.semantics), self.batch.is_vision[0]
        causal_RL, heads = causal_rows(len(is_vision_L), at), call.query.shape[2]
        seen_RL = causal_RL & is_vision_L & is_vision_L[at][:, None]
        kept = {"text": (causal_RL & ~is_vision_L[at][:, None]).expand(heads, -1, -1)}
        place_L = torch.arange(len(is_vision_L), device=at.device)  # in the branches' sequence
        if "vision_packing" not in names:
            place_L = (is_vision_L.cumsum(0) - 1).clamp(min=0)
        if "slc" in self.settings.branches and bool(is_vision_L.any()):
            sizes = self._sizes(call)
            query, key = (vision_rows(tensor, is_vision_L, sizes) for tensor in (call.query, call.key))
            chosen_HRb = block_choices(query, key, sizes)[0, place_L[at]].transpose(0, 1)
            blocks = -(-query.shape[1] // sizes.block_size)
            is_chosen_HRJ = torch.zeros(*chosen_HRb.shape[:2], blocks + 1, dtype=torch.bool, device=at.device)
            is_chosen_HRJ.scatter_(-1, chosen_HRb.masked_fill(chosen_HRb < 0, blocks), True)  # the -1s go to one more
            own_HRL = is_chosen_HRJ[..., place_L // sizes.block_size] & seen_RL
            kept["slc"] = torch.stack([own_HRL[slot].any(0) for slot in slots_of(heads, call.key.shape[2], sizes)])
        if "swa" in self.settings.branches:
            recent_RL = place_L > place_L[at][:, None] - self.settings.window
            kept["swa"] = (seen_RL & recent_RL).expand(heads, -1, -1)
        return kept

    def _sizes(self, call: LayerCall) -> Sizes:
        nsa = self.settings
        named = differences(nsa.semantics)
        return Sizes(nsa.block_size, nsa.block_count, nsa.window, call.scale, named, call.query.dtype)

    @functools.cached_property
    def _alike(self) -> list[tuple[Tensor, Tensor]]:
        """Samples whose tokens are alike in kind, together: flat indices [n, length] and which are vision, [length]."""
        tokens = self.batch.is_token.flatten().nonzero().squeeze(1)
        is_vision, lengths = self.batch.is_vision.flatten()[tokens], self.batch.lengths
        patterns = [pattern.numpy().tobytes() for pattern in is_vision.cpu().split(lengths)]
        alike: dict[bytes, list[int]] = {}
        for sample, pattern in enumerate(patterns):
            if pattern:
                alike.setdefault(pattern, []).append(sample)
        places, kinds = tokens.split(lengths), is_vision.split(lengths)
        return [
            (torch.stack([places[i] for i in group]), kinds[group[0]]) for group in alike.values() if lengths[group[0]]
        ]

    @functools.cached_property
    def vision_bounds(self) -> Tensor:
        """Where each sample's vision tokens begin and end in the row of all of them, int32 [samples + 1]."""
        counts = self.batch.samples.count(self.batch.is_vision)
        return torch.nn.functional.pad(counts[counts > 0].cumsum(0), (1, 0)).int()

    @functools.cached_property
    def pairs(self) -> tuple[float, float]:
        """Pairs with tokens and with means of blocks, a query head, the same in every layer."""
        return count_pairs(
            self.batch, self.settings, packed="vision_packing" not in differences(self.settings.semantics)
        )
