"""The jobs of a sweep that Slurm was given, and what has become of them. Imports no torch.

<sweep>/jobs/slurm.json lists what was submitted: job ids and their cells. Records stay the only list of what is done.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ablations.cell import Training
from ablations.failures import (
    CANCELLED,
    DISK_ERROR,
    NOT_SHARED,
    OUT_OF_MEMORY,
    WORKER_DIED,
    disk_words,
    training_failure,
)
from ablations.plan import Sweep, training_folder
from ablations.records import fail_record
from ablations.state import DONE
from slurm.queue import JobState, cancel, job_states
from videonsa.lock import Lock
from videonsa.record import read_record, write_text

NEW_SECONDS = 60  # sacct learns of a job some seconds after sbatch returned
FOLLOW_SECONDS = 10.0  # between two questions to Slurm


@dataclass(frozen=True)
class Submitted:
    """One job that Slurm was given."""

    id: str
    name: str
    kind: str
    training: str
    cells: tuple[str, ...]
    probe: str | None
    time: float  # of submission


def read_submitted(sweep_folder: Path) -> list[Submitted]:
    """What was submitted for a sweep, oldest first. Raises OSError: unread, all would be submitted once more."""
    try:
        rows = json.loads((sweep_folder / "jobs" / "slurm.json").read_text(encoding="utf-8"))["jobs"]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError):
        return []
    return [Submitted(**row | {"cells": tuple(row["cells"])}) for row in rows]


def state_of(job: Submitted, states: Mapping[str, JobState]) -> JobState:
    """A job's state; one that Slurm does not know (yet) is pending while it is new, then lost."""
    known = states.get(job.id)
    if known is not None:
        return known
    return JobState("PENDING" if time.time() - job.time < NEW_SECONDS else "LOST")


def active_jobs(jobs: Iterable[Submitted]) -> list[Submitted]:
    """Those that are queued or running, by one question to Slurm. Raises QueueAway."""
    jobs = list(jobs)
    states = job_states(job.id for job in jobs)
    return [job for job in jobs if state_of(job, states).active]


def cancel_sweep(sweep: Sweep) -> list[str]:
    """Cancel this sweep's queued and running jobs, and nothing else; returns their ids."""
    ids = [job.id for job in active_jobs(read_submitted(sweep.folder))]
    cancel(ids)
    return ids


def queued(sweep: Sweep) -> bool:
    """A job of this sweep is queued or running. Raises QueueAway."""
    return bool(active_jobs(read_submitted(sweep.folder)))


def latest(jobs: Iterable[Submitted], states: Mapping[str, JobState]) -> list[Submitted]:
    """The last job of every cell, training and probe: what went before has been settled. Of a cell that several jobs
    have at once it is the last that did not come to its end."""
    last: dict[str, Submitted] = {}
    for job in sorted(jobs, key=lambda job: state_of(job, states).state != "COMPLETED"):
        for key in job.cells or (f"{job.kind} {job.training}",):
            last[key] = job
    return list({job.id: job for job in last.values()}.values())


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


def settle_lost(sweep: Sweep, states: Mapping[str, JobState]) -> None:
    """Jobs that ended without a record leave one that says how: cancelled, out of memory, node lost, ..."""
    cells = {cell.id: cell for cell in sweep.cells}
    jobs = read_submitted(sweep.folder)
    cared_for = {key for job in jobs if state_of(job, states).active for key in job.cells}
    for job in latest(jobs, states):
        state = state_of(job, states)
        if state.active:
            continue
        error = error_of(job, state, sweep.folder / "jobs")
        if job.kind == "train" and job.training in sweep.trainings:
            training = sweep.trainings[job.training]
            fail_record(sweep.out, training, _with_training(sweep, training.before, error))
        if job.kind == "probe" and job.training in sweep.probes:
            fail_record(sweep.out, sweep.probes[job.training], error)
        for key in job.cells:
            if key in cells and key not in cared_for:
                training = cells[key].training
                fail_record(sweep.out, cells[key], _with_training(sweep, (training, *training.before), error))


def error_of(job: Submitted, state: JobState, logs: Path) -> dict[str, str]:
    """The failure of a job that left no record. Cancelled and WorkerDied are tried again without being asked."""
    known = {
        "CANCELLED": (CANCELLED, "it was cancelled"),
        "TIMEOUT": (WORKER_DIED, "it reached its time limit and could not be requeued"),
        "NODE_FAIL": (WORKER_DIED, f"its node {state.node} failed"),
        "PREEMPTED": (WORKER_DIED, "it was preempted and not requeued"),
        "LOST": (WORKER_DIED, "Slurm does not know it any more"),
    }
    kind, reason = known.get(state.state, (WORKER_DIED, f"it ended as {state.state} without a word"))
    if state.out_of_memory:
        kind, reason = OUT_OF_MEMORY, f"it ran out of memory: used {state.memory or '?'} of {state.asked or '?'}"
    if state.not_shared:
        kind = NOT_SHARED
        reason = f"its node {state.node} does not see {logs}: give --out a folder on a file system that the nodes share"
    log = next(iter(sorted(logs.glob(f"slurm-*/{job.id}_*_log.err"))), None)
    if log is None and kind == WORKER_DIED:
        reason += f"; it left no log: is {logs} on a file system that the nodes share?"
    text = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:]) if log else ""
    if kind == WORKER_DIED and (disk := disk_words(text)) is not None:
        kind, reason = DISK_ERROR, disk
    return {"type": kind, "message": f"Slurm job {job.id} ({job.name}): {reason}", "traceback": text}


def _with_training(sweep: Sweep, needed: Iterable[Training], error: dict[str, str]) -> dict[str, str]:
    """A job that Slurm dropped because a training failed, of these that it needed, says so."""
    for training in needed:
        record = read_record(training_folder(sweep.out, training.id) / "record.json")
        if record is not None and record["status"] != DONE:
            return training_failure(training.id, record["error"])
    return error
