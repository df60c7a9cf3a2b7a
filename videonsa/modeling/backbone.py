"""Qwen2.5-VL's vision tower and decoder whose attention a method of videonsa/methods spends; by subclassing.

One forward: the tower encodes, its features go among the embeddings, and the decoder attends as the method says, which
is made anew for each prefill and told which tokens are vision. What comes after the last layer is model.py.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel, Qwen2_5_VLTextModel

from videonsa.methods import registry
from videonsa.methods.contract import Batch, Method, causal_pairs, make_batch, with_positions
from videonsa.methods.dense import Dense
from videonsa.methods.meter import Meter
from videonsa.methods.samples import are_packed, text_positions
from videonsa.modeling.attention import GateLinear, VideoNSAAttention
from videonsa.modeling.configuration import VideoNSAConfig
from videonsa.modeling.exchange import SequenceParallel
from videonsa.modeling.layers import FeedForward
from videonsa.modeling.modality import (
    KINDS,
    PIXELS,
    brings_vision,
    count_features,
    find_kinds,
    items_of,
    keep_items,
    put_features,
    types_of_call,
)
from videonsa.modeling.packed import pack_layers
from videonsa.modeling.passage import Decoding, Prefill, VideoNSADecoderLayer, dropped_of, forget_dropped
from videonsa.modeling.positions import ModelPositions
from videonsa.modeling.vision import PiecewiseTower, share_of, shares_of

GATE_INIT_STD = 0.02  # initial gate weights of the release; biases are 0, so that each gate starts near 0.5

NO_SPLIT = [VideoNSADecoderLayer.__name__, "Qwen2_5_VLVisionBlock"]  # each on one device, when there are several


class VideoNSATextModel(Qwen2_5_VLTextModel):
    """Qwen2.5-VL's decoder with VideoNSA's attention layers."""

    _no_split_modules = NO_SPLIT

    def __init__(self, config: Qwen2_5_VLTextConfig) -> None:
        super().__init__(config)
        for index, layer in enumerate(self.layers):
            layer.__class__ = VideoNSADecoderLayer
            layer.self_attn = VideoNSAAttention(config, index)
            layer.mlp.__class__ = FeedForward
        self.post_init()

    def forward(
        self,
        *args: Any,
        attention_mask: Any = None,
        inputs_embeds: Tensor | None = None,
        method: Method | None = None,
        parallel: SequenceParallel | None = None,
        keep: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """As the stock decoder, or by a method, whose batch knows the padding, so that no L x L mask is built.

        keep: [K] places of a row, whose last hidden states are wanted alone, [B, K, hidden]; with `parallel` this
        process's share of them (exchange.py). None: all.
        Of a prompt that loses tokens last_hidden_state is NaN at those; a cache then knows what it holds, and decoding
        goes by that.
        """
        masks, cache = dict.fromkeys(self.config.layer_types), kwargs.get("past_key_values")
        if method is None:
            if dropped_of(cache) is None:
                forget_dropped(cache)
            else:
                kwargs["passage"] = Decoding(self.config, cache, attention_mask)
                attention_mask = masks
            output = super().forward(*args, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs)
            return output if keep is None else _kept(output, keep)
        assert inputs_embeds is not None
        forget_dropped(cache)
        method.batch = with_positions(method.batch, kwargs.get("position_ids"))
        method.meter.starts(causal_pairs(method.batch.lengths) if method.meter.on else 0.0)
        if parallel is not None and parallel.parts > 1:
            method.batch = dataclasses.replace(method.batch, runs=parallel.runs(inputs_embeds.shape[1]))
        embeds, passage = method.prepare(inputs_embeds), Prefill(method)
        if parallel is not None:
            positions = kwargs.get("position_ids")
            if positions is None:
                positions = torch.arange(embeds.shape[1], device=embeds.device).expand(3, len(embeds), -1)
            kwargs |= {"position_ids": parallel.split(positions, dim=-1), "parallel": parallel}
            embeds = parallel.split(embeds)
        output = passage.end(
            super().forward(*args, attention_mask=masks, inputs_embeds=embeds, method=method, passage=passage, **kwargs)
        )
        if parallel is None:
            return output if keep is None else _kept(output, keep)
        states = output.last_hidden_state
        output.last_hidden_state = parallel.join(states) if keep is None else parallel.deal(states, keep)
        return output

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, GateLinear):
            init.normal_(module.weight, std=GATE_INIT_STD)
            init.zeros_(module.bias)
        else:
            super()._init_weights(module)


class VideoNSAModel(ModelPositions, Qwen2_5_VLModel):
    """Vision tower and decoder; finds the vision tokens of each forward, and the positions of all."""

    config: VideoNSAConfig
    config_class = VideoNSAConfig
    _no_split_modules = NO_SPLIT

    def __init__(self, config: VideoNSAConfig) -> None:
        checkpointing = getattr(config, "gradient_checkpointing", False)
        super().__init__(config)
        self.language_model = VideoNSATextModel._from_config(config.text_config)
        if config.awq:
            pack_layers(self.language_model, config.awq)
        self.meters: list[Meter] | None = None  # filled while `metered` looks on
        self.parallel: SequenceParallel | None = None  # a training's samples lie over these processes
        if checkpointing:
            config.gradient_checkpointing = True  # the stock decoder has used it up
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """As the stock model; the prefill spends its attention as the configuration says (`config.spends`).

        An image or video token beyond those that the call brings was generated: it is text. Samples packed into a row
        (no mask, position ids [4, B, L] whose first, the text positions, start again with each sample) are kept apart.

        Raises ValueError for images or videos after a filled cache (only the first call, the prefill, may hold them),
        for inputs_embeds without anything that says which tokens are vision, and for packed rows with a cache.
        """
        method, kinds, given_ids = self._new_method(), None, input_ids
        if method is not None or input_ids is not None or brings_vision(kwargs):
            kinds = self._find_kinds(input_ids, inputs_embeds, past_key_values, kwargs)
        is_vision = None if kinds is None else kinds > 0
        given = input_ids if input_ids is not None else inputs_embeds
        assert given is not None
        if method is not None and not self._serves(method, is_vision, given, past_key_values):
            method = None
        if self.parallel is not None:
            kwargs["parallel"] = self.parallel
        # Sample by sample: the stock layers would build a mask of the whole row, L x L, and with padding none at all.
        packed = past_key_values is None and are_packed(position_ids, attention_mask)
        if method is None and (packed or self.parallel is not None):
            method = Dense(self.config.spends, self.config)
        if method is not None:
            if is_vision is None:
                is_vision = torch.zeros(given.shape[:2], dtype=torch.bool, device=given.device)
            batch = _batch(is_vision, attention_mask, position_ids)
            method.batch = dataclasses.replace(batch, kinds=kinds, input_ids=given_ids)
            if len(batch.samples) > len(is_vision):
                _check_no_cache(past_key_values, kwargs.get("use_cache"))
                kwargs["use_cache"] = False
            kwargs["method"] = method
        encoded = self._encoded(kwargs)
        if kwargs.get("method") is not None:
            kwargs["method"].items = [item for outputs in encoded.values() for item in items_of(outputs)]
        if encoded:
            assert kinds is not None
            embeddings = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
            input_ids, inputs_embeds = None, put_features(embeddings, kinds, encoded)
            del encoded  # features of gigabytes, which the embeddings hold now
            kwargs["mm_token_type_ids"] = kinds
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            fuse=self._fuses,
            **kwargs,
        )

    @property
    def _fuses(self) -> bool:
        """Whether layers may use fused kernels, where there are such (layers.py)."""
        return self.config.backend != "reference"

    # A method watches the vision tower, which knows of none. `wraps` keeps the signature, which generate() reads.
    @functools.wraps(Qwen2_5_VLModel.get_image_features)
    def get_image_features(self, pixel_values: Tensor, image_grid_thw: Tensor, **kwargs: Any) -> Any:
        return self._encode("image", super().get_image_features, (pixel_values, image_grid_thw), kwargs)

    @functools.wraps(Qwen2_5_VLModel.get_video_features)
    def get_video_features(self, pixel_values_videos: Tensor, video_grid_thw: Tensor, **kwargs: Any) -> Any:
        return self._encode("video", super().get_video_features, (pixel_values_videos, video_grid_thw), kwargs)

    def _encoded(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The tower's outputs for a forward's images, then videos: of its pixels, or encoded before. The pixels, and
        what was encoded, leave the arguments, so that nothing but the features is held in the decoder.

        Raises ValueError for a kind that brings both.
        """
        before = dict(inputs.pop("mm_encoder_outputs", None) or {})
        encode: dict[str, Callable] = {"image": self.get_image_features, "video": self.get_video_features}
        encoded = {}
        for kind, (name, grid) in PIXELS.items():
            pixels = inputs.pop(name, None)
            if pixels is not None and before.get(kind) is not None:
                raise ValueError(f"{name} and mm_encoder_outputs[{kind!r}] are one too many: give either")
            outputs = before.get(kind) if pixels is None else encode[kind](pixels, inputs[grid], return_dict=True)
            if outputs is not None:
                encoded[kind] = outputs
        return encoded

    def _encode(self, kind: str, encode: Callable, given: tuple[Tensor, Tensor], kwargs: dict[str, Any]) -> Any:
        """The tower's output for the images or videos of a prompt, watched by what will spend the attention of it."""
        if self.parallel is not None:
            return self._encode_share(encode, *given, kwargs)
        settings = self.config.spends
        kind_of_method: type[Method] = registry.load(registry.entry_of(settings))
        if isinstance(self.visual, PiecewiseTower):
            kwargs = {"keep_states": False, **kwargs, "fuse": self._fuses}
        with kind_of_method.watch(settings, self.visual) as seen:
            encoded = encode(*given, **kwargs)
        if hasattr(encoded, "pooler_output"):
            keep_items(encoded, kind, given[1], self.config.vision_config.spatial_merge_size, seen)
        return encoded

    def _encode_share(self, encode: Callable, pixels: Tensor, grids: Tensor, kwargs: dict[str, Any]) -> Any:
        """As `_encode`, where each process is given the pixels of its share of the temporal patches (`share_of`), and
        encodes these; nobody watches a training."""
        assert self.parallel is not None
        if isinstance(self.visual, PiecewiseTower):
            kwargs = {"keep_states": False, **kwargs, "fuse": self._fuses}
        rank, degree, merged = self.parallel.rank, self.parallel.degree, self.visual.spatial_merge_size**2
        own, patches = share_of(grids.tolist(), rank, degree)
        assert len(pixels) == patches.stop - patches.start
        tokens = [sum(map(math.prod, share)) // merged for share in shares_of(grids.tolist(), degree)]
        encoded = encode(pixels, grids.new_tensor(own), **kwargs)
        features = self.parallel.gather_shares(torch.cat(list(encoded.pooler_output))[: tokens[rank]], tokens)
        encoded.pooler_output = features.split((grids.prod(-1) // merged).tolist())
        encoded.last_hidden_state = None
        return encoded

    def _new_method(self) -> Method | None:
        """What will spend the attention of a prefill; None: the stock layers. Dense attention needs none unseen."""
        settings = self.config.spends
        entry = registry.entry_of(settings)
        if entry.name == "dense" and self.meters is None and self.parallel is None:
            return None
        method: Method = registry.load(entry)(settings, self.config)
        if self.meters is not None:
            text = self.config.text_config
            method.meter = Meter(entry.name, text.num_hidden_layers, self.device)
        return method

    def _serves(self, method: Method, is_vision: Tensor | None, given: Tensor, past_key_values: Cache | None) -> bool:
        """Whether this call is one that the method is for: a prefill of more than one token, with vision where it needs
        that. Raises ValueError for vision behind a filled cache, and for training by a method that cannot be."""
        has_vision = is_vision is not None and bool(is_vision.any())
        cached = 0 if past_key_values is None else int(past_key_values.get_seq_length())
        dense = registry.entry_of(method.settings).name == "dense"
        if cached and (dense or not has_vision):
            return False
        if not has_vision and (method.needs_vision or given.shape[1] == 1):
            return False
        if cached:
            raise ValueError(
                f"images or videos after {cached} cached tokens: sparse attention serves the prefill, so put all "
                "of them into the first call (with prefill_chunk_size=None), or set attention='dense'"
            )
        if self.training and not method.trains:
            raise ValueError(f"method {method.settings.name} is free of training: call model.eval(), or train with NSA")
        if self.meters is not None:
            self.meters.append(method.meter)
        return True

    def _find_kinds(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        past_key_values: Cache | None,
        inputs: dict[str, Any],
    ) -> Tensor | None:
        """What each token stands for, [B, L]: 0 text, 1 image, 2 video; None where all are text."""
        counts = count_features(inputs, self.config.vision_config.spatial_merge_size)
        token_types = inputs.get("mm_token_type_ids")
        if input_ids is not None:
            token_ids = {"image": self.config.image_token_id, "video": self.config.video_token_id}
            return find_kinds(input_ids, token_types, counts, token_ids) if counts else None
        assert inputs_embeds is not None
        if counts:
            masks = dict(zip(KINDS, self.get_placeholder_mask(None, inputs_embeds), strict=True))
            return torch.stack([masks[kind][..., 0] * KINDS[kind] for kind in counts]).sum(dim=0)
        if token_types is not None:
            return types_of_call(token_types, inputs_embeds.shape[1])
        if past_key_values is not None and past_key_values.get_seq_length():
            return None  # a decoding step
        raise ValueError("inputs_embeds alone do not say which tokens are vision: give mm_token_type_ids too")


def _kept(output: Any, places: Tensor) -> Any:
    output.last_hidden_state = output.last_hidden_state[:, places]
    return output


def _batch(is_vision: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None) -> Batch:
    if attention_mask is not None and (not isinstance(attention_mask, Tensor) or attention_mask.dim() != 2):
        form = list(attention_mask.shape) if isinstance(attention_mask, Tensor) else type(attention_mask).__name__
        raise ValueError(f"NSA takes a padding mask [B, L]; got {form}")
    return make_batch(is_vision, attention_mask, text_positions(position_ids, attention_mask))


@contextmanager
def metered(model: nn.Module) -> Iterator[list[Meter]]:
    """Measure every prefill while the context lasts: a meter for each, in the order of the calls."""
    core: Any = model if isinstance(model, VideoNSAModel) else model.model
    meters: list[Meter] = []
    core.meters = meters
    try:
        yield meters
    finally:
        core.meters = None


def _check_no_cache(past_key_values: Cache | None, use_cache: bool | None) -> None:
    if past_key_values is not None or use_cache:
        raise ValueError(
            "a cache of packed rows cannot be continued: pass use_cache=False, or give each sample a row of its own"
        )
