"""A video processor that takes a video a few frames at a time, and gives the same tensors.

transformers' turns all frames into floats, and these into patches: several copies of its output at once, which for
2,048 frames of 64 tokens a patch is 1.2 GB.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, Qwen2_5_VLProcessor

FRAMES = 64  # at a time: whole temporal patches


def in_pieces(processor: Qwen2_5_VLProcessor) -> Qwen2_5_VLProcessor:
    """The processor with such a video processor, if it has none yet."""
    if getattr(processor.video_processor, "takes_pieces", False):
        return processor
    processor = copy.copy(processor)
    processor.video_processor = InPieces(processor.video_processor)
    return processor


class InPieces:
    """Called as a Qwen2-VL video processor, with videos [T, H, W, 3]; in all else it is the one that it is made of."""

    takes_pieces = True

    def __init__(self, processor: Any) -> None:
        self._whole = processor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    def __call__(self, videos: Sequence[np.ndarray], **settings: Any) -> BatchFeature:
        about = settings.pop("video_metadata", None) or [None] * len(videos)
        made = [self._one(video, one, settings) for video, one in zip(videos, about, strict=True)]
        values = [each.pop("pixel_values_videos") for each in made]
        together = made[0]
        together["pixel_values_videos"] = values[0] if len(values) == 1 else torch.cat(values)
        together["video_grid_thw"] = torch.cat([each["video_grid_thw"] for each in made])
        if "video_metadata" in together:
            together["video_metadata"] = [one for each in made for one in each["video_metadata"]]
        return together

    def _one(self, video: np.ndarray, about: Any, settings: dict[str, Any]) -> BatchFeature:
        given = settings if about is None else settings | {"video_metadata": [about]}
        first = self._whole([video[:FRAMES]], **given)
        if len(video) <= FRAMES:
            return first
        values, grid = first["pixel_values_videos"], first["video_grid_thw"].clone()
        patches = -(-len(video) // self._whole.temporal_patch_size)
        rows = len(values) // int(grid[0, 0])  # of a temporal patch
        whole = values.new_empty((patches * rows, values.shape[1]))
        whole[: len(values)] = values
        done = len(values)
        for start in range(FRAMES, len(video), FRAMES):
            values = self._whole([video[start : start + FRAMES]], **given)["pixel_values_videos"]
            whole[done : done + len(values)] = values
            done += len(values)
        grid[0, 0] = patches
        return BatchFeature({**first, "pixel_values_videos": whole, "video_grid_thw": grid})
