"""A sweep on Slurm from the command line: submit and return, wait, status, cancel. Imports no torch."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ablations.cell import Cell
from ablations.cluster import (
    FOLLOW_SECONDS,
    Submitted,
    active_jobs,
    read_submitted,
    settle_lost,
    state_of,
    submit_sweep,
)
from ablations.display import Display, describe, read_progress
from ablations.estimate import duration
from ablations.lock import Lock, LockHeld
from ablations.plan import Busy, Sweep, make_jobs, read_state, write_plan
from ablations.stages import Stages
from ablations.submit import fail_untrained
from slurm.profile import ClusterError, SlurmProfile
from slurm.queue import JobState, QueueAway, job_states, require_slurm
from videonsa.record import write_text

NO_JOBS = "Slurm: no job of this sweep is queued or running"
SILENT_SECONDS = 15 * 60  # a step, a question or loading of a large model takes minutes


def submit(sweep: Sweep, chosen: list[Cell], retry: bool, stages: Stages, profile: SlurmProfile) -> str:
    """Submit what has no record and is not in the queue; returns a line that says what was submitted."""
    require_slurm()
    with Lock(sweep.folder / "lock"):
        write_plan(sweep)
        try:
            mine = settle(sweep)
            others = [job for job in active_jobs(_of_other_sweeps(sweep)) if job.training in sweep.trainings]
        except QueueAway as error:
            raise ClusterError(f"{error}; nothing was submitted, try again when it does") from None
        state = read_state(sweep)
        active = [*mine, *others]
        busy = Busy(
            cells=frozenset(key for job in active for key in job.cells),
            trainings=frozenset(job.training for job in active if job.kind == "train"),
            probes=frozenset(job.probe for job in active if job.probe),
        )
        if not retry:
            fail_untrained(sweep, state, chosen)
        per_training = max(1, profile.max_parallel // len({cell.training.id for cell in chosen}))
        jobs = make_jobs(sweep, state, chosen, retry, per_training, busy)
        if not jobs:
            return f"nothing to submit; {len(mine)} jobs of this sweep are queued or running"
        submitted, calls = submit_sweep(sweep, jobs, stages, profile, active)
    kinds = Counter(job.kind for job in submitted)
    ids = ", ".join(dict.fromkeys(job.id.partition("_")[0] for job in submitted))
    counts = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    return f"submitted {len(submitted)} jobs ({counts}) by {calls} sbatch calls: {ids}"


def queued(sweep: Sweep) -> bool:
    """A job of this sweep is queued or running. Raises QueueAway."""
    return bool(active_jobs(read_submitted(sweep.folder)))


def settle(sweep: Sweep) -> list[Submitted]:
    """Give ended jobs without a record their failure record; returns the jobs that are active. Raises QueueAway."""
    jobs = read_submitted(sweep.folder)
    states = ask_slurm(sweep.folder, jobs)
    settle_lost(sweep, states)
    return [job for job in jobs if state_of(job, states).active]


def settle_ended(sweep: Sweep) -> None:
    """As settle, for whoever is about to read what has failed. Raises QueueAway, LockHeld."""
    if read_submitted(sweep.folder):
        with Lock(sweep.folder / "lock"):
            settle(sweep)


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
    cells = Counter(_in_words(state) for job, state in active for _ in job.cells)
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


def _in_words(state: JobState) -> str:
    """'running', or 'pending (Priority)': the reason tells whether it will ever start."""
    waiting = state.state == "PENDING" and state.reason not in ("", "None")
    return state.state.lower() + (f" ({state.reason})" if waiting else "")


def cached_states(folder: Path, jobs: Sequence[Submitted]) -> dict[str, JobState]:
    """The states of the jobs; Slurm is asked at most every FOLLOW_SECONDS, whoever asks. Raises QueueAway."""
    path = folder / "jobs" / "states.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        asked = {job.id for job in jobs} <= set(known["asked"])  # nothing was submitted since
        if asked and 0 <= time.time() - known["time"] < FOLLOW_SECONDS:
            return {key: JobState(**state) for key, state in known["states"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return ask_slurm(folder, jobs)


def ask_slurm(folder: Path, jobs: Sequence[Submitted]) -> dict[str, JobState]:
    """The states of the jobs now, kept for whoever asks next. Raises QueueAway."""
    ids = [job.id for job in jobs]
    states = job_states(ids)
    kept = {key: asdict(state) for key, state in states.items()}
    text = json.dumps({"time": time.time(), "asked": ids, "states": kept})
    with suppress(OSError):  # a reader without the right to write
        write_text(folder / "jobs" / "states.json", text)
    return states


def _of_other_sweeps(sweep: Sweep) -> list[Submitted]:
    """Training jobs that other sweeps of the same out folder submitted: their checkpoints may be ours too."""
    folders = [folder for folder in sweep.folder.parent.glob("*") if folder.name != sweep.folder.name]
    return [job for folder in folders for job in read_submitted(folder) if job.kind == "train"]
