"""A clip of a video file as an array, with what the model is told of its times."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from videonsa.disk import check_readable
from videonsa.video.clip import Clip
from videonsa.video.decode import Damaged, Lost, all_frames, chosen_frames, decodable
from videonsa.video.index import WHOLE, Index, VideoError, Work, scan, timed
from videonsa.video.picture import Pictures

if TYPE_CHECKING:
    from transformers.video_utils import VideoMetadata

Looked = TypeVar("Looked")

ABSENT = "absent"  # the fingerprint of no file
STALLED = 60.0  # seconds without a packet or a frame, or without an answer of the disk, after which a file is given up
SAMPLE = 1 << 16  # bytes of a video file that tell it from another, at its begin, middle and end


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

    @classmethod
    def of(cls, frames: np.ndarray, fps: float) -> Video:
        """All frames of a video that is no file."""
        return cls(frames, np.arange(len(frames)), len(frames), fps, *frames.shape[1:3])

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


def read(path: str | Path, clip: Clip, work: Work | None = None, threads: int = 0) -> Video:
    """The clip's frames: those that are chosen of all that decoding the whole file gives.

    Args:
        work: is counted up meanwhile, so that another thread sees that it goes on.
        threads: of the decoder; 0: as it likes.
    Raises:
        VideoError: the file is missing, empty, damaged, or has no such part.
        DiskError: the disk does not give the file's bytes.
    """
    path, work, began = Path(path), work or Work(), time.perf_counter()
    with _named(path):
        try:
            video = _by_seeking(path, clip, work, threads)
        except Damaged:
            video = _by_seeking(path, clip, work, 1)
        video = video or _by_decoding_all(path, clip, work)
    work.seconds = time.perf_counter() - began
    return video


def check(path: str | Path) -> None:
    """Raise VideoError, or DiskError, when the file cannot be opened as a video. Nothing is decoded."""
    with _named(Path(path)), _opened(Path(path), 1):
        pass


def key(path: str | Path, clip: Clip) -> tuple[str, Clip]:
    """What decides the clip's frames: equal keys, equal videos. Nothing is decoded."""
    return fingerprint(path), clip


def fingerprint(path: str | Path) -> str:
    """64 digits: of a file its size and samples of its bytes, wherever it lies; ABSENT where there is none."""
    path = Path(path)
    if not path.is_file():
        return ABSENT
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as stream:
        for start in (0, size // 2, max(0, size - SAMPLE)):
            stream.seek(start)
            digest.update(stream.read(SAMPLE))
    return digest.hexdigest()


def in_time(look: Callable[[Path], Looked], path: Path, seconds: float = STALLED) -> Looked:
    """What `look` finds of the file. Raises VideoError when it takes longer: its disk does not answer. For what only
    opens a file; to decode is for videonsa.video.Readers."""
    found: Future[Looked] = Future()

    def run() -> None:
        try:
            found.set_result(look(path))
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=run, daemon=True, name=f"look at {path.name}").start()
    if not wait([found], seconds).done:
        raise VideoError(f"video {path.name}: given up after {seconds:g} s in which its disk did not answer")
    return found.result()


class _Taken:
    """The chosen frames, as they come."""

    def __init__(self, stream: VideoStream, clip: Clip, index: Index, work: Work) -> None:
        self.first, self.last, self.rate = index.part(clip.start, clip.end)
        height, width = stream.codec_context.height, stream.codec_context.width
        self.chosen = clip.choose(self.first, self.last, self.rate, height, width)
        self.pictures = Pictures(stream.sample_aspect_ratio, clip.fit.size if clip.fit else None)
        self.missing = np.ones(len(self.chosen), bool)
        self.frames = np.empty(0)
        self.work = work

    def put(self, place: int, frame: av.VideoFrame) -> None:
        """Keep a frame, small."""
        picture = self.pictures.of(frame)
        if not len(self.frames):
            self.frames = np.empty((len(self.chosen), *picture.shape), np.uint8)
        self.frames[place], self.missing[place] = picture, False

    def video(self) -> Video:
        """When none is missing."""
        assert self.pictures.shown is not None
        total = self.last - self.first + 1
        return Video(self.frames, self.chosen, total, self.rate, *self.pictures.shown, self.work)


def _by_seeking(path: Path, clip: Clip, work: Work, threads: int) -> Video | None:
    """None when only decoding all frames tells which they are. Raises Damaged, with several threads."""
    with _opened(path, threads) as (container, stream):
        index = scan(container, stream, work)
        there = len(index)
        if index.packets is not None and index.packets.cut:
            index = _whole_frames(container, stream, index, work)
        while index.packets is not None:
            taken = _Taken(stream, clip, index, work)
            try:
                for place, frame in chosen_frames(container, stream, index.packets, taken.chosen, work):
                    taken.put(place, frame)
                if not taken.missing.any():
                    return taken.video()
                since = int(taken.chosen[taken.missing.argmax()])
                fine = decodable(container, stream, index.packets, since, work)
            except Lost:
                return None
            end = int(fine.argmin())
            if fine[end:].any():
                return None  # not the end alone is damaged
            _check_enough(since + end, there)
            index = index.without(np.arange(since + end, len(index)))
    return None


def _whole_frames(container: InputContainer, stream: VideoStream, index: Index, work: Work) -> Index:
    """Without those that need the last packet, which is cut, where it does not decode. It is not always shown last."""
    assert index.packets is not None
    shown = np.flatnonzero(index.packets.holds == len(index.packets.pts) - 1)
    if not len(shown):
        return index
    since = int(shown[0])
    try:
        fine = decodable(container, stream, index.packets, since, work)
    except Lost:
        return replace(index, packets=None)
    _check_enough(since + int(fine.sum()), len(index))
    return index.without(since + np.flatnonzero(~fine))


def _by_decoding_all(path: Path, clip: Clip, work: Work) -> Video:
    """As many frames come as packets promise; or else once more, when their number is known."""
    with _opened(path, 1) as (container, stream):
        index = scan(container, stream, work)
    there = len(index)
    while True:
        with _opened(path, 1) as (container, stream):
            taken = _Taken(stream, clip, index, work)
            places = {number: place for place, number in enumerate(taken.chosen.tolist())}
            times = []
            for number, frame in enumerate(all_frames(container, stream, work)):
                times.append(frame.pts)
                if number in places:
                    taken.put(places[number], frame)
            _check_enough(len(times), there)
            if len(times) == len(index):
                return taken.video()
            index = timed(container, stream, times)


def _check_enough(count: int, there: int) -> None:
    if count < max(1, WHOLE * there):
        raise VideoError(f"{count} of {there} frames can be decoded")


@contextmanager
def _opened(path: Path, threads: int) -> Iterator[tuple[InputContainer, VideoStream]]:
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream):
            raise VideoError("there is no video in it")
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        yield container, stream


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What goes wrong with the file in the block becomes a VideoError that names it, or a DiskError."""
    try:
        if path.exists() and not path.is_file():
            raise VideoError("it is no file")  # a pipe would be waited for
        yield
    except VideoError as error:
        raise VideoError(f"video {path.name}: {error}") from None
    except (av.error.FFmpegError, OSError, ValueError) as error:
        check_readable(path)
        raise VideoError(f"video {path.name}: {getattr(error, 'strerror', None) or error}") from None
