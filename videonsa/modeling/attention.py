"""Attention of one decoder layer: what a method of videonsa/methods computes, or else the stock layer's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VLAttention,
    apply_rotary_pos_emb,
    eager_attention_forward,
)

from videonsa.methods.contract import LayerCall, Method
from videonsa.modeling.exchange import SequenceParallel, collected, exchanged
from videonsa.modeling.layers import rotate

Look = Callable[[Method, LayerCall], None]


class GateLinear(nn.Linear):
    """A layer of the gate network; its own class because its initial weights are its own."""


class VideoNSAAttention(Qwen2_5_VLAttention):
    """Qwen2.5-VL's attention, and a gate network for NSA. Without a method it is the stock layer exactly."""

    def __init__(self, config: Qwen2_5_VLTextConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.g_proj_1 = GateLinear(self.hidden_size, self.hidden_size)
        self.g_proj_2 = GateLinear(self.hidden_size, 3 * self.num_heads)
        self.captured: Any = None  # gets AttentionInputs appended while capture_attention watches
        self.look: Look | None = None  # called before a method attends, while `looking` lasts

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        method: Method | None = None,
        parallel: SequenceParallel | None = None,
        fuse: bool = True,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """[B, L, hidden] -> ([B, L, hidden], weights or None); with a method, padding gives o_proj of zeros.

        parallel: these are this process's tokens (exchange.py).
        """
        batch, length, _ = hidden_states.shape
        query, key, value = (
            projection(hidden_states).view(batch, length, -1, self.head_dim)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        assert position_embeddings is not None
        query, key = rotate(query, key, *position_embeddings, stock=_rotate, fuse=fuse)
        if torch.is_autocast_enabled(query.device.type):  # it has lowered value; the rotation has raised query and key
            query, key = query.to(value.dtype), key.to(value.dtype)
        keys, values = key.transpose(1, 2), value.transpose(1, 2)
        if past_key_values is not None:
            keys, values = past_key_values.update(keys, values, self.layer_idx)
        if method is None:
            attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
            output, weights = attend(
                self, query.transpose(1, 2), keys, values, attention_mask,
                dropout=self.attention_dropout if self.training else 0.0, scaling=self.scaling,
                sliding_window=self.sliding_window, position_ids=position_ids, **kwargs,
            )  # fmt: skip
            return self.o_proj(output.reshape(batch, length, -1)), weights
        # A prefill: the cache was empty, so the call's own keys are all keys.
        call = LayerCall(self.layer_idx, query, key, value, hidden_states, self.scaling, self)
        if parallel is not None:
            call = exchanged(parallel, call, self.gate_logits(hidden_states) if method.gated else None)
        if self.look is not None:
            self.look(method, call)
        output = method.attend(call)
        if parallel is not None:
            output = collected(parallel, call, output)
        return self.o_proj(output.flatten(2)), None

    def gates(self, hidden_states: Tensor, temperature: float) -> Tensor:
        """Gates [..., heads, 3] of hidden states [..., hidden]: sigmoid(W2 gelu(W1 x) / temperature)."""
        return torch.sigmoid(self.gate_logits(hidden_states) / temperature).unflatten(-1, (self.num_heads, 3))

    def gate_logits(self, hidden_states: Tensor) -> Tensor:
        """[..., hidden] -> [..., heads * 3]."""
        return self.g_proj_2(gelu(self.g_proj_1(hidden_states)))


def _rotate(query: Tensor, key: Tensor, cosines: Tensor, sines: Tensor) -> tuple[Tensor, Tensor]:
    return apply_rotary_pos_emb(query, key, cosines, sines, unsqueeze_dim=2)


@contextmanager
def capture_attention(model: nn.Module, into: Any = None) -> Iterator[Any]:
    """Collect the inputs of NSA of every layer while the context lasts, in the order of the calls; detached.

    into: what they are appended to, as AttentionInputs; a list unless given.
    """
    captured = [] if into is None else into
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
