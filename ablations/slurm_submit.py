"""Submitting a sweep to Slurm: its jobs as arrays, what waits after what it waits for. Imports no torch."""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from ablations.cell import Cell
from ablations.jobs import Busy, Job, make_jobs
from ablations.plan import Sweep, write_plan
from ablations.records import fail_untrained, set_aside
from ablations.slurm_jobs import Submitted, active_jobs, read_submitted, settle
from ablations.snapshot import origin, take_snapshot
from ablations.stages import Stages
from ablations.state import read_state
from ablations.worker import make_worker
from slurm.executor import Request, signal_seconds, submit_slurm
from slurm.profile import ClusterError, SlurmProfile
from slurm.queue import QueueAway, cancel, max_array_size, require_slurm
from videonsa.lock import Lock
from videonsa.record import write_text

KINDS = ("evaluate", "probe")  # of jobs that wait for trainings


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
    limit, submitted, calls, attempt = max_array_size(), [], 0, uuid.uuid4().hex
    for batch, after in batches(jobs, limit):
        dependency = _dependency(batch, after, waiting_for)
        whole = batch[0].trains
        parallel = max(1, profile.max_parallel // _arrays_beside(jobs, batch))
        request = replace(
            base,
            folder=base.folder / f"slurm-{batch[0].name}",
            whole_node=whole,
            dependency=dependency,
            parallel=parallel,
        )
        seconds = 0.75 * signal_seconds(profile, whole)
        made = (make_worker(sweep, job, stages, attempt) for job in batch)
        ids = submit_slurm([replace(worker, origin=origin(), save_seconds=seconds) for worker in made], request)
        calls += 1
        now = time.time()
        new = [_submitted(job, number, now) for job, number in zip(batch, ids, strict=True)]
        waiting_for |= {job.training: job.id for job in new if job.kind == "train"}
        submitted += new
        try:
            _remember(sweep, new)
        except OSError:  # nobody would know of them, and the next command would submit them once more
            with suppress(QueueAway):
                cancel(job.id for job in new)
            raise
    return submitted, calls


def batches(jobs: list[Job], limit: int) -> list[tuple[list[Job], bool]]:
    """Jobs in as few arrays as Slurm can order: (jobs, whether they wait for trainings), trainings first.

    Trainings that as many jobs wait for share an array, if they begin with the weights of one, or of none. What waits
    for them goes into an array a training (afterok), or an array for the first job of each, one for the second, ...
    (aftercorr): whichever are fewer.
    """
    trainings, others = ([job for job in jobs if (job.kind == "train") is own] for own in (True, False))
    waiting: dict[tuple[str, str | None], list[Job]] = {}
    for job in others:
        waiting.setdefault((job.kind, job.after), []).append(job)
    alike: dict[tuple[Any, ...], list[Job]] = {}
    for training in trainings:
        counts = (training.after, training.measures, *(len(waiting.get((kind, training.name), ())) for kind in KINDS))
        alike.setdefault(counts, []).append(training)
    parts = [part for group in alike.values() for part in _parts(group, limit)]
    made: list[tuple[list[Job], bool]] = [(part, part[0].after is not None) for part in parts]
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
    ids = [waiting_for[job.needs.id] for job in batch if job.needs]
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


def _of_other_sweeps(sweep: Sweep) -> list[Submitted]:
    """Training jobs that other sweeps of the same out folder submitted: their checkpoints may be ours too."""
    folders = [folder for folder in sweep.folder.parent.glob("*") if folder.name != sweep.folder.name]
    return [job for folder in folders for job in read_submitted(folder) if job.kind == "train"]
