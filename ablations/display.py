"""What is seen while a sweep runs: bars on a terminal, lines elsewhere. Imports no torch."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ablations.estimate import seconds_a_cell
from ablations.plan import Sweep, cell_folder
from ablations.progress import read_progress
from videonsa.record import read_record
from videonsa.text import duration

LINE_SECONDS = 15.0  # between lines of progress where there is no terminal


class Display:
    """`with Display(...) as display: display.update(running)`, a few times a second."""

    def __init__(self, sweep: Sweep, cells: Iterable[str], workers: int, console: Console | None = None):
        self.sweep, self.workers = sweep, workers
        self.todo = set(cells)
        self.total, self.failed, self.started = len(self.todo), 0, time.time()
        self.cell_seconds: list[float] = []
        asked = [cell for cell in sweep.cells if cell.id in self.todo]
        self.expected = seconds_a_cell(sweep.out, asked, sweep.facts.device)
        self.console = console or Console(file=sys.stderr)
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.rows: dict[str, Any] = {}
        self.overall = self.bars.add_task(escape(sweep.name), total=max(1, self.total), left="")
        self.spoken = time.time()

    def __enter__(self) -> Display:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def say(self, text: str) -> None:
        """One lasting line."""
        stamp = duration(time.time() - self.started)
        self.bars.console.print(f"[dim]{stamp:>12}[/dim]  {text}", highlight=False, soft_wrap=True)

    def update(self, running: Iterable[tuple[str, Path]]) -> None:
        """Show the records that have come and the progress of the running jobs (name, folder)."""
        self._count_records()
        states = {name: read_progress(folder) for name, folder in running}
        left = self._time_left(states)
        done = self.total - len(self.todo)
        note = f"{self.failed} failed  " if self.failed else ""
        self.bars.update(self.overall, completed=done, left=note + left)
        for name in [name for name in self.rows if name not in states]:
            self.bars.remove_task(self.rows.pop(name))
        for name, state in states.items():
            self._show_job(name, state)
        if not self.console.is_terminal and states and time.time() - self.spoken > LINE_SECONDS:
            self.spoken = time.time()
            self.say(escape(f"{done}/{self.total} cells, {note}{left}; " + "; ".join(map(describe, states.values()))))

    def _count_records(self) -> None:
        for key in list(self.todo):
            path = cell_folder(self.sweep.out, key) / "record.json"
            record = read_record(path) if path.is_file() else None
            if record is None:
                continue
            self.todo.discard(key)
            if seconds := (record.get("summary") or {}).get("seconds"):
                self.cell_seconds.append(seconds)
            about = escape(f"{record.get('label')} · {record['settings']['suite']['name']}")
            if record["status"] == "done":
                self.say(f"[green]done[/green]    {about}: {record['scores']['accuracy']:.3f}")
            else:
                self.failed += 1
                self.say(f"[red]failed[/red]  {about}: {escape(_first_line(record['error']['message']))}")

    def _show_job(self, name: str, state: dict[str, Any]) -> None:
        if name not in self.rows:
            self.rows[name] = self.bars.add_task("", total=1, left="")
        total = max(1, state.get("total") or 0)
        text = escape(f"  {state.get('phase', 'start')} {state.get('what', '')}")
        said = escape(state.get("said", ""))
        self.bars.update(self.rows[name], description=text, total=total, completed=state.get("done", 0), left=said)

    def _time_left(self, states: dict[str, dict[str, Any]]) -> str:
        """Of the trainings that run, then of the cells at the mean of those done (before that, at what is expected)."""
        training = [_job_left(state) for state in states.values() if state.get("phase") == "train"]
        done = self.cell_seconds
        each = sum(done) / len(done) if done else self.expected
        if None in training or (self.todo and each is None):
            return "time left: not known yet"
        cells = len(self.todo) * (each or 0) / self.workers
        return f"{duration(max((left for left in training if left is not None), default=0.0) + cells)} left"


def describe(state: dict[str, Any]) -> str:
    """'evaluate b=4 · synth_needle 20/100', 'train training 20/100, loss 2.310, 5,120 tokens/s, ...'."""
    count = f" {state['done']}/{state['total']}" if state.get("total") else ""
    said = f", {state['said']}" if state.get("said") else ""
    return f"{state.get('phase', 'start')} {state.get('what', '')}{count}{said}".strip()


def _job_left(state: dict[str, Any]) -> float | None:
    """Seconds, at the pace since the first step that was told: what was done before, a checkpoint holds."""
    done, total, (first, since) = state.get("done", 0), state.get("total", 0), state.get("first") or (None, None)
    if first is None or done <= first:
        return None
    return (state["time"] - since) / (done - first) * (total - done)


def _first_line(text: str) -> str:
    return text.splitlines()[0][:160] if text else ""
