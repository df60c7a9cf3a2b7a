"""What a training tells: metrics as JSON lines, the same to W&B, and a progress bar."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from videonsa.config import identity


class Journal:
    """Metrics of one training folder. Lines after the step that a run resumes from are dropped: they come again."""

    def __init__(self, folder: Path, settings: dict[str, Any], step: int) -> None:
        self.path = folder / "metrics.jsonl"
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.is_file() else []
        draft = self.path.with_suffix(".draft")
        draft.write_text("".join(line for line in lines if _step(line) <= step), encoding="utf-8")
        draft.replace(self.path)
        self.file = self.path.open("a", encoding="utf-8")
        self.run = _wandb_run(folder, settings)

    def write(self, metrics: dict[str, Any]) -> None:
        self.file.write(json.dumps(metrics) + "\n")
        self.file.flush()
        if self.run is not None:
            self.run.log(metrics, step=metrics["step"])

    def close(self) -> None:
        self.file.close()
        if self.run is not None:
            self.run.finish(quiet=True)


def _step(line: str) -> float:
    """The step of a line; a line that a kill cut short is never kept."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _wandb_run(folder: Path, settings: dict[str, Any]) -> Any:
    """A W&B run, offline unless WANDB_API_KEY is set; None with WANDB_MODE=disabled."""
    if os.environ.get("WANDB_MODE") == "disabled":
        return None
    import wandb

    return wandb.init(
        project=os.environ.get("WANDB_PROJECT", "videonsa"),
        id=f"training-{folder.name}-{identity(settings)}",
        name=f"training {folder.name}",
        job_type="training",
        group=os.environ.get("WANDB_RUN_GROUP"),
        config=settings,
        dir=str(folder),
        resume="allow",
        mode=None if "WANDB_MODE" in os.environ else "online" if "WANDB_API_KEY" in os.environ else "offline",
        settings=wandb.Settings(silent=True, console="off"),
    )


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
