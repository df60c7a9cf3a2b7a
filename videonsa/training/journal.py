"""What a training tells: metrics as JSON lines, the same to W&B, and how far it is to whoever waits."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from videonsa.config import TrainSettings, to_dict
from videonsa.disk import writing
from videonsa.identity import identity, settings_inputs
from videonsa.record import write_text
from videonsa.text import duration, line_of
from videonsa.tracking import CLOSE_SECONDS, HURRY_SECONDS, Tracker

PACE_STEPS = 20  # the last ones, that rates and the time left go by
LINE_SECONDS = 60.0  # between lines of progress where there is no terminal


class Journal:
    """Metrics of one training folder. Lines after the step that a run resumes from are dropped: they come again.

    W&B is told the kept lines, too: it cannot go on with a run that lies on this disk alone, and `wandb sync` puts a
    later part of a run in the place of an earlier one. So each part holds the curve from its beginning.
    """

    def __init__(self, folder: Path, settings: TrainSettings, step: int) -> None:
        self.path = folder / "metrics.jsonl"
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.is_file() else []
        kept = [line for line in lines if _step(line) <= step]
        write_text(self.path, "".join(kept))
        self.file = self.path.open("a", encoding="utf-8")
        self.tracker = Tracker(
            f"training {folder.name}",
            folder,
            id=f"training-{folder.name}-{identity(settings_inputs(settings))}",  # whatever a later part saves how often
            job_type="training",
            config=to_dict(settings),
            resume="allow",
        )
        for line in kept:
            self._show(json.loads(line))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.file.close()
        self.tracker.end(exit_code=0 if kind is None else 1)
        self.tracker.wait(CLOSE_SECONDS if kind is None else HURRY_SECONDS)

    def write(self, metrics: dict[str, Any]) -> None:
        with writing(self.path):
            self.file.write(json.dumps(metrics) + "\n")
            self.file.flush()
        self._show(metrics)

    def _show(self, metrics: dict[str, Any]) -> None:
        self.tracker.log(metrics, step=metrics["step"])
        if trouble := metrics.get("trouble"):
            self.tracker.alert("training", f"step {metrics['step']}: {trouble}")


def _step(line: str) -> float:
    """The step of a line; a line that a kill cut short is never kept."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")


def peak_memory(device: torch.device) -> int:
    """Bytes, the most that this process has held so far: of its GPU as torch counts them, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Pace:
    """How fast the last steps were."""

    def __init__(self) -> None:
        self.lines: deque[Mapping[str, Any]] = deque(maxlen=PACE_STEPS)

    def words(self, line: Mapping[str, Any], left: int) -> tuple[str, str]:
        """('loss 2.310, 5,120 tokens/s, 3 % waiting for samples', '2 h 05 min') after a step, of so many left."""
        self.lines.append(line)
        seconds = sum(one["step_s"] for one in self.lines)
        tokens = sum(one["tokens_per_s"] * one["step_s"] for one in self.lines)
        waiting = sum(one["data_s"] for one in self.lines) / seconds if seconds else 0.0
        rate = f"{tokens / seconds:,.0f} tokens/s, {waiting:.0%} waiting for samples" if seconds else ""
        return f"loss {line['loss']:.3f}, {rate}", duration(seconds / len(self.lines) * left)


class Teller:
    """Tells nobody; the others tell somebody how far a training is."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing more is told."""

    def step(self, line: Mapping[str, Any], total: int) -> None:
        """A step is done: its line of metrics, and the number of all steps."""

    def say(self, text: str) -> None:
        """Something to look at."""


class Bar(Teller):
    """A bar on a terminal, a line a minute elsewhere."""

    def __init__(self, total: int, console: Console | None = None) -> None:
        self.console, self.pace = console or Console(file=sys.stderr), Pace()
        columns = TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[words]}")
        self.bar = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.task, self.spoken = self.bar.add_task("training", total=total, words=""), time.monotonic()

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def step(self, line: Mapping[str, Any], total: int) -> None:
        done = line["step"]
        said, left = self.pace.words(line, total - done)
        self.bar.update(self.task, completed=done, words=f"{said}, {left} left")
        if not self.console.is_terminal and time.monotonic() - self.spoken >= LINE_SECONDS:
            self.spoken = time.monotonic()
            self.say(f"step {done}/{total}, {said}, {left} left")

    def say(self, text: str) -> None:
        self.console.print(escape(line_of(text)), highlight=False, soft_wrap=True)


class Handed(Teller):
    """To functions of whoever called: steps done and in all, and in words how it goes."""

    def __init__(self, progress: Callable[[int, int], None], words: Callable[[str], None] | None) -> None:
        self.progress, self.words, self.pace = progress, words or (lambda text: None), Pace()
        self.trouble = ""  # the last one stays in sight

    def step(self, line: Mapping[str, Any], total: int) -> None:
        self.words(f"{self.pace.words(line, 0)[0]}{self.trouble}")
        self.progress(line["step"], total)

    def say(self, text: str) -> None:
        text = line_of(text)
        self.trouble = f"; {text}"
        self.words(text)
