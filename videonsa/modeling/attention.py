"""Attention of one decoder layer: what a method of videonsa/methods computes, or else the stock layer's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu
from transformers.cache_utils import Cache
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLAttention, apply_rotary_pos_emb

from videonsa.methods.contract import LayerCall, Method
from videonsa.methods.paper import AttentionInputs

Look = Callable[[Method, LayerCall], None]


class GateLinear(nn.Linear):
    """A layer of the gate network; its own class because its initial weights are its own."""


class VideoNSAAttention(Qwen2_5_VLAttention):
    """Qwen2.5-VL's attention, and a gate network for NSA. Without a method it is the stock layer exactly."""

    def __init__(self, config: Qwen2_5_VLTextConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.g_proj_1 = GateLinear(self.hidden_size, self.hidden_size)
        self.g_proj_2 = GateLinear(self.hidden_size, 3 * self.num_heads)
        self.captured: list[AttentionInputs] | None = None  # filled while capture_attention watches
        self.look: Look | None = None  # called before a method attends, while `looking` lasts

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        method: Method | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """[B, L, hidden] -> ([B, L, hidden], None); with a method, padding gives o_proj of zeros."""
        if method is None:
            return super().forward(
                hidden_states, attention_mask, position_ids, past_key_values, position_embeddings, **kwargs
            )
        batch, length, _ = hidden_states.shape
        query, key, value = (
            projection(hidden_states).view(batch, length, -1, self.head_dim)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        assert position_embeddings is not None
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings, unsqueeze_dim=2)
        if torch.is_autocast_enabled(query.device.type):  # it has lowered value; the rotation has raised query and key
            query, key = query.to(value.dtype), key.to(value.dtype)
        if past_key_values is not None:  # a prefill: the cache was empty, so the call's own keys are all keys
            past_key_values.update(key.transpose(1, 2), value.transpose(1, 2), self.layer_idx)
        call = LayerCall(self.layer_idx, query, key, value, hidden_states, self.scaling, self)
        if self.look is not None:
            self.look(method, call)
        output = method.attend(call)
        return self.o_proj(output.flatten(2)), None

    def gates(self, hidden_states: Tensor, temperature: float) -> Tensor:
        """Gates [..., heads, 3] of hidden states [..., hidden]: sigmoid(W2 gelu(W1 x) / temperature)."""
        logits = self.g_proj_2(gelu(self.g_proj_1(hidden_states)))
        return torch.sigmoid(logits / temperature).unflatten(-1, (self.num_heads, 3))


@contextmanager
def capture_attention(model: nn.Module) -> Iterator[list[AttentionInputs]]:
    """Collect the inputs of NSA of every layer while the context lasts, in the order of the calls; detached."""
    captured: list[AttentionInputs] = []
    layers = [module for module in model.modules() if isinstance(module, VideoNSAAttention)]
    for layer in layers:
        layer.captured = captured
    try:
        yield captured
    finally:
        for layer in layers:
            layer.captured = None


@contextmanager
def looking(model: nn.Module, look: Look) -> Iterator[None]:
    """Call look(method, call) in every layer before the method attends, while the context lasts."""
    layers = [module for module in model.modules() if isinstance(module, VideoNSAAttention)]
    for layer in layers:
        layer.look = look
    try:
        yield
    finally:
        for layer in layers:
            layer.look = None
