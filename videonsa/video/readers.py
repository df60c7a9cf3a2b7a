"""Clips read ahead of whoever needs them, by worker processes."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np

from videonsa.video.clip import Clip
from videonsa.video.index import VideoError
from videonsa.video.reading import STALLED, Video

ROOT = Path(__file__).parents[2]
CORES_EACH = 2  # of a worker: one video a worker is decoded by so many threads
MOST = 8  # workers; each holds a clip, 0.15 GB for 1,024 frames of 64 tokens a patch
UNKILLED = 5.0  # seconds that the end of a killed worker is waited for

Watch = Callable[[Path, Clip, Video], None]  # is shown a clip that was read; raises nothing
Asked = TypeVar("Asked")
Made = TypeVar("Made")


def cores() -> int:
    """Those of this process: of the machine's as many as it may use, shared with the others that torchrun started."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, mine // int(os.environ.get("LOCAL_WORLD_SIZE") or 1))


class Readers:
    """Worker processes that read clips side by side. Several threads may ask one Readers.

    They start when the first clips are asked for, and end with `close`, with the context, or with this object.

    Args:
        count: of workers; None: by the cores that there are.
        stalled: seconds without a packet or a frame after which a reading is given up; its worker is replaced.
    """

    def __init__(self, count: int | None = None, stalled: float = STALLED) -> None:
        self.count = count or max(1, min(MOST, cores() // CORES_EACH))
        self.watch: Watch | None = None  # sees each clip before whoever asked for it
        self._threads = ThreadPoolExecutor(self.count, thread_name_prefix="videonsa-reader")
        self._idle: deque[_Worker] = deque(_Worker(max(1, cores() // self.count), stalled) for _ in range(self.count))
        self._end = weakref.finalize(self, _end, self._threads, tuple(self._idle))

    def read(self, path: str | Path, clip: Clip) -> Future[Video]:
        """The clip, soon. The future's exceptions are those of videonsa.video.read; a VideoError also for a decoder
        that hangs or dies."""
        return self._threads.submit(_read, self._idle, Path(path), clip, self.watch)

    def close(self) -> None:
        """End the workers. What waits is not read."""
        self._end()

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _read(idle: deque[_Worker], path: Path, clip: Clip, watch: Watch | None) -> Video:
    worker = idle.pop()  # as many threads as workers: there is one
    try:
        video = worker.read(path, clip)
    finally:
        idle.append(worker)
    if watch is not None:
        watch(path, clip, video)
    return video


def _end(threads: ThreadPoolExecutor, workers: Sequence[_Worker]) -> None:
    threads.shutdown(wait=False, cancel_futures=True)
    for worker in workers:
        worker.end()


class _Worker:
    """A process that reads one clip at a time; started when one is asked for, and again when the last one died."""

    def __init__(self, threads: int, stalled: float) -> None:
        self.threads, self.stalled = threads, stalled
        self.ended = False
        self.process: subprocess.Popen | None = None

    def read(self, path: Path, clip: Clip) -> Video:
        if self.process is None or self.process.poll() is not None:
            self._start()
        try:
            self.connection.send((path, clip, self.threads))
            while self.connection.poll(self.stalled):
                answer = self.connection.recv()
                if isinstance(answer, Exception):
                    raise answer
                if answer is not None:
                    video, shape = answer
                    return replace(video, frames=self._frames(shape))
        except (EOFError, ConnectionError):
            raise VideoError(f"video {path.name}: {self._fate()}") from None
        self._kill()
        raise VideoError(f"video {path.name}: given up after {self.stalled:g} s in which nothing was decoded")

    def end(self) -> None:
        """For good."""
        self.ended = True
        self._kill()

    def _start(self) -> None:
        if self.ended:
            raise VideoError("the readers are closed")
        ours, theirs = socket.socketpair()
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "videonsa.video.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},  # torch resizes; one thread will do
            )
        self.connection, self.door = Connection(os.dup(ours.fileno())), ours
        self.connection.poll(STALLED)  # imports take their time where many start at once

    def _kill(self) -> None:
        """A process that waits for a disk cannot even be killed until that answers: then it is left to itself."""
        if self.process is not None:
            self.process.kill()
            try:
                self.process.wait(UNKILLED)
            except subprocess.TimeoutExpired:
                self.process = None

    def _fate(self) -> str:
        code = 0 if self.process is None else self.process.wait()
        return f"its decoder died of {signal.Signals(-code).name}" if code < 0 else "its decoder ended"

    def _frames(self, shape: tuple[int, ...]) -> np.ndarray:
        """The file in memory that comes behind the answer, as an array."""
        _, (file,), *_ = socket.recv_fds(self.door, 1, 1)
        try:
            return np.frombuffer(mmap.mmap(file, 0), np.uint8).reshape(shape)
        finally:
            os.close(file)


@dataclass
class Waits:
    """Which side waited, seconds: the model for the reading, or what was read for the model."""

    model: float = 0.0
    reading: float = 0.0


def ahead(
    asked: Iterable[Asked], start: Callable[[Asked], Sequence[Future[Made]]], depth: int, waits: Waits | None = None
) -> Iterator[tuple[Asked, Sequence[Future[Made]]]]:
    """Each of `asked`, in order, with its finished futures; meanwhile those of the next `depth` are started.

    What a future raises is for the caller, who asks it for its result: one bad file is one question's error.
    """
    waits = waits or Waits()
    waiting: deque[tuple[Asked, Sequence[Future[Made]], list[float]]] = deque()

    def begin(one: Asked) -> None:
        futures, done = start(one), [time.perf_counter()]
        for future in futures:
            future.add_done_callback(lambda _: done.append(time.perf_counter()))
        waiting.append((one, futures, done))

    def finish() -> tuple[Asked, Sequence[Future[Made]]]:
        one, futures, done = waiting.popleft()
        came = time.perf_counter()
        for future in futures:
            future.exception()
        waits.model += time.perf_counter() - came
        waits.reading += max(0.0, came - max(done)) if futures else 0.0
        return one, futures

    try:
        for one in asked:
            begin(one)
            if len(waiting) > depth:
                yield finish()
        while waiting:
            yield finish()
    finally:
        for _, futures, _ in waiting:
            for future in futures:
                future.cancel()
