"""The way of a prompt's tokens through the decoder where a method drops some of them, and of those that follow.

A layer works on the tokens that enter it, with the rotary encoding of their places in the prompt as it was given; its
cache holds these tokens alone. So caches differ in length from layer to layer, and the cache remembers what it holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLDecoderLayer

from videonsa.methods.contract import Method
from videonsa.modeling.layers import add_norm

Rotary = tuple[Tensor, Tensor]  # cosines and sines, [B, L, D] each


class VideoNSADecoderLayer(Qwen2_5_VLDecoderLayer):
    """The stock layer, in fewer passes over its hidden states (layers.py), on the tokens that a passage lets in."""

    def forward(
        self, hidden_states: Tensor, passage: Prefill | Decoding | None = None, fuse: bool = True, **kwargs: Any
    ) -> Tensor:
        """[B, L, hidden] -> [B, n, hidden], n <= L."""
        if passage is not None:
            hidden_states, changed = passage.enter(self, hidden_states, kwargs["position_embeddings"])
            kwargs |= changed
        normed, _ = add_norm(self.input_layernorm, hidden_states, None, fuse)
        attended, _ = self.self_attn(hidden_states=normed, fuse=fuse, **kwargs)
        normed, hidden_states = add_norm(self.post_attention_layernorm, hidden_states, attended, fuse)
        return hidden_states + self.mlp(normed, fuse)


@dataclass(frozen=True)
class Dropped:
    """What a cache holds of a prompt that lost tokens."""

    length: int  # tokens of the prompt as it was given, padding included
    is_token: tuple[Tensor, ...]  # by layer, bool [B, n]: which of the n places that its cache began with are tokens
    whole: tuple[bool, ...]  # by layer: all are


class Prefill:
    """The tokens of one prefill: fewer from each layer on that drops some."""

    def __init__(self, method: Method) -> None:
        self.method, self.given = method, method.batch.is_token
        self.index: Tensor | None = None  # [B, n] places in the prompt of the tokens that are left; None: of all
        self.rotary: Rotary | None = None  # theirs
        self.is_token: dict[int, Tensor] = {}  # by layer

    def enter(self, layer: Any, hidden_states: Tensor, rotary: Rotary) -> tuple[Tensor, dict[str, Any]]:
        """What a layer gets: hidden states [B, n, hidden], and arguments in place of those that it was given.

        Raises ValueError for a method that drops the last token of a prompt: what follows is predicted from it.
        """
        number, batch = layer.self_attn.layer_idx, self.method.batch
        kept = self.method.enters(number, hidden_states, layer)
        if kept is not None and bool((batch.is_token & ~kept).any()):
            hidden_states = self._narrow(kept & batch.is_token, hidden_states, rotary)
        self.is_token[number] = self.method.batch.is_token
        return hidden_states, {} if self.rotary is None else {"position_embeddings": self.rotary}

    def _narrow(self, kept: Tensor, hidden_states: Tensor, rotary: Rotary) -> Tensor:
        is_token = self.method.batch.is_token
        last = is_token.cumsum(dim=1).argmax(dim=1, keepdim=True)
        if bool((is_token.gather(1, last) & ~kept.gather(1, last)).any()):
            raise ValueError(f"method {self.method.settings.name} drops the last token of a prompt, which must stay")
        self.method.batch, places = self.method.batch.narrowed(kept)
        self.index = places if self.index is None else self.index.gather(1, places)
        cosines, sines = (part.expand(len(places), -1, -1) for part in (self.rotary or rotary))
        self.rotary = _pick(cosines, places), _pick(sines, places)
        return _pick(hidden_states, places)

    def end(self, output: Any) -> Any:
        """The decoder's output, its last hidden states in the places of the prompt, [B, L, hidden]: NaN where a token
        was dropped, as there is no such state. Its cache is told what it holds."""
        cache = output.past_key_values
        if self.index is None:
            return output
        left, states = self.method.batch.is_token, output.last_hidden_state
        widened = states.new_full((*self.given.shape, states.shape[-1]), torch.nan)
        widened[~self.given] = 0
        rows, columns = left.nonzero(as_tuple=True)
        widened[rows, self.index[rows, columns]] = states[rows, columns]
        output.last_hidden_state = widened
        if cache is not None:
            held = tuple(self.is_token[number] for number in sorted(self.is_token))
            cache.dropped = Dropped(self.given.shape[1], held, tuple(bool(mask.all()) for mask in held))
        return output


class Decoding:
    """Tokens behind a prompt that lost some: each layer's mask is that of its own cache."""

    def __init__(self, config: Qwen2_5_VLTextConfig, cache: Cache, attention_mask: Any) -> None:
        """attention_mask: [B, prompt + tokens since], or None without padding. Raises ValueError for other masks."""
        if attention_mask is not None and (not isinstance(attention_mask, Tensor) or attention_mask.dim() != 2):
            raise ValueError("behind a prompt that lost tokens the attention mask is [B, tokens] of the whole prompt")
        self.config, self.cache, self.attention_mask = config, cache, attention_mask
        self.masks: dict[int, Tensor | None] = {}  # by the prompt's part: layers that hold the same tokens share one

    def enter(self, layer: Any, hidden_states: Tensor, rotary: Rotary) -> tuple[Tensor, dict[str, Any]]:
        """The hidden states as they are, and the layer's mask."""
        number = layer.self_attn.layer_idx
        held = id(dropped_of(self.cache).is_token[number])  # type: ignore[union-attr]
        if held not in self.masks:
            self.masks[held] = self._mask(number, hidden_states)
        return hidden_states, {"attention_mask": self.masks[held]}

    def _mask(self, number: int, hidden_states: Tensor) -> Tensor | None:
        dropped = dropped_of(self.cache)
        assert dropped is not None
        mask = None
        if self.attention_mask is not None or not dropped.whole[number]:
            prompt = dropped.is_token[number]
            later = int(self.cache.get_seq_length(number)) - prompt.shape[1] + hidden_states.shape[1]
            new = prompt.new_ones(len(prompt), later)
            if self.attention_mask is not None:
                new = self.attention_mask[:, dropped.length :].to(prompt.device).bool()
            if new.shape[1] != later:
                given = dropped.length + new.shape[1]
                raise ValueError(f"an attention mask of {given} tokens; prompt and answer are {dropped.length + later}")
            mask = torch.cat([prompt, new], dim=1)
        return create_causal_mask(
            config=self.config,
            inputs_embeds=hidden_states,
            attention_mask=mask,
            past_key_values=self.cache,
            layer_idx=number,
        )


def dropped_of(cache: Cache | None) -> Dropped | None:
    """What a filled cache holds of a prompt that lost tokens; None where it lost none."""
    dropped = getattr(cache, "dropped", None)
    return dropped if cache is not None and cache.get_seq_length() else None


def forget_dropped(cache: Cache | None) -> None:
    """Before another prefill into a cache that was emptied."""
    if getattr(cache, "dropped", None) is not None:
        cache.dropped = None  # type: ignore[union-attr]


def tokens_seen(cache: Cache | None) -> int:
    """Tokens that went into a cache, with those that were dropped on the way."""
    held = 0 if cache is None else int(cache.get_seq_length())
    dropped = dropped_of(cache)
    return held if dropped is None else held + dropped.length - dropped.is_token[0].shape[1]


def _pick(tensor: Tensor, places: Tensor) -> Tensor:
    """tensor [B, L, C] at places [B, n]: [B, n, C]."""
    return tensor.gather(1, places[..., None].expand(-1, -1, tensor.shape[-1]))
