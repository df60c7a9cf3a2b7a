"""Which tokens of a call stand for its images and videos; every other token is text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

KINDS = {"image": 1, "video": 2}  # and their value in mm_token_type_ids
PIXELS = {"image": ("pixel_values", "image_grid_thw"), "video": ("pixel_values_videos", "video_grid_thw")}


def count_features(inputs: Mapping[str, Any], merge_size: int) -> dict[str, int]:
    """How many vision tokens a forward's arguments bring features for, by kind; a kind that has none is absent.

    They bring pixels and grids [items, 3], or features that `generate` encoded before.
    """
    counts = {}
    encoded = inputs.get("mm_encoder_outputs") or {}
    for kind, (pixels, grid) in PIXELS.items():
        if encoded.get(kind) is not None:
            counts[kind] = sum(len(features) for features in encoded[kind].pooler_output)
        elif inputs.get(pixels) is not None and inputs.get(grid) is not None:
            counts[kind] = int(inputs[grid].prod(-1).sum()) // merge_size**2
    return counts


def find_vision(
    input_ids: Tensor, token_types: Tensor | None, counts: Mapping[str, int], token_ids: Mapping[str, int]
) -> Tensor:
    """The tokens that stand for features: bool [B, L].

    Where there are more image or video tokens than features, a model generated the rest, and `token_types` (0 for
    those) say which. Without types, or where these do not fit, all are returned: the stock model then refuses them.
    """
    is_vision = torch.zeros_like(input_ids, dtype=torch.bool)
    for kind, count in counts.items():
        found = input_ids == token_ids[kind]
        if token_types is not None and int(found.sum()) > count:
            found &= types_of_call(token_types, input_ids.shape[1]) == KINDS[kind]
        is_vision |= found
    return is_vision


def types_of_call(token_types: Tensor, length: int) -> Tensor:
    """mm_token_type_ids of a call's `length` tokens, the last ones; tokens beyond the types were generated: text, 0."""
    return torch.nn.functional.pad(token_types, (0, max(length - token_types.shape[1], 0)))[:, -length:]
