"""A process that reads clips for its parent: python -m videonsa.video.worker FD, a socket, its only door.

A decoder may hang, crash, or take memory without end: here it takes no training and no evaluation with it.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from videonsa.disk import DiskError
from videonsa.video.clip import Clip
from videonsa.video.index import VideoError, Work
from videonsa.video.reading import Video, read

BEAT = 0.25  # seconds from one sign of life to the next


def serve(fd: int) -> None:
    """Answer each (path, clip, threads) until nobody asks any more: with a Video, whose frames come behind it as a file
    in memory, or with an exception. None in between is a sign of life."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent's to handle, who may read to the end of a step
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    parent = Connection(fd)
    parent.send(None)  # here I am
    with socket.socket(fileno=os.dup(fd)) as door:
        while True:
            try:
                path, clip, threads = parent.recv()
            except EOFError:
                return
            answer = _read(parent, path, clip, threads)
            if isinstance(answer, Exception):
                parent.send(answer)
            else:
                parent.send((replace(answer, frames=answer.frames[:0]), answer.frames.shape))
                _hand_over(door, answer.frames)


def _read(parent: Connection, path: Path, clip: Clip, threads: int) -> Video | Exception:
    work = Work()
    with _pulse(parent, work):
        try:
            return read(path, clip, work, threads)
        except (VideoError, DiskError) as error:
            return error
        except Exception as error:  # a library's: nobody knows whether it can be sent
            return VideoError(f"video {path.name}: {type(error).__name__}: {error}")


@contextmanager
def _pulse(parent: Connection, work: Work) -> Iterator[None]:
    """Signs of life, as long as packets are read, frames decoded, or what resizes them is imported."""
    done = threading.Event()

    def beat() -> None:
        seen = (0, 0)
        while not done.wait(BEAT):
            if seen != (seen := (work.packets, work.decoded)) or _imports_torch():
                parent.send(None)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _imports_torch() -> bool:
    """Off a slow disk that takes long, and no decoder hangs."""
    return getattr(getattr(sys.modules.get("torch"), "__spec__", None), "_initializing", False)


def _hand_over(door: socket.socket, frames: np.ndarray) -> None:
    """As a file without a name, in memory: it goes when the last process that has it does."""
    file = os.memfd_create("videonsa-frames")
    try:
        with open(file, "wb", closefd=False) as stream:
            stream.write(frames.data)
        socket.send_fds(door, [b"\0"], [file])
    finally:
        os.close(file)


def _end_with(parent: int) -> None:
    """End this process when its parent has gone, also out of a decoder that hangs."""
    while os.getppid() == parent:
        time.sleep(BEAT)
    os._exit(1)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
