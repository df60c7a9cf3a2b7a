"""A VideoNSA of a small shape, made on the spot, with the real processor classes and a tokenizer of its own.

Each word of the synthetic questions is one token, and every rotary frequency serves one axis alone (`mrope_section` of
ones), so that each axis has fast and slow ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    AddedToken,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from videonsa.config import NSASettings
from videonsa.modeling import VideoNSAConfig, VideoNSAForConditionalGeneration
from videonsa.small import PATCH, SMALL, TOKEN, Small
from videonsa.synth import LONG, SHORT, vocabulary

FRAME = SMALL["tiny"].frame  # px: 4 vision tokens a 2-frame patch

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

# Qwen2.5-VL's chat format without its system turn: 20 text tokens a question instead of 60.
CHAT_TEMPLATE = """{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{% if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'video' -%}
<|vision_start|><|video_pad|><|vision_end|>
{%- elif part['type'] == 'image' -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- else -%}
{{ part['text'] }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}"""


def build_small(name: str, nsa: NSASettings, seed: int) -> tuple[VideoNSAForConditionalGeneration, Qwen2_5_VLProcessor]:
    """The model of a name of SMALL with random weights (float32) that depend on the seed alone, and its processor."""
    processor = build_processor(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VideoNSAForConditionalGeneration(small_config(SMALL[name], nsa, processor.tokenizer))
    return model, processor


def build_tiny(nsa: NSASettings, seed: int) -> tuple[VideoNSAForConditionalGeneration, Qwen2_5_VLProcessor]:
    """`build_small` of the smallest."""
    return build_small("tiny", nsa, seed)


def small_config(shape: Small, nsa: NSASettings, tokenizer: Qwen2Tokenizer) -> VideoNSAConfig:
    """The shape as Qwen2.5-VL's configuration; windows of the vision tower are 4 x 4 tokens."""
    frequencies = shape.head_size // 2
    token = tokenizer.convert_tokens_to_ids
    config = VideoNSAConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": shape.hidden,
            "intermediate_size": shape.intermediate,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "max_position_embeddings": shape.longest,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": shape.rope_theta,
                "mrope_section": [1] * frequencies,
            },
            "initializer_range": shape.initial_std,
            "bos_token_id": token("<|endoftext|>"),
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
        },
        vision_config={
            "depth": shape.tower_layers,
            "hidden_size": shape.tower_hidden,
            "intermediate_size": 2 * shape.tower_hidden,
            "num_heads": shape.tower_heads,
            "patch_size": PATCH,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "window_size": 4 * TOKEN,
            "out_hidden_size": shape.hidden,
            "fullatt_block_indexes": [shape.tower_layers - 1],
            "tokens_per_second": 1,
            "initializer_range": shape.initial_std,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        initializer_range=shape.initial_std,
        tie_word_embeddings=True,
    )
    config.set_nsa(nsa)
    return config


def build_processor(name: str = "tiny") -> Qwen2_5_VLProcessor:
    """Qwen2.5-VL's own processor classes around the byte-level tokenizer, for frames as large as the model's."""
    shape = SMALL[name]
    pixels = {"shortest_edge": TOKEN**2, "longest_edge": shape.frame**2}
    sizes: dict[str, Any] = {"patch_size": PATCH, "temporal_patch_size": 2, "merge_size": 2, "size": pixels}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**sizes),
        tokenizer=build_tokenizer(vocabulary(LONG if shape.is_long else SHORT)),
        video_processor=Qwen2VLVideoProcessor(**sizes, cap_pixels_per_frame=False),
        chat_template=CHAT_TEMPLATE,
    )


def build_tokenizer(words: Sequence[str]) -> Qwen2Tokenizer:
    """Bytes, and one token for each of the words, with and without a space before it."""
    ids = {character: number for number, character in enumerate(sorted(ByteLevel.alphabet()))}
    merges: list[tuple[str, str]] = []
    for start in ("Ġ", ""):  # Ġ stands for the space
        for word in ("user", "assistant", *words):
            # What the merges so far leave apart is joined by new ones, which rank last and so change no earlier word.
            whole, *rest = byte_pair_pieces(start + word, merges)
            for piece in rest:
                merges.append((whole, piece))
                whole += piece
                ids.setdefault(whole, len(ids))
    extra = [AddedToken(name, special=True, normalized=False) for name in SPECIAL]
    return Qwen2Tokenizer(
        vocab=ids,
        merges=merges,
        unk_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=extra,
    )


def byte_pair_pieces(text: str, merges: list[tuple[str, str]]) -> list[str]:
    """What byte-pair encoding makes of a word: the earliest merge that fits is made first."""
    pieces = list(text)
    while True:
        pairs = list(pairwise(pieces))
        best = next((merge for merge in merges if merge in pairs), None)
        if best is None:
            return pieces
        at = pairs.index(best)
        pieces[at : at + 2] = ["".join(best)]
