"""A job's progress.json: written by the job, read by whoever watches it. Imports no torch."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

PROGRESS_SECONDS = 0.5  # at most one progress file in this time


class Progress:
    """A job's progress.json, for whoever watches: phase, what is done of how much, since when."""

    def __init__(self, folder: Path):
        self.path, self.written = folder / "progress.json", 0.0
        self.state: dict[str, Any] = {"pid": os.getpid(), "launch": launch()}

    def write(self, force: bool = False, **changes: Any) -> None:
        """Note changes; the file follows at most every PROGRESS_SECONDS, and never fails the job."""
        self.state |= changes
        now = time.time()
        if not force and now - self.written < PROGRESS_SECONDS:
            return
        self.written = now
        temporary = self.path.with_name(f".progress.{os.getpid()}.tmp")
        try:
            temporary.write_text(json.dumps(self.state | {"time": now, "host": platform.node()}), encoding="utf-8")
            os.replace(temporary, self.path)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def begin(
        self, phase: str, what: str = "", run: str = "", check: Callable[[], None] = lambda: None
    ) -> Callable[..., None]:
        """A new phase; returns the on_progress(done, total) to hand to a stage, which calls `check` each time."""
        begun = {"done": 0, "total": 0, "first": None, "said": ""}
        self.write(force=True, phase=phase, what=what, run=run, since=time.time(), **begun)

        def on_progress(done: int = 0, total: int = 0, *_: Any, **__: Any) -> None:
            check()
            self.state["first"] = self.state["first"] or (done, time.time())
            self.write(done=done, total=total)

        return on_progress


def launch() -> int:
    """Which start of this job it is: what Slurm requeues keeps its number, and its folder."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def read_progress(folder: Path) -> dict[str, Any]:
    """A job's own account of itself; empty before it has one."""
    try:
        return json.loads((folder / "progress.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}
