"""A sweep on Slurm: submit it, follow it, cancel it, and say what became of jobs that left no record. No torch.

<sweep>/jobs/slurm.json lists what was submitted: job ids and their cells. Records stay the only list of what is done.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ablations.plan import DONE, Job, Sweep, cell_folder, training_folder
from ablations.snapshot import origin, take_snapshot
from ablations.stages import Stages, fail_cell, fail_record
from ablations.submit import make_work, set_aside
from slurm.executor import Request, submit_slurm
from slurm.profile import SlurmProfile
from slurm.queue import JobState, cancel, job_states, max_array_size
from videonsa.record import read_record, write_text

NEW_SECONDS = 60  # sacct learns of a job some seconds after sbatch returned
KINDS = ("evaluate", "probe")  # of jobs that wait for trainings
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
    """What was submitted for a sweep, oldest first."""
    try:
        rows = json.loads((sweep_folder / "jobs" / "slurm.json").read_text(encoding="utf-8"))["jobs"]
    except (OSError, ValueError, KeyError):
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


def submit_sweep(
    sweep: Sweep, jobs: list[Job], stages: Stages, profile: SlurmProfile, active: list[Submitted]
) -> tuple[list[Submitted], int]:
    """Submit the jobs: trainings, then what depends on them, as arrays. Returns what was submitted and sbatch calls.

    Each call's ids are in slurm.json before the next call, so that what was submitted is known whatever happens.
    """
    set_aside(sweep, jobs)
    code = take_snapshot(sweep.folder.resolve() / "code")
    waiting_for = {job.training: job.id for job in active if job.kind == "train"}
    base = Request(profile, sweep.folder.resolve() / "jobs", sweep.name, parallel=profile.max_parallel, code=code)
    limit, submitted, calls = max_array_size(), [], 0
    for batch, after in batches(jobs, limit):
        dependency = _dependency(batch, after, waiting_for)
        whole = batch[0].kind == "train"
        parallel = max(1, profile.max_parallel // _arrays_beside(jobs, batch))
        request = replace(
            base,
            folder=base.folder / f"slurm-{batch[0].name}",
            whole_node=whole,
            dependency=dependency,
            parallel=parallel,
        )
        works = [replace(make_work(sweep, job, stages), origin=origin()) for job in batch]
        ids = submit_slurm(works, request)
        calls += 1
        now = time.time()
        new = [_submitted(job, number, now) for job, number in zip(batch, ids, strict=True)]
        waiting_for |= {job.training: job.id for job in new if job.kind == "train"}
        submitted += new
        _remember(sweep, new)
    return submitted, calls


def batches(jobs: list[Job], limit: int) -> list[tuple[list[Job], bool]]:
    """Jobs in as few arrays as Slurm can order: (jobs, whether they wait for trainings), trainings first.

    Trainings that as many jobs wait for share an array. What waits for them goes into an array a training (afterok),
    or an array for the first job of each, one for the second, ... (aftercorr): whichever are fewer.
    """
    trainings, others = ([job for job in jobs if (job.kind == "train") is own] for own in (True, False))
    waiting: dict[tuple[str, str | None], list[Job]] = {}
    for job in others:
        waiting.setdefault((job.kind, job.after), []).append(job)
    alike: dict[tuple[int, ...], list[Job]] = {}
    for training in trainings:
        counts = tuple(len(waiting.get((kind, training.name), ())) for kind in KINDS)
        alike.setdefault(counts, []).append(training)
    parts = [part for group in alike.values() for part in _parts(group, limit)]
    made: list[tuple[list[Job], bool]] = [(part, False) for part in parts]
    for kind in KINDS:
        made += [(piece, False) for piece in _parts(waiting.pop((kind, None), []), limit)]
        for part in parts:
            rows = [waiting.pop((kind, training.name), []) for training in part]
            in_step = [list(column) for column in zip(*rows, strict=True)]
            groups = rows if len(rows) <= len(in_step) else in_step
            made += [(piece, True) for group in groups for piece in _parts(group, limit)]
        strays = [key for key in waiting if key[0] == kind]  # their training was submitted before, perhaps elsewhere
        made += [(piece, True) for key in strays for piece in _parts(waiting.pop(key), limit)]
    return made


def _parts(jobs: list[Job], limit: int) -> list[list[Job]]:
    return [jobs[start : start + limit] for start in range(0, len(jobs), limit)]


def _dependency(batch: list[Job], after: bool, waiting_for: Mapping[str, str]) -> str | None:
    if not after:
        return None
    ids = [waiting_for[job.training.id] for job in batch]
    if len(set(ids)) == 1:
        return f"afterok:{ids[0]}"
    return f"aftercorr:{ids[0].partition('_')[0]}"


def _arrays_beside(jobs: list[Job], batch: list[Job]) -> int:
    """Arrays of the batch's kind that may run at once: together they keep to max_parallel."""
    same = [job for job in jobs if job.kind == batch[0].kind]
    return max(1, round(len(same) / len(batch)))


def _submitted(job: Job, number: str, now: float) -> Submitted:
    cells = tuple(cell.id for cell in job.cells) if job.kind == "evaluate" else ()
    probe = job.probe.id if job.probe else None
    return Submitted(number, job.name, job.kind, job.training.id, cells, probe, now)


def _remember(sweep: Sweep, new: list[Submitted]) -> None:
    rows = [asdict(job) for job in (*read_submitted(sweep.folder), *new)]
    write_text(sweep.folder / "jobs" / "slurm.json", json.dumps({"jobs": rows}, indent=1) + "\n")


def settle_lost(sweep: Sweep, states: Mapping[str, JobState]) -> None:
    """Jobs that ended without a record leave one that says how: cancelled, out of memory, node lost, ..."""
    cells = {cell.id: cell for cell in sweep.cells}
    for job in latest(read_submitted(sweep.folder)):
        state = state_of(job, states)
        if state.active:
            continue
        error = error_of(job, state, sweep.folder / "jobs")
        if job.kind == "train" and job.training in sweep.trainings:
            folder = training_folder(sweep.out, job.training)
            fail_record(folder, "training", job.training, sweep.trainings[job.training].record_settings, error)
        if job.kind == "probe" and job.training in sweep.probes:
            probe = sweep.probes[job.training]
            fail_record(sweep.out / "probes" / probe.id, "probe", probe.id, probe.settings, error)
        for key in job.cells:
            if key in cells and read_record(cell_folder(sweep.out, key) / "record.json") is None:
                fail_cell(sweep.out, cells[key], _with_training(sweep, job, error))


def latest(jobs: Iterable[Submitted]) -> list[Submitted]:
    """The last submission of every cell, training and probe: what went before has been settled."""
    last: dict[str, Submitted] = {}
    for job in jobs:
        for key in job.cells or (f"{job.kind} {job.training}",):
            last[key] = job
    return list({job.id: job for job in last.values()}.values())


def error_of(job: Submitted, state: JobState, logs: Path) -> dict[str, str]:
    """The failure of a job that left no record. Cancelled and WorkerDied are tried again without being asked."""
    known = {
        "CANCELLED": ("Cancelled", "it was cancelled"),
        "TIMEOUT": ("WorkerDied", "it reached its time limit and could not be requeued"),
        "NODE_FAIL": ("WorkerDied", f"its node {state.node} failed"),
        "PREEMPTED": ("WorkerDied", "it was preempted and not requeued"),
        "LOST": ("WorkerDied", "Slurm does not know it any more"),
    }
    kind, reason = known.get(state.state, ("WorkerDied", f"it ended as {state.state} without a word"))
    if state.out_of_memory:
        kind, reason = "OutOfMemory", f"it ran out of memory: used {state.memory or '?'} of {state.asked or '?'}"
    if state.not_shared:
        kind = "NotShared"
        reason = f"its node {state.node} does not see {logs}: give --out a folder on a file system that the nodes share"
    log = next(iter(sorted(logs.glob(f"slurm-*/{job.id}_*_log.err"))), None)
    if log is None and kind == "WorkerDied":
        reason += f"; it left no log: is {logs} on a file system that the nodes share?"
    text = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:]) if log else ""
    return {"type": kind, "message": f"Slurm job {job.id} ({job.name}): {reason}", "traceback": text}


def _with_training(sweep: Sweep, job: Submitted, error: dict[str, str]) -> dict[str, str]:
    """A job that Slurm dropped because its training failed says so."""
    record = read_record(training_folder(sweep.out, job.training) / "record.json")
    if record is None or record["status"] == DONE:
        return error
    reason = record["error"]
    kind = reason["type"] if reason["type"] in ("WorkerDied", "Cancelled") else "TrainingFailed"
    message = f"training {job.training} failed: {reason['message']}"
    return {"type": kind, "message": message, "traceback": reason["traceback"]}


def cancel_sweep(sweep: Sweep) -> list[str]:
    """Cancel this sweep's queued and running jobs, and nothing else; returns their ids."""
    ids = [job.id for job in active_jobs(read_submitted(sweep.folder))]
    cancel(ids)
    return ids
