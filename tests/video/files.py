"""Real video files, made by PyAV, and all their frames."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

HUNDREDTHS = Fraction(1, 100)


def drawn(count: int, height: int = 64, width: int = 96) -> list[np.ndarray]:
    """RGB frames that become brighter, on a pattern that moves."""
    y, x = np.mgrid[:height, :width]
    wave = 20 * np.sin(x / 7) * np.cos(y / 5)
    return [
        (30 + 2 * (i % 100) + np.roll(wave, 3 * i, axis=1))[..., None].repeat(3, 2).astype(np.uint8)
        for i in range(count)
    ]


def write(
    path: Path,
    frames: list[np.ndarray],
    *,
    codec: str = "libx264",
    rate: int = 10,
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    kind: str | None = None,
    times: list[int] | None = None,
    **context: Any,
) -> Path:
    """times: of each frame in hundredths of a second; None: 1/rate s each. context: attributes of the encoder."""
    with av.open(str(path), "w", format=kind, options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        stream.codec_context.thread_count = 1
        if times is not None:
            stream.codec_context.time_base = HUNDREDTHS
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            if times is not None:
                picture.pts, picture.time_base = times[number], HUNDREDTHS
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def all_of(path: Path) -> list[np.ndarray]:
    """Every frame that plain decoding gives, RGB. A packet that the decoder refuses is passed over."""
    frames = []
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_count = 1
        with suppress(av.error.InvalidDataError):
            for packet in container.demux(stream):
                with suppress(av.error.FFmpegError):
                    frames += [frame.to_ndarray(format="rgb24") for frame in packet.decode()]
    return frames
