"""VideoNSA: Qwen2.5-VL whose decoder attends sparsely to vision tokens; by subclassing, the rest is the stock model.

What people load, ask, change while it lives, and save. The forward below it, tower and decoder, is backbone.py.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.masking_utils import create_masks_for_generate
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLModel

from videonsa.awq import ONLY_ASKED, check_loaded
from videonsa.config import SettingsError
from videonsa.methods import registry
from videonsa.methods.asked import asked_attention
from videonsa.methods.entries import MethodSettings
from videonsa.modeling.backbone import NO_SPLIT, VideoNSAModel
from videonsa.modeling.configuration import VideoNSAConfig, check_nsa_fields
from videonsa.modeling.decoding import GreedyDecoding
from videonsa.modeling.passage import dropped_of
from videonsa.modeling.positions import GenerationPositions
from videonsa.modeling.release_checkpoint import as_text, has_all_gates, hub_arguments, is_release
from videonsa.weights import release_settings

log = logging.getLogger(__name__)

WHOLE_SECONDS = (
    "%s was written by transformers %s, whose positions in time cut the seconds of a temporal patch to whole ones: "
    "they do so here too (whole_seconds=True); whole_seconds=False counts the fraction"
)


class VideoNSAForConditionalGeneration(GenerationPositions, GreedyDecoding, Qwen2_5_VLForConditionalGeneration):
    """VideoNSA with its language-model head.

    `generate` prefills sparsely and decodes densely over the cache. Its greedy output equals that of recomputing the
    whole sequence without a cache at each step: in such a recomputation the vision tokens attend by NSA as in the
    prefill, and generated tokens are text, which attends densely to every earlier token, as in the decoding step. Not
    so where gate_leak meets vision_packing, as in the release: it leaks into text beside vision, not into a decoded
    token.
    """

    config: VideoNSAConfig
    config_class = VideoNSAConfig
    model: VideoNSAModel
    _no_split_modules = NO_SPLIT
    has_fresh_gates = False  # drawn at loading, because the checkpoint has none: to be trained, not to be asked

    def __init__(self, config: VideoNSAConfig) -> None:
        checkpointing = getattr(config, "gradient_checkpointing", False)
        super().__init__(config)
        config.nsa  # noqa: B018  fields given at load were assigned unchecked: refuse a bad one here
        if checkpointing:
            config.gradient_checkpointing = True  # the stock model has used it up
        self.model = VideoNSAModel(config)
        self.post_init()

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        inputs_embeds: Tensor | None = None,
        mm_encoder_outputs: Mapping[str, Any] | None = None,
        is_first_iteration: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As for every model; what was encoded before goes into the prefill, of every version of transformers."""
        inputs = super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )
        if mm_encoder_outputs and (is_first_iteration or not kwargs.get("use_cache")):
            inputs["mm_encoder_outputs"] = mm_encoder_outputs
        return inputs

    def create_masks_for_generate(
        self, *, attention_mask: Any, past_key_values: Cache, **kwargs: Any
    ) -> dict[str, Tensor | None] | Tensor | None:
        """Masks that `generate` makes for a static cache. A prefill keeps its padding mask, which the method reads, and
        so do tokens behind a prompt that lost some: their layers differ."""
        sparse = registry.entry_of(self.config.spends).name != "dense" or self.model.meters is not None
        if (sparse and not past_key_values.get_seq_length()) or dropped_of(past_key_values) is not None:
            return attention_mask
        return create_masks_for_generate(attention_mask=attention_mask, past_key_values=past_key_values, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As of every transformers model. The public release (Enxin/VideoNSA) gets release semantics, and a log line.

        That is a checkpoint of model type qwen2_5_vl, as the release calls itself, that holds gate weights; its own
        block_counts and window_size are taken over. A caller's `semantics`, or a `config` of ours, goes before this.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        model.has_fresh_gates = not has_all_gates(info["missing_keys"])
        if model.config.awq:
            check_loaded(info["missing_keys"], pretrained_model_name_or_path)
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

    def drop_gates(self) -> None:
        """Free the gate networks' memory, of a model that is never asked by them: drawn at loading, or fixed gates."""
        for layer in self.model.language_model.layers:
            del layer.self_attn.g_proj_1, layer.self_attn.g_proj_2

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As of every transformers model. Raises SettingsError for packed weights."""
        if self.config.awq:
            raise SettingsError(ONLY_ASKED)
        super().save_pretrained(*args, **kwargs)

    def set_nsa(self, **fields: Any) -> None:
        """Change fields of `NSASettings` on the live model; all are checked before any is changed.

        With `attention` another method (`set_method`) no longer stands in NSA's place.
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
        if "attention" in fields:
            self.config.set_method(None)

    def set_method(self, method: str | MethodSettings | None, **fields: Any) -> None:
        """Spend attention by this method, on the live model: its settings, or its name and fields of them.

        None: as NSA's settings say. paper, release and dense change those, by fields of `NSASettings`.
        Raises SettingsError for an unknown name, which lists all, a field that is not valid, and for a method that this
        model cannot be asked.
        """
        settings = method
        if isinstance(method, str):
            of_nsa = method in registry.OF_NSA
            changes, settings = asked_attention(fields if of_nsa else {}, method, {} if of_nsa else fields)
            if of_nsa:
                self.set_nsa(**changes)
        if settings is not None and not isinstance(settings, MethodSettings):
            raise SettingsError(f"method={settings!r} is not valid: give a name, its settings (registry.make), or None")
        if settings is not None:
            registry.load(settings.entry)  # what cannot run is told here, and not at the first prompt
        self.config.set_method(settings)


# Checkpoints keep the weight names of Qwen2.5-VL's, so that either class loads the other's.
for ours, stock in (
    (VideoNSAForConditionalGeneration, Qwen2_5_VLForConditionalGeneration),
    (VideoNSAModel, Qwen2_5_VLModel),
):
    names = get_checkpoint_conversion_mapping(stock.__name__)
    register_checkpoint_conversion_mapping(ours.__name__, names, overwrite=True)
