"""Which tokens of a call stand for its images and videos; every other token is text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from videonsa.methods.contract import Item

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


def brings_vision(inputs: Mapping[str, Any]) -> bool:
    """Whether a forward's arguments hold pixels, or features that were encoded before."""
    encoded = inputs.get("mm_encoder_outputs") or {}
    return any(inputs.get(pixels) is not None or encoded.get(kind) is not None for kind, (pixels, _) in PIXELS.items())


def put_features(embeddings: Tensor, kinds: Tensor, encoded: Mapping[str, Any]) -> Tensor:
    """Embeddings [B, L, hidden] with the tower's features, by kind, in their tokens' places, as `find_kinds` says.

    Raises ValueError where there are more or fewer features than tokens.
    """
    rows, kinds = embeddings.flatten(0, 1), kinds.flatten()
    for kind, outputs in encoded.items():
        parts = outputs.pooler_output
        features = (parts[0] if len(parts) == 1 else torch.cat(list(parts))).to(rows.device, rows.dtype)
        places = (kinds == KINDS[kind]).nonzero()[:, 0]
        if len(places) != len(features):
            raise ValueError(
                f"{kind.capitalize()} features and {kind} tokens do not match, tokens: {len(places)}, "
                f"features: {len(features)}"
            )
        rows = rows.index_copy(0, places, features)
    return rows.view(embeddings.shape)


def find_kinds(
    input_ids: Tensor, token_types: Tensor | None, counts: Mapping[str, int], token_ids: Mapping[str, int]
) -> Tensor:
    """What each token stands for: [B, L], 0 text, 1 a feature of an image, 2 of a video.

    Where there are more image or video tokens than features, a model generated the rest, and `token_types` (0 for
    those) say which. Without types, or where these do not fit, all are returned: the stock model then refuses them.
    """
    kinds = torch.zeros_like(input_ids)
    for kind, count in counts.items():
        found = input_ids == token_ids[kind]
        if token_types is not None and int(found.sum()) > count:
            found &= types_of_call(token_types, input_ids.shape[1]) == KINDS[kind]
        kinds = kinds.masked_fill(found, KINDS[kind])
    return kinds


def keep_items(encoded: Any, kind: str, grids: Tensor, merge_size: int, seen: Mapping[str, Tensor]) -> None:
    """Tell the tower's output which image or video each of its features is, and what watching found of its tokens."""
    parts = {name: found.split([len(features) for features in encoded.pooler_output]) for name, found in seen.items()}
    encoded.items_of_features = []
    for number, (features, grid) in enumerate(zip(encoded.pooler_output, grids.tolist(), strict=True)):
        size = (grid[0], grid[1] // merge_size, grid[2] // merge_size)
        item = Item(
            KINDS[kind], size, {name: part[number] for name, part in parts.items()}, getattr(seen, "clock", None)
        )
        encoded.items_of_features.append((features, item))


def items_of(encoded: Any) -> list[Item]:
    """The items of the tower's output, as `generate` has repeated them for its beams; none of another's output."""
    known = getattr(encoded, "items_of_features", [])
    return [item for each in encoded.pooler_output for features, item in known if features is each]


def types_of_call(token_types: Tensor, length: int) -> Tensor:
    """mm_token_type_ids of a call's `length` tokens, the last ones; tokens beyond the types were generated: text, 0."""
    return torch.nn.functional.pad(token_types, (0, max(length - token_types.shape[1], 0)))[:, -length:]
