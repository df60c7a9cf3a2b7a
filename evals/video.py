"""Frames of a video file, by PyAV, with the metadata from which the model learns how much time lies between them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
from transformers.video_utils import VideoMetadata

from videonsa.disk import check_readable

ENOUGH = 0.9  # of the wanted frames: headers often promise a frame or two more than there are
TEMPORAL_PATCH = 2  # frames that make one patch: an even number of frames wastes none


class VideoError(ValueError):
    """A file that holds no video that can be decoded. The message names the file without its folder."""


def read_video(
    path: str | Path,
    *,
    frames: int | None,
    fps: float | None,
    start: float | None = None,
    end: float | None = None,
    share: float = 1.0,
) -> tuple[np.ndarray, VideoMetadata]:
    """Frames uint8 [T, H, W, 3], evenly spaced from first to last, and metadata of the video, or of the part of it.

    Args:
        frames: how many at most; None: all, or as many as fps asks for.
        fps: frames a second of the video; None: `frames` alone decides.
        start, end: part of the video, seconds; None: its begin, its end.
        share: of the frames that `frames` and `fps` make, in whole temporal patches, at least one.
    Raises:
        VideoError: the file is missing, empty or damaged.
    """
    with _opened(Path(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = float(stream.average_rate or 0)
        total = stream.frames or round(rate * (container.duration or 0) / av.time_base)
        if rate <= 0 or total <= 0:
            raise VideoError("it says neither how many frames it has nor how long it is")
        first = min(round((start or 0) * rate), total - 1)
        last = total - 1 if end is None else max(first, min(round(end * rate), total) - 1)
        chosen = choose_frames(first, last, rate, frames, fps, share)
        video = _decode(container, chosen)
        part = last - first + 1  # the model reads the time between frames from it: chosen / part * rate
        metadata = VideoMetadata(
            total_num_frames=part,
            fps=rate,
            duration=part / rate,
            width=stream.width,
            height=stream.height,
            video_backend="pyav",
            frames_indices=chosen[: len(video)],
        )
    return video, metadata


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


def _decode(container: av.container.InputContainer, chosen: np.ndarray) -> np.ndarray:
    wanted = set(chosen.tolist())
    taken = []
    for index, frame in enumerate(container.decode(video=0)):
        if index in wanted:
            taken.append(frame.to_ndarray(format="rgb24"))
        if index >= chosen[-1]:
            break
    if len(taken) < ENOUGH * len(chosen):
        raise VideoError(f"{len(taken)} of {len(chosen)} frames could be decoded")
    return np.stack(taken)


@contextmanager
def _opened(path: Path) -> Iterator[av.container.InputContainer]:
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise VideoError("there is no video in it")
            yield container
    except (VideoError, av.error.FFmpegError, OSError) as error:
        check_readable(path)
        reason = (
            str(error) if isinstance(error, VideoError) else getattr(error, "strerror", None) or type(error).__name__
        )
        raise VideoError(f"video {path.name}: {reason}") from None
