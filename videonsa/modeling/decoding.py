"""Greedy decoding without gaps: on CUDA the step of a token is captured once as a graph, and replayed.

A decoded token of 7B's shape is some 500 launches, which take longer to make than to run. A graph holds addresses, so
all that differs from prompt to prompt lies behind a table of them (kernels/decode.py): the same graph serves every
prompt, whatever its length, and whichever tokens its layers hold. The prompt's cache stays as the prefill has made it;
what follows goes into memory of its own.
"""

from __future__ import annotations

from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, StaticCache, StaticLayer
from transformers.generation import EosTokenCriteria, MaxLengthCriteria
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb

from videonsa.kernels import tiling
from videonsa.kernels.decode import FIELDS, Prompt, decode_reference, make_table
from videonsa.limits import next_power_of_two
from videonsa.modeling.layers import DTYPES, add_norm, rotate
from videonsa.modeling.packed import packed_layers
from videonsa.modeling.passage import dropped_of

ROOM = 256  # tokens of an answer at the least, for which a decoder has memory: 15 MiB a row of 7B's shape
ENDS = 64  # tokens that end an answer, at most


class Decoder:
    """Steps of one token for each of B rows, behind prompts in a cache.

    Fields that a graph has captured are changed in place alone. One answer at a time: whoever asks holds `lock`.
    """

    def __init__(self, model: Any, batch: int, room: int) -> None:
        text, place = model.config.text_config, {"device": model.device}
        layers, heads = text.num_hidden_layers, text.num_key_value_heads
        size = text.hidden_size // text.num_attention_heads
        with torch.inference_mode(False):  # so that it serves callers in that mode and others
            self.token = torch.zeros(batch, 1, dtype=torch.long, **place)  # the newest, which goes in next
            self.positions = torch.zeros(3, batch, 1, dtype=torch.long, **place)  # its own
            self.step = torch.zeros(1, dtype=torch.long, **place)  # its number in the answer
            self.said = torch.zeros(batch, room, dtype=torch.long, **place)
            self.ended = torch.zeros(batch, dtype=torch.bool, **place)
            self.all_ended = torch.zeros(1, dtype=torch.bool, **place)
            self.ends = torch.full((ENDS,), -1, dtype=torch.long, **place)  # tokens that end an answer; -1 is none
            self.pad = torch.zeros(1, dtype=torch.long, **place)
            self.recent = torch.zeros(layers, 2, batch, heads, room, size, dtype=model.dtype, **place)
            self.prompts = Prompts(layers, model.device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.lock = Lock()

    def answer(
        self, model: Any, prompts: list[Prompt], token: Tensor, positions: Tensor, ends: list[int], pad: int, count: int
    ) -> Tensor:
        """Up to `count` tokens of each row, [B, n], n being what the last row needs; arguments as of `begin`."""
        with self.lock, torch.cuda.device_of(self.token):
            state = prompts, token, positions, ends, pad
            self.begin(*state)
            if self.token.is_cuda and self.graph is None:
                self.capture(model)
                self.begin(*state)
            said = self.run(model, count)
            self.prompts.forget()
            return said

    def begin(self, prompts: list[Prompt], token: Tensor, positions: Tensor, ends: list[int], pad: int) -> None:
        """token [B], the first of the answer, at `positions` [3, B, 1]; prompts: of each layer (kernels/decode.py)."""
        self.prompts.take(prompts)
        self.positions.copy_(positions)
        self.step.fill_(-1)
        self.ended.zero_()
        self.ends.fill_(-1)
        self.ends[: len(ends)] = torch.tensor(ends, dtype=torch.long)
        self.pad.fill_(pad)
        self._say(token)

    def capture(self, model: Any) -> None:
        """Record the step. The state is that of two steps later then: `begin` again."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # kernels are compiled and libraries begun before a capture
            for _ in range(2):
                self.advance(model)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may go on as they like
            self.advance(model)
        self.graph = graph

    def run(self, model: Any, count: int) -> Tensor:
        """The answer of `count` tokens, or up to that with which the last row ends: [B, n]."""
        flags = torch.zeros(count, dtype=torch.bool, pin_memory=self.graph is not None)
        flags[0] = bool(self.all_ended)
        done: list[Any] = [None]
        for number in range(1, count):
            if flags[: max(number - 1, 1)].any():
                break
            if self.graph is None:
                self.advance(model)
            else:
                self.graph.replay()
            flags[number : number + 1].copy_(self.all_ended, non_blocking=True)
            done.append(torch.cuda.Event() if self.graph is not None else None)
            if self.graph is not None:
                done[number].record()
                if number > 1:  # the device has the next step to do while the host waits for this one
                    done[number - 1].synchronize()
        if done[-1] is not None:
            done[-1].synchronize()
        last = int(flags.int().argmax()) + 1 if flags.any() else count
        return self.said[:, :last].clone()

    @torch.no_grad()
    def advance(self, model: Any) -> None:
        """The newest token goes in, another comes out."""
        text = model.model.language_model
        embedded = text.embed_tokens(self.token)
        rotary = text.rotary_emb(embedded, self.positions)
        hidden = embedded[:, 0]
        for number, layer in enumerate(text.layers):
            hidden = self._layer(layer, number, hidden, [angles[:, 0] for angles in rotary])
        normed, _ = add_norm(text.norm, hidden, None, True)
        self._say(model.lm_head(normed).float().argmax(-1))
        self.positions += 1

    def _layer(self, layer: Any, number: int, hidden: Tensor, rotary: list[Tensor]) -> Tensor:
        """hidden [B, hidden] -> [B, hidden]."""
        attention, recent = layer.self_attn, self.recent[number]
        normed, _ = add_norm(layer.input_layernorm, hidden, None, True)
        query, key, value = (
            projection(normed).unflatten(1, (-1, attention.head_dim))
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        query, key = rotate(query, key, rotary[0], rotary[1], apply_rotary_pos_emb, fuse=True)
        for kept, new in zip(recent, (key, value), strict=True):
            kept.index_copy_(2, self.step, new[:, :, None].to(kept.dtype))
        attended = self.prompts.attend(number, query, recent, self.step, attention.scaling)
        added = attention.o_proj(attended.flatten(1))
        normed, hidden = add_norm(layer.post_attention_layernorm, hidden, added, True)
        return hidden + layer.mlp(normed)

    def _say(self, token: Tensor) -> None:
        """Add token [B] to the answer: padding where a row has ended."""
        token = torch.where(self.ended, self.pad, token)
        self.step += 1
        self.said.index_copy_(1, self.step, token[:, None])
        self.token.copy_(token[:, None])
        self.ended |= (token[:, None] == self.ends).any(1)
        self.all_ended.copy_(self.ended.all()[None])


class Prompts:
    """What the layers' caches hold of the prompts."""

    def __init__(self, layers: int, device: torch.device) -> None:
        self.held: list[Prompt] = []
        self.table: Tensor | None = None
        if device.type == "cuda":
            self.table = torch.zeros(layers, FIELDS, dtype=torch.int64, device=device)

    def take(self, prompts: list[Prompt]) -> None:
        """Of each layer a `Prompt` (kernels/decode.py)."""
        self.held = prompts
        if self.table is not None:
            self.table.copy_(make_table(prompts))

    def forget(self) -> None:
        """Let go of the caches, which the next question's would else come on top of."""
        self.held = []

    def attend(self, number: int, query: Tensor, recent: Tensor, step: Tensor, scale: float) -> Tensor:
        """query [B, Hq, D], recent [2, B, Hkv, room, D] -> [B, Hq, D]."""
        if self.table is not None:
            from videonsa.kernels.decode_triton import decode_attention  # needs triton

            return decode_attention(query, self.table[number], recent, step, scale)
        return decode_reference(query, self.held[number], recent, int(step), scale)


_decoders: WeakKeyDictionary[nn.Module, tuple[Any, Decoder]] = WeakKeyDictionary()  # the latest of each model


def decoder_of(model: Any, batch: int, room: int) -> Decoder:
    """The model's decoder for so many rows and tokens: that of its latest answer, or a new one, not captured yet."""
    weights = (*model.model.language_model.parameters(), *model.lm_head.parameters())
    key = (batch, tuple(weight.data_ptr() for weight in weights))  # a graph holds their addresses
    known = _decoders.get(model)
    if known is None or known[0] != key or known[1].said.shape[1] < room:
        _decoders.pop(model, None)  # its memory first
        known = _decoders[model] = (key, Decoder(model, batch, room))
    return known[1]


class GreedyDecoding:
    """For generate(): greedy answers without gaps; all else as in every model."""

    def _sample(
        self,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        synced_gpus: bool = False,
        streamer: Any = None,
        **model_kwargs: Any,
    ) -> Any:
        plain = not (len(logits_processor) or synced_gpus or streamer or generation_config.do_sample)
        if not (plain and serves(self, stopping_criteria, generation_config, model_kwargs)):
            return super()._sample(  # type: ignore[misc]
                input_ids, logits_processor, stopping_criteria, generation_config, synced_gpus, streamer, **model_kwargs
            )
        return torch.cat([input_ids, self.greedy(input_ids, stopping_criteria, generation_config, model_kwargs)], -1)

    def greedy(
        self: Any, input_ids: Tensor, stopping_criteria: Any, generation_config: Any, model_kwargs: dict[str, Any]
    ) -> Tensor:
        """The answers of the rows, [B, n], ended ones padded; arguments as of `_sample`, which `serves` has passed."""
        count = stopping_criteria.max_length - input_ids.shape[1]
        first = not generation_config.is_assistant
        outputs = self._prefill(input_ids, generation_config, model_kwargs, is_first_iteration=first)
        token = outputs.logits[:, -1].float().argmax(-1)
        if count == 1:
            return token[:, None]
        mask = model_kwargs.get("attention_mask")
        after = self._update_model_kwargs_for_generation(outputs, model_kwargs, is_encoder_decoder=False)
        cache = after["past_key_values"]
        ends = [end for each in stopping_criteria for end in getattr(each, "eos_token_id", torch.empty(0)).tolist()]
        pad = generation_config._pad_token_tensor
        positions = after["position_ids"][-3:, :, -1:]
        del outputs
        decoder = decoder_of(self, len(token), max(ROOM, next_power_of_two(count)))
        return decoder.answer(self, prompts_of(cache, mask), token, positions, ends, int(pad or 0), count)


def serves(model: Any, stopping_criteria: Any, generation_config: Any, model_kwargs: dict[str, Any]) -> bool:
    """Whether an answer can be decoded so: greedily on one GPU, by a cache that nobody else sees, and nothing asked but
    the tokens. Packed weights are unpacked at each use, which cannot be captured."""
    text, cache = model.config.text_config, model_kwargs.get("past_key_values")
    size = text.hidden_size // text.num_attention_heads
    known_criteria = all(type(each) in (MaxLengthCriteria, EosTokenCriteria) for each in stopping_criteria)
    positions = model_kwargs.get("position_ids")
    return (
        on_one_gpu(model)
        and known_criteria
        and stopping_criteria.max_length is not None
        and not generation_config.return_dict_in_generate
        and bool(model_kwargs.get("use_cache"))
        and is_own(cache)
        and positions is not None
        and positions.dim() == 3
        and size in tiling.HEAD_SIZES
        and text.rope_parameters.get("rope_type", "default") == "default"
        and not packed_layers(model)
    )


def on_one_gpu(model: Any) -> bool:
    """Whether the model lies whole on one GPU, in a type and under a backend that run kernels."""
    devices = getattr(model, "hf_device_map", None) or {"": model.device}
    return (
        model.device.type == "cuda"
        and len(set(map(str, devices.values()))) == 1
        and model.dtype in DTYPES
        and model.config.backend != "reference"
    )


def is_own(cache: Cache | None) -> bool:
    """Whether `generate` made the cache for itself, of keys and values as they are."""
    return (
        type(cache) in (DynamicCache, StaticCache)
        and not getattr(cache, "_is_user_defined", False)
        and all(type(layer) in (DynamicLayer, StaticLayer) for layer in cache.layers)  # type: ignore[union-attr]
    )


def prompts_of(cache: Any, attention_mask: Tensor | None) -> list[Prompt]:
    """What each layer's cache holds of the prompts; attention_mask [B, L] is that of the prompts as they were given."""
    dropped, is_token = dropped_of(cache), None
    if dropped is None and attention_mask is not None and not bool(attention_mask.all()):
        is_token = attention_mask.bool().contiguous()
    prompts = []
    for number, layer in enumerate(cache.layers):
        if dropped is not None:
            is_token = None if dropped.whole[number] else dropped.is_token[number].contiguous()
        prompts.append(Prompt(layer.keys, layer.values, int(cache.get_seq_length(number)), is_token))
    return prompts
