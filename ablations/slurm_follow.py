"""Watching a sweep on Slurm: --wait and --status. Imports no torch."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ablations.display import Display, describe
from ablations.plan import Sweep
from ablations.progress import read_progress
from ablations.slurm_jobs import FOLLOW_SECONDS, Submitted, cached_states, read_submitted, settle, settle_lost, state_of
from slurm.queue import JobState, QueueAway, job_states
from videonsa.lock import Lock, LockHeld
from videonsa.text import duration

NO_JOBS = "Slurm: no job of this sweep is queued or running"
SILENT_SECONDS = 15 * 60  # a step, a question or loading of a large model takes minutes


def follow(sweep: Sweep, workers: int) -> None:
    """Show progress until no job of the sweep is active. One question to Slurm every FOLLOW_SECONDS."""
    jobs, asked, away, stuck = read_submitted(sweep.folder), 0.0, False, list[str]()
    active = jobs
    waiting = [key for job in jobs for key in job.cells]
    with Display(sweep, waiting, workers) as display:
        while active:
            if time.monotonic() - asked > FOLLOW_SECONDS:
                try:
                    states = job_states(job.id for job in jobs)
                    active = [job for job in jobs if state_of(job, states).active]
                    away, before = False, stuck
                    stuck = stuck_lines((job, state_of(job, states)) for job in active)
                    for line in stuck:
                        if line not in before:
                            display.say(line)
                except QueueAway as error:
                    if not away:
                        display.say(f"{error}; waiting for it, records still count")
                    away = True
                asked = time.monotonic()
            active = [job for job in active if not _ended(sweep, job)]
            running = [job for job in active if (sweep.folder / "jobs" / job.name / "progress.json").is_file()]
            display.update((job.name, sweep.folder / "jobs" / job.name) for job in running)
            time.sleep(1)
        display.update([])
    with Lock(sweep.folder / "lock", wait=True):
        settle(sweep)


def queue_lines(sweep: Sweep) -> list[str]:
    """What the queue holds of this sweep, for --status; says so when Slurm does not answer."""
    jobs = read_submitted(sweep.folder)
    if not jobs:
        return []
    try:
        states = cached_states(sweep.folder, jobs)
    except QueueAway as error:
        return [f"{error}: the state above is that of the records alone"]
    try:
        with Lock(sweep.folder / "lock"):
            settle_lost(sweep, states)
    except (LockHeld, OSError):
        pass  # somebody else is at it, or this is not ours to write: the next run settles it
    active = [(job, state_of(job, states)) for job in jobs if state_of(job, states).active]
    active = [(job, state) for job, state in active if state.state == "PENDING" or not _ended(sweep, job)]
    counts = Counter(_in_words(state) for _, state in active)
    by_cell = {key: _in_words(state) for job, state in sorted(active, key=_runs) for key in job.cells}
    cells = Counter(by_cell.values())
    lines = [
        f"Slurm: {number} job{'s' * (number > 1)} {name}" + (f", {cells[name]} cells" if cells[name] else "")
        for name, number in counts.items()
    ]
    for job, state in active:
        if state.state == "RUNNING":
            progress = read_progress(sweep.folder / "jobs" / job.name)
            lines.append(f"  {job.id} on {state.node}: {describe(progress)}{_silence(job, progress)}")
    lines += stuck_lines(active)
    return lines or [NO_JOBS]


def _ended(sweep: Sweep, job: Submitted) -> bool:
    """By the job's own word, which comes before Slurm's."""
    return read_progress(sweep.folder / "jobs" / job.name).get("phase") == "end"


def stuck_lines(jobs: Iterable[tuple[Submitted, JobState]]) -> list[str]:
    """A line for each reason for which jobs will not start by themselves, and what to do."""
    stuck: dict[tuple[str, str], list[str]] = {}
    for job, state in jobs:
        if state.advice:
            stuck.setdefault((state.reason, state.advice), []).append(job.id)
    return [f"Slurm will not start {', '.join(ids)} ({reason}): {what}" for (reason, what), ids in stuck.items()]


def _silence(job: Submitted, progress: Mapping[str, Any]) -> str:
    """A job of which nothing was heard for long: Slurm may need half an hour to see that its node is gone."""
    silent = time.time() - progress.get("time", time.time())
    return "" if silent < SILENT_SECONDS else f"; silent for {duration(silent)}: if it hangs, scancel {job.id}"


def _runs(item: tuple[Submitted, JobState]) -> bool:
    return item[1].state == "RUNNING"


def _in_words(state: JobState) -> str:
    """'running', or 'pending (Priority)': the reason tells whether it will ever start."""
    waiting = state.state == "PENDING" and state.reason not in ("", "None")
    return state.state.lower() + (f" ({state.reason})" if waiting else "")
