"""A decoded frame as a player shows it: its colours, the right way up, in square pixels; and as large as is asked."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np
from av.sidedata.sidedata import SideData
from av.video.reformatter import VideoReformatter

LIMITED, FULL = 1, 2  # AVColorRange
BT601 = (2, 5, 6)  # AVColorSpace: not said (FFmpeg takes it then), and its two names
USUAL = 5

Size = tuple[int, int]  # height, width


class Pictures:
    """Frames of one stream as arrays. All get the size of the first, also where the stream changes its own.

    Args:
        aspect: width of a pixel over its height; None: they are square.
        fit: the size to give to a frame that is shown in (height, width); None: that size.
    """

    def __init__(self, aspect: Fraction | None, fit: Callable[[int, int], Size] | None) -> None:
        self.aspect, self.fit = aspect or Fraction(1), fit
        self.shown: Size | None = None  # the first frame's, before it is made to fit
        self.size: Size = (0, 0)
        self._converters: dict[tuple[int, bool], VideoReformatter] = {}

    def of(self, frame: av.VideoFrame) -> np.ndarray:
        """uint8 RGB [H, W, 3]."""
        upright, on_its_side = turned(self._rgb(frame), _matrix(frame))
        if self.shown is None:
            wide = max(1, round(frame.width * self.aspect))
            self.shown = (wide, frame.height) if on_its_side else (frame.height, wide)
            self.size = self.fit(*self.shown) if self.fit else self.shown
        return upright if upright.shape[:2] == self.size else resized(upright, self.size)

    def _rgb(self, frame: av.VideoFrame) -> np.ndarray:
        """Converted by the matrix and range that the frame names. PyAV by itself takes BT.601, limited, for all."""
        full = frame.color_range == FULL or frame.format.name.startswith("yuvj")
        matrix = USUAL if frame.colorspace in BT601 or frame.format.is_rgb else frame.colorspace
        # One for each: a converter goes on with what it was told for an earlier frame.
        converter = self._converters.setdefault((matrix, full), VideoReformatter())
        source = {"src_colorspace": matrix, "src_color_range": FULL if full else LIMITED}
        return converter.reformat(frame, format="rgb24", dst_colorspace=USUAL, **source).to_ndarray()


def turned(picture: np.ndarray, matrix: np.ndarray | None) -> tuple[np.ndarray, bool]:
    """The picture [H, W, 3] under a display matrix [3, 3], to the nearest quarter turn; whether it lay on its side.

    ISO 14496-12, 6.2.2: a point (x, y) is shown at (a x + c y, b x + d y), with a, b and c, d in the first two rows.
    """
    if matrix is None:
        return picture, False
    (a, b), (c, d) = matrix[0, :2].tolist(), matrix[1, :2].tolist()
    on_its_side = abs(b) > abs(a)
    if on_its_side:
        picture, a, d = picture.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]), on_its_side


def resized(picture: np.ndarray, size: Size) -> np.ndarray:
    """As the model's video processor resizes (torchvision, bicubic), to the last bit: it finds nothing more to do.

    What torchvision calls is called here: to import torchvision takes 3 s of each process that reads.
    """
    import torch
    from torch.nn.functional import interpolate

    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None]
    made = interpolate(pixels, list(size), mode="bicubic", align_corners=False, antialias=True)
    return made[0].permute(1, 2, 0).numpy()


def _matrix(frame: av.VideoFrame) -> np.ndarray | None:
    data = frame.side_data.get("DISPLAYMATRIX")
    return np.frombuffer(bytes(data), np.int32).reshape(3, 3) if isinstance(data, SideData) else None
