"""Worker processes read what read() reads; one that hangs or dies costs one clip; what is ahead keeps its order."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from tests.video.files import drawn, write
from videonsa.video import Clip, Readers, VideoError, Waits, ahead, read

Workers = Callable[[], list[psutil.Process]]
CLIP = Clip(6)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("video") / "a.mp4", drawn(30))


def test_the_same_as_in_this_process(path: Path, tmp_path: Path) -> None:
    with Readers(2) as readers:
        futures = [
            readers.read(path, CLIP),
            readers.read(tmp_path / "none.mp4", CLIP),
            readers.read(str(path), Clip(2)),
        ]
        video, here = futures[0].result(), read(path, CLIP)
        assert np.array_equal(video.frames, here.frames)
        assert video.frames.flags.writeable
        assert (video.indices.tolist(), video.total, video.rate) == (here.indices.tolist(), here.total, here.rate)
        assert video.work.decoded == here.work.decoded > 0
        with pytest.raises(VideoError, match=r"^video none\.mp4: No such file or directory$"):
            futures[1].result()
        assert futures[2].result().frames.shape == (2, 64, 96, 3)


@pytest.fixture
def workers() -> Workers:
    """This process's decoders that have come since."""

    def now() -> list[psutil.Process]:
        return [one for one in psutil.Process().children() if "videonsa.video.worker" in one.cmdline()]

    before = now()
    return lambda: [one for one in now() if one not in before]


def test_a_decoder_that_hangs_or_dies_costs_one_clip(path: Path, workers: Workers) -> None:
    with Readers(1, stalled=1.5) as readers:
        readers.read(path, CLIP).result()
        (worker,) = workers()
        worker.suspend()
        with pytest.raises(VideoError, match=r"^video a\.mp4: given up after 1\.5 s in which nothing was decoded$"):
            readers.read(path, CLIP).result()
        assert not worker.is_running()
        readers.read(path, CLIP).result()
        (worker,) = workers()
        worker.suspend()
        hanging = readers.read(path, CLIP)
        worker.send_signal(signal.SIGKILL)
        with pytest.raises(VideoError, match=r"^video a\.mp4: its decoder died of SIGKILL$"):
            hanging.result()
        assert len(readers.read(path, CLIP).result().frames) == 6


@pytest.mark.long
def test_a_long_reading_is_no_hanging_one(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As long as packets come: here each of 30 takes its time."""
    (tmp_path / "sitecustomize.py").write_text(
        "import time, videonsa.video.index as index\n"
        "slow = index.References.see\n"
        "index.References.see = lambda *given: (time.sleep(0.5), slow(*given))[1]\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Readers(1, stalled=10) as readers:
        readers.read(path, CLIP).result()


def test_no_worker_outlives_its_parent(path: Path) -> None:
    code = f"""
from videonsa.video import Clip, Readers
import psutil, os
readers = Readers(1)
readers.read({str(path)!r}, Clip(2)).result()
(worker,) = psutil.Process().children()
worker.suspend()
print(worker.pid, flush=True)
worker.resume()
os._exit(1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    worker = int(done.stdout)
    for _ in range(100):
        if not psutil.pid_exists(worker) or psutil.Process(worker).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.1)
    pytest.fail("it still runs")


def test_closed_readers_leave_no_process(path: Path, workers: Workers) -> None:
    readers = Readers(1)
    readers.read(path, CLIP).result()
    assert len(workers()) == 1
    readers.close()
    assert workers() == []


def test_reading_ahead_keeps_the_order_and_its_depth() -> None:
    started: list[int] = []

    def start(number: int) -> list[Future[int]]:
        started.append(number)
        future: Future[int] = Future()
        if number == 3:
            future.set_exception(VideoError("damaged"))
        else:
            future.set_result(10 * number)
        return [future]

    for place, (number, (future,)) in enumerate(ahead(range(6), start, depth=2)):
        assert number == place
        assert len(started) == min(6, place + 3)
        assert (future.exception() is not None) == (number == 3)


def test_who_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is waited for, 5 s; then, while it is asked about, the second comes, and waits 2 s itself."""
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr("videonsa.video.readers.time", clock)

    class Coming(Future[None]):
        def exception(self, timeout: float | None = None) -> BaseException | None:
            if not self.done():
                clock.now += 5
                self.set_result(None)
            return super().exception(timeout)

    waits, coming = Waits(), [Coming(), Coming()]
    for number, _ in ahead(range(2), lambda number: [coming[number]], depth=1, waits=waits):
        if number == 0:
            clock.now += 1
            coming[1].set_result(None)
            clock.now += 2
    assert (waits.model, waits.reading) == (5, 2)
