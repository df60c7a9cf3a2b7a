"""What is asked of a video file: which part of it, how many frames, how large. Pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

TEMPORAL_PATCH = 2  # frames that make one patch: an even number of frames wastes none
LONGEST = 200  # times its height that a frame may be wide, or the reverse, as Qwen2.5-VL's processor has it

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Fit:
    """How large a frame is to be: whole vision tokens, as Qwen2.5-VL's processor makes them, or a share of these."""

    token: int  # pixels of a vision token's side
    least: int  # pixels of a frame
    most: int
    share: float = 1.0  # of the tokens of a frame that these make

    def tokens(self, height: int, width: int) -> Size:
        """Vision tokens (rows, columns) of a frame that is shown in so many pixels.

        Raises ValueError for a frame more than 200 times as long as wide, as the processor does.
        """
        rows, columns = (side // self.token for side in smart_size(height, width, self.token, self.least, self.most))
        return (rows, columns) if self.share == 1 else tokens_left(rows, columns, self.share)

    def size(self, height: int, width: int) -> Size:
        """Pixels (height, width) of such a frame."""
        rows, columns = self.tokens(height, width)
        return rows * self.token, columns * self.token


@dataclass(frozen=True)
class Clip:
    """Which frames of a file. Equal clips of equal files are equal videos: a key, with the file's fingerprint."""

    frames: int | None = None  # at most; None: all, or as many as fps asks for
    fps: float | None = None  # frames a second of the video; None: `frames` alone decides
    start: float | None = None  # of the part, seconds as a player counts them; None: the video's begin
    end: float | None = None  # None: the video's end; one past it means it too
    share: float = 1.0  # of the frames that frames and fps make, in whole temporal patches, at least one
    fit: Fit | None = None  # None: as large as they are shown
    tokens: int | None = None  # vision tokens of the whole clip, at most; at least one temporal patch. Needs a fit

    def choose(self, first: int, last: int, rate: float, height: int, width: int) -> np.ndarray:
        """Indices of the frames to take of those from first to last; `rate`: these a second; they have this size."""
        frames = self.frames
        if self.tokens is not None and self.fit is not None:
            rows, columns = self.fit.tokens(height, width)
            frames = min(frames or last + 1, TEMPORAL_PATCH * max(1, self.tokens // (rows * columns)))
        return choose_frames(first, last, rate, frames, self.fps, self.share)


def choose_frames(
    first: int, last: int, rate: float, frames: int | None, fps: float | None, share: float = 1.0
) -> np.ndarray:
    """Indices of the frames to take from first to last, evenly spaced; an even number where there are two or more."""
    available = last - first + 1
    wanted = available if fps is None else round(available / rate * fps)
    wanted = min(wanted, available, frames or available)
    wanted = max(wanted - wanted % TEMPORAL_PATCH, min(TEMPORAL_PATCH, available))
    wanted = min(wanted, TEMPORAL_PATCH * max(1, round(share * wanted / TEMPORAL_PATCH)))
    return np.linspace(first, last, wanted).round().astype(int)


def smart_size(height: int, width: int, token: int, least: int, most: int) -> Size:
    """Height and width in whole tokens, `least` to `most` pixels, as near to the shape as that allows.

    The rule of transformers' smart_resize for Qwen2-VL, to the last pixel, without its imports.
    """
    if max(height, width) / min(height, width) > LONGEST:
        raise ValueError(f"a frame of {width} x {height} pixels: one side may be {LONGEST} times the other at most")
    rows, columns = round(height / token), round(width / token)
    if rows * columns * token**2 > most:
        scale = math.sqrt(height * width / most)
        rows, columns = (max(1, math.floor(side / scale / token)) for side in (height, width))
    elif rows * columns * token**2 < least:
        scale = math.sqrt(least / (height * width))
        rows, columns = (math.ceil(side * scale / token) for side in (height, width))
    return rows * token, columns * token


def tokens_left(rows: int, columns: int, share: float) -> Size:
    """Of rows x columns vision tokens the rectangle whose tokens come nearest to a share of them, nearly as wide as it
    was for its height: errors are ratios, and one of the number counts twice as much as one of the shape."""

    def error(size: Size) -> float:
        number, shape = size[0] * size[1] / (share * rows * columns), size[1] / size[0] * rows / columns
        return 2 * abs(math.log(number)) + abs(math.log(shape))

    wanted = share * rows * columns
    sizes = [
        (high, wide)
        for high in range(1, rows + 1)
        for wide in {max(1, min(columns, math.floor(wanted / high))), max(1, min(columns, math.ceil(wanted / high)))}
    ]
    return min(sorted(sizes), key=error)
