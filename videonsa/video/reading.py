"""A clip of a video file as an array, with what the model is told of its times."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np

from videonsa.disk import check_readable
from videonsa.video.clip import Clip

if TYPE_CHECKING:
    from transformers.video_utils import VideoMetadata

ENOUGH = 0.9  # of the wanted frames: headers often promise a frame or two more than there are
SAMPLE = 1 << 16  # bytes of a video file that tell it from another, at its begin, middle and end


class VideoError(ValueError):
    """A file that holds no video that can be decoded. The message names the file without its folder."""


@dataclass(frozen=True)
class Work:
    """What reading a clip took."""

    decoded: int = 0  # frames
    skipped: int = 0  # frames that were passed over undecoded, as no other refers to them
    seconds: float = 0.0


@dataclass(frozen=True)
class Video:
    """A clip that was read."""

    frames: np.ndarray  # uint8 RGB [T, H, W, 3], in the size that the clip's fit makes
    indices: np.ndarray  # int [T]: which of the frames that the file shows, from 0
    total: int  # frames that the part shows, of which these are chosen
    rate: float  # of these a second
    height: int  # pixels of a frame as it is shown, before it was made to fit
    width: int
    work: Work = field(default_factory=Work)

    @property
    def seconds(self) -> float:
        """How long the part lasts."""
        return self.total / self.rate

    @property
    def fps(self) -> float:
        """Of the frames taken: from it the model learns how much time lies between them."""
        return len(self.frames) / self.seconds

    def metadata(self) -> VideoMetadata:
        """As transformers' processors take it."""
        from transformers.video_utils import VideoMetadata

        return VideoMetadata(
            total_num_frames=self.total,
            fps=self.rate,
            duration=self.seconds,
            width=self.width,
            height=self.height,
            video_backend="pyav",
            frames_indices=self.indices,
        )


def read(path: str | Path, clip: Clip) -> Video:
    """The clip's frames.

    Raises:
        VideoError: the file is missing, empty, damaged, or has no such part.
        DiskError: the disk does not give the file's bytes.
    """
    with opened(Path(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = float(stream.average_rate or 0)
        total = stream.frames or round(rate * (container.duration or 0) / av.time_base)
        if rate <= 0 or total <= 0:
            raise VideoError("it says neither how many frames it has nor how long it is")
        first = min(round((clip.start or 0) * rate), total - 1)
        last = total - 1 if clip.end is None else max(first, min(round(clip.end * rate), total) - 1)
        chosen = clip.choose(first, last, rate, stream.height, stream.width)
        frames = _decode(container, chosen)
        return Video(frames, chosen[: len(frames)], last - first + 1, rate, stream.height, stream.width)


def key(path: str | Path, clip: Clip) -> tuple[str, Clip]:
    """What decides the clip's frames: equal keys, equal videos. Nothing is decoded."""
    return fingerprint(path), clip


def fingerprint(path: str | Path) -> str:
    """64 digits: of a file its size and samples of its bytes, wherever it lies; "absent" where there is none."""
    path = Path(path)
    if not path.is_file():
        return "absent"
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as stream:
        for start in (0, size // 2, max(0, size - SAMPLE)):
            stream.seek(start)
            digest.update(stream.read(SAMPLE))
    return digest.hexdigest()


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
def opened(path: Path) -> Iterator[av.container.InputContainer]:
    """The file's container; what goes wrong with it in the block becomes a VideoError, or a DiskError."""
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
