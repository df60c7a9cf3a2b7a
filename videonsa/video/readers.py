"""Clips read ahead of whoever needs them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from videonsa.video.clip import Clip
from videonsa.video.reading import Video, read

Asked = TypeVar("Asked")
Made = TypeVar("Made")


class Readers:
    """Workers that read clips side by side; a context manager, which ends them.

    Several threads may ask one Readers.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="videonsa-reader")

    def read(self, path: str | Path, clip: Clip) -> Future[Video]:
        """The clip, soon. The future's exceptions are those of videonsa.video.read."""
        return self._threads.submit(read, path, clip)

    def close(self) -> None:
        """End the workers; what waits is not read."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


@dataclass
class Waits:
    """Which side waited, seconds: the model for the reading, or what was read for the model."""

    model: float = 0.0
    reading: float = 0.0


def ahead(
    asked: Iterable[Asked], start: Callable[[Asked], Future[Made]], depth: int, waits: Waits | None = None
) -> Iterator[tuple[Asked, Future[Made]]]:
    """Each of `asked`, in order, with its finished future; meanwhile the next `depth` are started by `start`.

    What a future raises is for the caller, who asks it for its result: one bad file is one question's error.
    """
    waits, waiting = waits or Waits(), deque[tuple[Asked, Future[Made], list[float]]]()

    def begin(one: Asked) -> None:
        future, done = start(one), list[float]()
        future.add_done_callback(lambda _: done.append(time.perf_counter()))
        waiting.append((one, future, done))

    def finish() -> tuple[Asked, Future[Made]]:
        one, future, done = waiting.popleft()
        came = time.perf_counter()
        future.exception()
        left = time.perf_counter()
        waits.model += left - came
        waits.reading += max(0.0, came - (done[0] if done else came))
        return one, future

    try:
        for one in asked:
            begin(one)
            if len(waiting) > depth:
                yield finish()
        while waiting:
            yield finish()
    finally:
        for _, future, _ in waiting:
            future.cancel()
