"""Fewer frames, fewer pixels: a share of the vision tokens that a video or an image would have, before the tower."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode, functional
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

Size = tuple[int, int]  # height, width


def tokens_left(height: int, width: int, share: float) -> Size:
    """Of height x width vision tokens the rectangle whose tokens come nearest to a share of them, nearly as wide as it
    was for its height: errors are ratios, and one of the number counts twice as much as one of the shape."""

    def error(size: Size) -> float:
        number, shape = size[0] * size[1] / (share * height * width), size[1] / size[0] * height / width
        return 2 * abs(math.log(number)) + abs(math.log(shape))

    wanted = share * height * width
    sizes = [
        (rows, columns)
        for rows in range(1, height + 1)
        for columns in {max(1, min(width, math.floor(wanted / rows))), max(1, min(width, math.ceil(wanted / rows)))}
    ]
    return min(sorted(sizes), key=error)


def tokens_of(height: int, width: int, token: int, size: Mapping[str, int]) -> Size:
    """Vision tokens (rows, columns) that the processor makes of a frame or an image of so many pixels, under its limits
    `size`; `token`: pixels of a token's side."""
    resized = smart_resize(height, width, token, min_pixels=size["shortest_edge"], max_pixels=size["longest_edge"])
    return resized[0] // token, resized[1] // token


def shrink(pixels: Any, share: float, token: int, size: Mapping[str, int]) -> Any:
    """A video [T, H, W, 3] or an image of that share of the tokens, resized as the processor would: to whole tokens,
    which it leaves as they are."""
    image = not isinstance(pixels, np.ndarray) or pixels.ndim == 3
    frames = np.array(pixels.convert("RGB")) if isinstance(pixels, Image.Image) else np.asarray(pixels)
    frames = frames[None] if image else frames
    rows, columns = tokens_left(*tokens_of(frames.shape[1], frames.shape[2], token, size), share)
    resized = functional.resize(
        torch.from_numpy(frames).permute(0, 3, 1, 2),
        [rows * token, columns * token],
        interpolation=InterpolationMode.BICUBIC,
        antialias=True,
    )
    shrunk = resized.permute(0, 2, 3, 1).contiguous().numpy()
    return Image.fromarray(shrunk[0]) if image else shrunk
