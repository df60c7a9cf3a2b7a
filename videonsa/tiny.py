"""A VideoNSA small enough to learn on two CPU cores, made on the spot: 0.36M parameters and the real processor classes.

Choices that made it learn (measured): the answer is a word, one token; high position frequencies for all three axes
(`mrope_section` of ones, rope_theta 10); initial weights of 0.1 (with 0.05, questions about order are learned late or
not at all).
"""

from __future__ import annotations

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
from videonsa.synth import vocabulary

PATCH = 14  # px; a vision token covers 2 x 2 patches of 2 frames
TOKEN = 2 * PATCH  # px of a vision token's side
FRAME = 2 * TOKEN  # px of a frame's side while training: 4 vision tokens a 2-frame patch
HIDDEN, HEADS, KEY_VALUE_HEADS, LAYERS = 64, 4, 2, 3
INITIAL_STD = 0.1

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


def build_tiny(nsa: NSASettings, seed: int) -> tuple[VideoNSAForConditionalGeneration, Qwen2_5_VLProcessor]:
    """A tiny VideoNSA with random weights (float32) that depend on the seed alone, and its processor."""
    processor = build_processor()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VideoNSAForConditionalGeneration(tiny_config(nsa, processor.tokenizer))
    return model, processor


def tiny_config(nsa: NSASettings, tokenizer: Qwen2Tokenizer) -> VideoNSAConfig:
    """Qwen2.5-VL in small; every block of the vision tower sees its whole frame."""
    frequencies = HIDDEN // HEADS // 2
    token = tokenizer.convert_tokens_to_ids
    config = VideoNSAConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KEY_VALUE_HEADS,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10.0, "mrope_section": [1] * frequencies},
            "initializer_range": INITIAL_STD,
            "bos_token_id": token("<|endoftext|>"),
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
        },
        vision_config={
            "depth": 1,
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "num_heads": 2,
            "patch_size": PATCH,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "window_size": 4 * TOKEN,
            "out_hidden_size": HIDDEN,
            "fullatt_block_indexes": [0],
            "tokens_per_second": 1,
            "initializer_range": INITIAL_STD,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        initializer_range=INITIAL_STD,
        tie_word_embeddings=True,
    )
    config.set_nsa(nsa)
    return config


def build_processor() -> Qwen2_5_VLProcessor:
    """Qwen2.5-VL's own processor classes around the byte-level tokenizer; frames of one vision token up to 16."""
    pixels = {"shortest_edge": TOKEN**2, "longest_edge": FRAME**2}
    sizes: dict[str, Any] = {"patch_size": PATCH, "temporal_patch_size": 2, "merge_size": 2, "size": pixels}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**sizes),
        tokenizer=build_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(**sizes, cap_pixels_per_frame=False),
        chat_template=CHAT_TEMPLATE,
    )


def build_tokenizer() -> Qwen2Tokenizer:
    """Bytes, and one token for each word of the synthetic questions, with and without a space before it."""
    ids = {character: number for number, character in enumerate(sorted(ByteLevel.alphabet()))}
    merges: list[tuple[str, str]] = []
    for start in ("Ġ", ""):  # Ġ stands for the space
        for word in ("user", "assistant", *vocabulary()):
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
