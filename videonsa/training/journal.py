"""What a training tells: metrics as JSON lines, the same to W&B, and a progress bar."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from videonsa.disk import writing
from videonsa.identity import identity
from videonsa.tracking import Tracker


class Journal:
    """Metrics of one training folder. Lines after the step that a run resumes from are dropped: they come again."""

    def __init__(self, folder: Path, settings: dict[str, Any], step: int) -> None:
        self.path = folder / "metrics.jsonl"
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.is_file() else []
        draft = self.path.with_suffix(".draft")
        draft.write_text("".join(line for line in lines if _step(line) <= step), encoding="utf-8")
        draft.replace(self.path)
        self.file = self.path.open("a", encoding="utf-8")
        self.tracker = Tracker(
            f"training {folder.name}",
            folder,
            id=f"training-{folder.name}-{identity(settings)}",
            job_type="training",
            config=settings,
            resume="allow",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.file.close()
        self.tracker.close(exit_code=0 if kind is None else 1)

    def write(self, metrics: dict[str, Any]) -> None:
        with writing(self.path):
            self.file.write(json.dumps(metrics) + "\n")
            self.file.flush()
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
