"""VideoNSA: Qwen2.5-VL whose decoder attends sparsely to vision tokens; by subclassing, the rest is the stock model."""

from __future__ import annotations

import dataclasses
import functools
import logging
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLModel,
    Qwen2_5_VLTextModel,
)

from videonsa.config import attention_differences
from videonsa.modeling.attention import GateLinear, VideoNSAAttention
from videonsa.modeling.configuration import VideoNSAConfig, check_nsa_fields
from videonsa.modeling.layout import TokenLayout, token_layout
from videonsa.modeling.positions import GenerationPositions, ModelPositions
from videonsa.modeling.release import ReleaseLayout, release_layout
from videonsa.modeling.release_checkpoint import as_text, has_all_gates, hub_arguments, is_release
from videonsa.weights import release_settings

log = logging.getLogger(__name__)

GATE_INIT_STD = 0.02  # initial gate weights of the release; biases are 0, so that each gate starts near 0.5

WHOLE_SECONDS = (
    "%s was written by transformers %s, whose positions in time cut the seconds of a temporal patch to whole ones: "
    "they do so here too (whole_seconds=True); whole_seconds=False counts the fraction"
)


class VideoNSATextModel(Qwen2_5_VLTextModel):
    """Qwen2.5-VL's decoder with VideoNSA's attention layers."""

    def __init__(self, config: Qwen2_5_VLTextConfig) -> None:
        super().__init__(config)
        for index, layer in enumerate(self.layers):
            layer.self_attn = VideoNSAAttention(config, index)
        self.post_init()

    def forward(
        self,
        *args: Any,
        attention_mask: Any = None,
        token_layout: TokenLayout | ReleaseLayout | None = None,
        **kwargs: Any,
    ) -> Any:
        """As the stock decoder. A token layout already knows the padding, so no L x L mask is built beside it."""
        if token_layout is None:
            return super().forward(*args, attention_mask=attention_mask, **kwargs)
        if isinstance(token_layout, ReleaseLayout):
            token_layout = token_layout.with_positions(kwargs.get("position_ids"))
        masks = dict.fromkeys(self.config.layer_types)
        return super().forward(*args, attention_mask=masks, token_layout=token_layout, **kwargs)

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

    def __init__(self, config: VideoNSAConfig) -> None:
        super().__init__(config)
        self.language_model = VideoNSATextModel._from_config(config.text_config)
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
        """As the stock model; tokens that `input_ids` says are image or video attend by NSA (attention="nsa").

        Raises ValueError for vision tokens after a filled cache (only the first call, the prefill, may hold them), and
        for inputs_embeds without anything that says which tokens are vision.
        """
        layout = self._layout(
            input_ids, inputs_embeds, kwargs.get("mm_token_type_ids"), attention_mask, past_key_values
        )
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            **({} if layout is None else {"token_layout": layout}),
            **kwargs,
        )

    # The vision tower has no use for the layout. `wraps` keeps the signature, which generate() reads.
    @functools.wraps(Qwen2_5_VLModel.get_image_features)
    def get_image_features(self, *args: Any, token_layout: TokenLayout | None = None, **kwargs: Any) -> Any:
        return super().get_image_features(*args, **kwargs)

    @functools.wraps(Qwen2_5_VLModel.get_video_features)
    def get_video_features(self, *args: Any, token_layout: TokenLayout | None = None, **kwargs: Any) -> Any:
        return super().get_video_features(*args, **kwargs)

    def _layout(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        token_types: Tensor | None,
        attention_mask: Tensor | None,
        past_key_values: Cache | None,
    ) -> TokenLayout | ReleaseLayout | None:
        nsa = self.config.nsa
        if nsa.attention == "dense":
            return None
        cached = past_key_values.get_seq_length() if past_key_values is not None else 0
        if input_ids is not None:
            is_vision = (input_ids == self.config.image_token_id) | (input_ids == self.config.video_token_id)
        elif token_types is not None:
            is_vision = token_types[:, cached:] > 0
        elif cached:
            return None  # a decoding step on embeddings: text
        else:
            assert inputs_embeds is not None
            raise ValueError("inputs_embeds alone do not say which tokens are vision: give mm_token_type_ids too")
        if not bool(is_vision.any()):
            return None
        if cached:
            raise ValueError(
                f"vision tokens after {cached} cached tokens: sparse attention serves the prefill, so put all images "
                "and videos into the first call, or set attention='dense'"
            )
        if attention_mask is not None and attention_mask.dim() != 2:
            raise ValueError(f"NSA takes a padding mask [B, L]; got one of shape {list(attention_mask.shape)}")
        lay_out = release_layout if attention_differences(nsa.semantics) else token_layout
        return lay_out(is_vision, attention_mask, nsa, self._gates(is_vision.device))

    def _gates(self, device: torch.device) -> Tensor | None:
        """Gates that replace the dynamic ones, [layers, heads, 3]; None when they are dynamic."""
        text = self.config.text_config
        if self.config.gate_mode == "static":
            return torch.tensor(self.config.static_gates, device=device)
        if self.config.gate_mode == "fixed":
            values = torch.tensor(self.config.nsa.gate_values, device=device)
            return values.expand(text.num_hidden_layers, text.num_attention_heads, 3)
        return None


class VideoNSAForConditionalGeneration(GenerationPositions, Qwen2_5_VLForConditionalGeneration):
    """VideoNSA with its language-model head.

    `generate` prefills sparsely and decodes densely over the cache. Its greedy output equals that of recomputing the
    whole sequence without a cache at each step: in such a recomputation the vision tokens attend by NSA as in the
    prefill, and generated tokens are text, which attends densely to every earlier token, as in the decoding step.
    """

    config: VideoNSAConfig
    config_class = VideoNSAConfig
    has_fresh_gates = False  # drawn at loading, because the checkpoint has none: to be trained, not to be asked

    def __init__(self, config: VideoNSAConfig) -> None:
        super().__init__(config)
        config.nsa  # noqa: B018  fields given at load were assigned unchecked: refuse a bad one here
        self.model = VideoNSAModel(config)
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As of every transformers model. The public release (Enxin/VideoNSA) gets release semantics, and a log line.

        That is a checkpoint of model type qwen2_5_vl, as the release calls itself, that holds gate weights; its own
        block_counts and window_size are taken over. A caller's `semantics`, or a `config` of ours, goes before this.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        model.has_fresh_gates = not has_all_gates(info["missing_keys"])
        if pretrained_model_name_or_path is not None and not isinstance(kwargs.get("config"), VideoNSAConfig):
            written, _ = cls.config_class.get_config_dict(pretrained_model_name_or_path, **hub_arguments(kwargs))
            if is_release(written, info["missing_keys"]):
                model.config.whole_seconds = bool(kwargs.get("whole_seconds"))  # with seconds of 1.0 it never mattered
                fields = {name: value for name, value in release_settings(written).items() if name not in kwargs}
                model.set_nsa(**fields)
                log.warning("%s is the public release: %s", pretrained_model_name_or_path, as_text(model.config.nsa))
            elif model.config.whole_seconds and "whole_seconds" not in written:
                log.warning(WHOLE_SECONDS, pretrained_model_name_or_path, written["transformers_version"])
        return (model, info) if wants_info else model

    def set_nsa(self, **fields: Any) -> None:
        """Change fields of `NSASettings` on the live model; all are checked before any is changed.

        Raises SettingsError naming the field and what is valid.
        """
        check_nsa_fields(fields)
        before = self.config.nsa
        try:
            self.config.set_nsa(dataclasses.replace(before, **fields))
            self.config.nsa  # noqa: B018  static gates may be missing
        except ValueError:
            self.config.set_nsa(before)
            raise


# Checkpoints keep the weight names of Qwen2.5-VL's, so that either class loads the other's.
for ours, stock in (
    (VideoNSAForConditionalGeneration, Qwen2_5_VLForConditionalGeneration),
    (VideoNSAModel, Qwen2_5_VLModel),
):
    names = get_checkpoint_conversion_mapping(stock.__name__)
    register_checkpoint_conversion_mapping(ours.__name__, names, overwrite=True)
AutoModelForImageTextToText.register(VideoNSAConfig, VideoNSAForConditionalGeneration)
