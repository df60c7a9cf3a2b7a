"""What a training tells: metrics as JSON lines, the same to W&B, and a progress bar."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from videonsa.config import TrainSettings, to_dict
from videonsa.disk import writing
from videonsa.identity import identity, settings_inputs
from videonsa.record import write_text
from videonsa.tracking import CLOSE_SECONDS, HURRY_SECONDS, Tracker


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


def _step(line: str) -> float:
    """The step of a line; a line that a kill cut short is never kept."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")


def progress_bar(total: int) -> tuple[Progress, Callable[[int, int, float], None]]:
    """A bar for the terminal and the function that moves it: (done, total, loss)."""
    bar = Progress(
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
    task = bar.add_task("training", total=total, loss=float("nan"))
    return bar, lambda done, total, loss: bar.update(task, completed=done, total=total, loss=loss)
