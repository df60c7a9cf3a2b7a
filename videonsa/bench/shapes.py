"""Models of Qwen2.5-VL's shapes with random weights, made where they are used: nothing is fetched."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Qwen2_5_VLProcessor, Qwen2Tokenizer

from videonsa.config import NSASettings
from videonsa.modeling import VideoNSAConfig, VideoNSAForConditionalGeneration
from videonsa.modeling.vision import speed_up_vision
from videonsa.small import SMALL
from videonsa.tiny import build_processor, build_small

_COMMON = {
    "max_position_embeddings": 131072,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}
TEXT: dict[str, dict[str, Any]] = {  # of the decoders: all but their vocabularies
    "3b": {
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        **_COMMON,
    },
    "7b": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        **_COMMON,
    },
}
VISION: dict[str, Any] = {  # of the towers: all but the size of their features, which is the decoder's
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "tokens_per_second": 2,
}
VOCABULARY = {"3b": 151936, "7b": 152064}
TIED = {"3b": True, "7b": False}  # whether the output layer is the embeddings
SPECIAL = {  # Qwen's own ids; a processor of another tokenizer has others
    "image_token_id": ("<|image_pad|>", 151655),
    "video_token_id": ("<|video_pad|>", 151656),
    "vision_start_token_id": ("<|vision_start|>", 151652),
    "vision_end_token_id": ("<|vision_end|>", 151653),
}
NAMES = (*TEXT, "tiny")
TINY = NSASettings(block_size=4, block_count=2, window=6)  # budgets that leave keys out of short samples, too


def config(
    name: str, layers: int | None = None, vision_layers: int | None = None, tokenizer: Qwen2Tokenizer | None = None
) -> dict[str, Any]:
    """A shape as VideoNSAConfig takes it; with fewer layers, and with a tokenizer's ids, where given."""
    text, depth = TEXT[name], vision_layers or VISION["depth"]
    blocks = [block for block in VISION["fullatt_block_indexes"] if block < depth]
    ids = {
        field: own if tokenizer is None else tokenizer.convert_tokens_to_ids(token)
        for field, (token, own) in SPECIAL.items()
    }
    return {
        "text_config": {
            **text, "vocab_size": VOCABULARY[name], "num_hidden_layers": layers or text["num_hidden_layers"],
        },
        "vision_config": {
            **VISION, "out_hidden_size": text["hidden_size"], "depth": depth, "fullatt_block_indexes": blocks,
        },
        "tie_word_embeddings": TIED[name],
        **ids,
    }  # fmt: skip


def heads(name: str) -> tuple[int, int, int]:
    """Query heads, key/value heads, and numbers of a head."""
    if name in SMALL:
        return SMALL[name].heads, SMALL[name].kv_heads, SMALL[name].head_size
    queries, keys = (TEXT[name][f"num_{kind}_heads"] for kind in ("attention", "key_value"))
    return queries, keys, TEXT[name]["hidden_size"] // queries


def model_of(
    given: dict[str, Any], nsa: NSASettings, dtype: torch.dtype, device: torch.device, seed: int = 0
) -> VideoNSAForConditionalGeneration:
    """Random weights drawn on the device, so that no process needs them in the host's memory; equal for equal seeds."""
    torch.manual_seed(seed)
    made = VideoNSAConfig(**given)
    made.set_nsa(nsa)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = VideoNSAForConditionalGeneration._from_config(made, dtype=dtype, attn_implementation="sdpa")
    finally:
        torch.set_default_dtype(before)
    speed_up_vision(model)
    return model


def build(
    name: str,
    nsa: NSASettings,
    dtype: torch.dtype,
    device: torch.device,
    layers: int | None = None,
    vision_layers: int | None = None,
) -> tuple[VideoNSAForConditionalGeneration, Qwen2_5_VLProcessor]:
    """A model of NAMES, and the processor for it: Qwen2.5-VL's own classes around the tiny model's tokenizer."""
    if name in SMALL:
        model, processor = build_small(name, nsa, seed=0)
        speed_up_vision(model)
        return model.to(device, dtype), processor
    processor = build_processor()
    given = config(name, layers, vision_layers, processor.tokenizer)
    return model_of(given, nsa, dtype, device), processor
