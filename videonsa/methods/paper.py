"""VideoNSA as the paper defines it: gated NSA among the vision tokens, dense attention for text (section 3)."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from videonsa.config import NSASettings, differences
from videonsa.kernels.reference import block_ends, choose_blocks, masked_softmax, mean_blocks, score
from videonsa.limits import next_power_of_two
from videonsa.methods.contract import Batch, LayerCall, Method
from videonsa.methods.layout import token_layout
from videonsa.methods.mixed import mixed_attention
from videonsa.methods.sparse import causal_rows
from videonsa.methods.tail import make_tail, tail_attention


@dataclass(frozen=True)
class AttentionInputs:
    """What NSA of one layer was given for the vision tokens of a forward; heads and sizes as in `nsa_attention`."""

    layer: int
    query: Tensor  # [B, N, Hq, D], position encoding applied
    key: Tensor  # [B, N, Hkv, D]
    value: Tensor  # [B, N, Hkv, D]
    gates: Tensor  # [B, N, Hq, 3], order cmp, slc, swa
    cu_seqlens: Tensor | None  # samples packed into one row, as in `nsa_attention`


def count_pairs(batch: Batch, nsa: NSASettings, packed: bool) -> tuple[float, float]:
    """Causal pairs that are computed, a query head: (with tokens, with means of blocks).

    Of a vision query at place t of the tokens that NSA sees: t's own block up to t and the other chosen blocks (slc),
    the window (swa). A key in both is computed twice and counts twice, but no query counts more than the t + 1 keys
    that it may see. A text query sees all before it. packed: NSA sees the sample's vision tokens; else all its tokens.
    """
    names = differences(nsa.semantics)
    chosen = next_power_of_two(nsa.block_count) if "importance_round_up" in names else nsa.block_count
    size, tokens, means = nsa.block_size, 0.0, 0.0
    for place in batch.places:
        is_vision = batch.is_vision.flatten()[place].cpu()
        at = torch.arange(len(is_vision))
        tokens += float((at[~is_vision] + 1).sum())
        at = torch.arange(int(is_vision.sum())) if packed else at[is_vision]
        pairs = torch.zeros_like(at)
        if "slc" in nsa.branches:
            pairs += at % size + 1 + (at // size).clamp(max=chosen - 1) * size
        if "swa" in nsa.branches:
            pairs += (at + 1).clamp(max=nsa.window)
        tokens += float(pairs.minimum(at + 1).sum())
        if "cmp" in nsa.branches:
            length = len(at) if packed else len(is_vision)
            later = -(-length // size) - at // size  # cmp_mask: its own block and every later one
            means += float((later if "cmp_mask" in names else (at + 1) // size).sum())
    return tokens, means


class Gated(Method):
    """What the paper's and the release's attention share: gates in place of a layer's own, and what was computed."""

    settings: NSASettings
    trains = True
    gated = True

    def given_gates(self, device: torch.device) -> Tensor | None:
        """Gates that replace those of the hidden states, [layers, heads, 3]; None when they are dynamic."""
        text = self.config.text_config
        if self.settings.gate_mode == "static":
            return torch.tensor(self.config.static_gates, device=device)
        if self.settings.gate_mode == "fixed":
            values = torch.tensor(self.settings.gate_values, device=device)
            return values.expand(text.num_hidden_layers, text.num_attention_heads, 3)
        return None

    def layer_gates(self, call: LayerCall, hidden_states: Tensor, given: Tensor | None) -> Tensor:
        """Gates [..., heads, 3] of hidden states [..., hidden] in this layer."""
        if given is not None:
            return given[call.layer, call.heads].to(hidden_states.dtype).expand(*hidden_states.shape[:-1], -1, -1)
        return call.module.gates(hidden_states, self.settings.gate_temperature)  # type: ignore[operator]


class Paper(Gated):
    """NSA of each sample's vision tokens to themselves; text attends to all before it."""

    def prepare(self, embeds: Tensor) -> Tensor:
        """Lay out which token goes where, once for all layers."""
        given = self.given_gates(embeds.device)
        if self.batch.runs is None:
            self.layout = token_layout(self.batch, self.settings, given)
        else:
            is_vision, self.given = self.batch.is_vision.flatten(), given
            self.tails = [make_tail(piece, is_vision) for piece in self.batch.pieces]
        return embeds

    def attend(self, call: LayerCall) -> Tensor:
        """Padding gets 0."""
        if self.batch.runs is not None:
            return self._attend_runs(call)
        layout = self.layout
        gates = self.layer_gates(call, layout.pack(call.hidden_states), layout.gates)
        if call.module.captured is not None:
            q, k, v = (layout.pack(tensor.detach()) for tensor in (call.query, call.key, call.value))
            call.module.captured.append(AttentionInputs(call.layer, q, k, v, gates.detach(), layout.cu_seqlens))  # type: ignore[operator,union-attr]
        with self.meter.attention(call.layer):
            output = mixed_attention(call.query, call.key, call.value, gates, layout, call.scale)
        if self.meter.on:
            self.computed(call.layer, *self.pairs)
        return output

    def _attend_runs(self, call: LayerCall) -> Tensor:
        gates = self.layer_gates(call, call.hidden_states, self.given).flatten(0, 1)
        query, key, value = (tensor.flatten(0, 1) for tensor in (call.query, call.key, call.value))
        output = torch.zeros_like(query, memory_format=torch.contiguous_format)
        for piece, tail in zip(self.batch.pieces, self.tails, strict=True):
            output[piece.queries] = tail_attention(
                query[piece.queries], key[piece.keys], value[piece.keys], gates[piece.queries], tail, self.settings,
                call.scale,
            )  # fmt: skip
        return output.view(call.query.shape)

    def keeps(self, call: LayerCall, at: Tensor) -> dict[str, Tensor]:
        """The tokens of the chosen blocks (slc) and of the window (swa), of vision queries; all before it of text."""
        is_vision_L, nsa = self.batch.is_vision[0], self.settings
        causal_RL = causal_rows(len(is_vision_L), at)
        of_vision_R1 = is_vision_L[at][:, None]
        token_L = is_vision_L.cumsum(0) - 1  # places among the vision tokens, as which NSA sees them
        place_R1 = token_L[at][:, None].clamp(min=0)
        seen_RL = causal_RL & is_vision_L & of_vision_R1
        kept = {"text": (causal_RL & ~of_vision_R1).expand(call.query.shape[2], -1, -1)}
        if "slc" in nsa.branches:
            key_HND = call.key[0, is_vision_L].transpose(0, 1)
            chosen_HRJ = chosen_blocks(call.query[0, at], key_HND, place_R1, nsa, call.scale)
            block_L = (token_L // nsa.block_size).clamp(0, chosen_HRJ.shape[-1] - 1)
            group = call.query.shape[2] // call.key.shape[2]
            kept["slc"] = (chosen_HRJ[..., block_L] & seen_RL).repeat_interleave(group, 0)
        if "swa" in nsa.branches:
            kept["swa"] = (seen_RL & (token_L > place_R1 - nsa.window)).expand(call.query.shape[2], -1, -1)
        return kept

    @functools.cached_property
    def pairs(self) -> tuple[float, float]:
        """Pairs with tokens and with means of blocks, a query head, the same in every layer."""
        return count_pairs(self.batch, self.settings, packed=True)


def chosen_blocks(query_RXD: Tensor, key_HND: Tensor, place_R1: Tensor, nsa: NSASettings, scale: float) -> Tensor:
    """The blocks that queries at these places among the N vision tokens attend to by selection, bool [H, R, blocks]."""
    key_1HJD = mean_blocks(key_HND.float()[None], nsa.block_size)
    query_1HGRD = query_RXD.float().unflatten(1, (len(key_HND), -1)).permute(1, 2, 0, 3)[None] * scale
    visible_RJ = block_ends(key_1HJD.shape[2], nsa.block_size, place_R1.device) <= place_R1
    importance_1HRJ = masked_softmax(score(query_1HGRD, key_1HJD), visible_RJ).sum(2)
    return choose_blocks(importance_1HRJ, place_R1, nsa.block_size, nsa.block_count)[0]
