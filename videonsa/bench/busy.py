"""How much of the time a GPU is busy while a suite is asked under one variant, its videos being read meanwhile.

    python -m videonsa.bench.busy --out benchmarks/busy.csv    # what is recorded there are the defaults

Videos of three minutes, one question each, by an evaluation's own path (evals/run.py), after one video that warms up.
first_s: until the first answer, whose video nothing hid the reading of; all else is of the time after it. busy: that in
which the model encoded, prefilled and decoded (on a synchronised device), over wall_s; sampled: the driver's own share
of time with a kernel running, sampled meanwhile, where its Python package (nvidia-ml-py) is there; waited_s: how long
the model waited for reading, reading_waited_s: how long what was read waited for the model; both as the records of a
sweep have them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from threading import Event, Thread
from typing import Any

import torch

from evals.run import SuiteRun
from videonsa.bench import command, suite
from videonsa.video.readers import cores

NAME = "videonsa.bench.busy"
EVERY = 0.2  # seconds between two samples
COLUMNS = (
    *("gpu", "model", "videos", "size", "seconds", "frames", "tokens", "answer", "cores", "first_s", "wall_s", "busy"),
    *(
        "sampled",
        "waited_s",
        "reading_waited_s",
        "read_ms_p50",
        "latency_ms_p50",
        "layers",
        "torch",
        "triton",
        "transformers",
    ),
    "commit",
)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = command.parser(NAME, __doc__)
    suite.add_videos(parser, videos=48, seconds=180)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print and append the row; 0 when it came, 1 when an answer is an error, 2 when it cannot begin."""
    return suite.measured(NAME, COLUMNS, parse(arguments), row)


def row(options: argparse.Namespace, place: Path) -> dict[str, Any]:
    task = suite.write_files(place / "videos", 2 + options.videos, options.size, options.seconds)
    loaded = suite.checkpoint(options.model, options.layers, options.vision_layers)
    asked_as = suite.settings(options.frames, options.tokens_per_frame, options.answer)
    for folder, docs in (("warm", task.eval_docs[:1]), ("timed", task.eval_docs[1:])):
        run = SuiteRun(asked_as, place / folder, task=suite.Files(docs))
        asked = [run.under(loaded, {})]
        clock = Clock()
        with sampled() as samples:
            began = time.perf_counter()
            run.ask(loaded, asked, clock.answered)
            ended = time.perf_counter()
    wall = ended - clock.first
    rows = suite.answers(run, asked)[1:]

    def of(name: str) -> list[float]:
        return [each[name] for each in rows]

    return {
        **suite.about(options, loaded),
        "tokens": rows[0]["prefill_tokens"],
        "cores": cores(),
        "first_s": round(clock.first - began, 3),
        "wall_s": round(wall, 3),
        "busy": round(sum(of("latency_ms")) / 1000 / wall, 4),
        "sampled": _mean([share / 100 for at, share in samples if at > clock.first]),
        "waited_s": round(sum(of("model_waited_s")), 3),
        "reading_waited_s": round(sum(of("reading_waited_s")), 3),
        "read_ms_p50": round(statistics.median(of("read_ms")), 1),
        "latency_ms_p50": round(statistics.median(of("latency_ms")), 1),
    }


class Clock:
    """When the first answer was there."""

    def __init__(self) -> None:
        self.first = 0.0

    def answered(self, done: int, total: int) -> None:
        if done and not self.first:
            self.first = time.perf_counter()


def _mean(shares: Sequence[float]) -> float | None:
    return round(statistics.fmean(shares), 4) if shares else None


@contextmanager
def sampled() -> Iterator[list[tuple[float, float]]]:
    """The driver's share of time, in percent, in which the GPU ran a kernel, and when; filled while the context
    lasts."""
    samples: list[tuple[float, float]] = []
    if not (torch.cuda.is_available() and find_spec("pynvml")):
        yield samples
        return
    ended = Event()

    def look() -> None:
        while not ended.wait(EVERY):
            samples.append((time.perf_counter(), torch.cuda.utilization()))

    thread = Thread(target=look)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


if __name__ == "__main__":
    from videonsa.bootstrap import settle

    settle()
    sys.exit(main())
