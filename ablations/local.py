"""Running the jobs of a plan on this machine, in order of what they need. Imports no torch."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

from ablations.devices import GPUs, gpus_for, named
from ablations.display import Display
from ablations.estimate import job_seconds
from ablations.failures import DISK_ERROR, NO_RECORD, WORKER_DIED, disk_words, training_failure
from ablations.jobs import Job, shared
from ablations.plan import Sweep, cell_folder, training_folder
from ablations.progress import read_progress
from ablations.records import fail_record, set_aside
from ablations.stages import Stages
from ablations.trained import is_trained
from ablations.worker import Parent, Worker, job_folder, make_worker
from slurm.executor import Running, run_here, start_local
from slurm.machine import local_cores, local_gpus
from videonsa.config import SettingsError
from videonsa.disk import DiskError
from videonsa.limit import Limit
from videonsa.lock import Lock, LockHeld, is_alive_here, look
from videonsa.process import interrupted_when_told_to_end, process_started
from videonsa.record import read_record

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Resources:
    """What this machine has for the sweep."""

    workers: int
    cores: int
    gpus: tuple[str, ...]
    processes: int = 1  # of a training

    @property
    def askers(self) -> int:
        """Jobs that can ask questions at once: each has a GPU alone."""
        return min(self.workers, len(self.gpus) or self.workers)

    def places(self, job: Job) -> int:
        """The workers whose place a job takes."""
        return min(self.processes, self.workers) if job.trains else 1


def local_resources(workers: int | None, processes: int = 1) -> Resources:
    """As many workers as asked for, else one a GPU, else one a core. Raises SettingsError for more processes of a
    training than GPUs."""
    cores, gpus = local_cores(), local_gpus()
    if gpus and processes > len(gpus):
        raise SettingsError(
            f"--processes {processes} is not valid: a training has a GPU each, and here are {len(gpus)}"
        )
    return Resources(workers or len(gpus) or cores, cores, gpus, processes)


def run_debug(sweep: Sweep, jobs: list[Job], stages: Stages) -> None:
    """Run every job in this process, one after another."""
    set_aside(sweep, jobs)
    attempt = uuid.uuid4().hex
    for job in jobs:
        if can_start(sweep, job):
            folder = job_folder(sweep, job)
            error = run_here(make_worker(sweep, job, stages, attempt), folder)
            if isinstance(error, DiskError):  # what else went wrong is in the records
                raise error


def run_local(sweep: Sweep, jobs: list[Job], stages: Stages, resources: Resources, limit: Limit | None = None) -> None:
    """Run the jobs in worker processes until none is left, or the limit is reached: then trainings save and go, answers
    that were given stay, and nothing is held any more. KeyboardInterrupt ends the workers before it goes on.

    On a disk that fails nothing more is begun; raises DiskError once what runs has ended.
    """
    limit = limit or Limit()
    set_aside(sweep, jobs)
    waiting, running = list(jobs), {}  # type: list[Job], dict[str, tuple[Job, Running]]
    cells = [cell.id for job in jobs if job.kind == "evaluate" for cell in job.cells]
    disk: str | None = None
    begun = False
    attempt = uuid.uuid4().hex
    with Display(sweep, cells, resources.workers) as display, _workers_ended(running):
        while (waiting or running) and not limit.reached:
            for name, (job, process) in list(running.items()):
                if process.ended():
                    del running[name]
                    beside = [*waiting, *(other for other, _ in running.values())]
                    waiting += close_job(sweep, job, process, beside, resources.askers)
                    disk = disk_words(process.last_words()) or disk
            if disk is not None or limit.late:
                waiting.clear()
            for job in next_jobs(sweep, waiting, [job for job, _ in running.values()], resources):
                taken = [(other, process.gpus) for other, process in running.values()]
                gpus = gpus_for(job, resources.gpus, taken, resources.processes)
                if gpus is None:  # it waits, and so do those behind it
                    break
                waiting.remove(job)
                if begun and not ends_within(sweep, job, limit):
                    continue
                begun = True
                worker = make_worker(sweep, job, stages, attempt)
                running[job.name] = (job, start(sweep, worker, waiting, running, resources, gpus))
                size = f" ({len(job.cells)} cells)" if job.cells else ""
                display.say(f"start   {job.kind}{size}{named(gpus)}")
            display.update((name, process.folder) for name, (_, process) in running.items())
            time.sleep(POLL_SECONDS)
        let_save([process for job, process in running.values() if job.trains], limit)
        display.update([])
    if limit.late:
        give_back_claims(sweep.out)
    if disk is not None:
        raise DiskError(disk)


def ends_within(sweep: Sweep, job: Job, limit: Limit) -> bool:
    """There is time for the job. What goes on where it was ended always has it; what begins again each time, a probe,
    needs as long as it is estimated to take."""
    return job.kind != "probe" or limit.left >= (job_seconds(sweep.out, job, sweep.facts.device) or 0.0)


def let_save(trainings: list[Running], limit: Limit) -> None:
    """Have the trainings save and go, until the limit is over. Told but once, one that still imports would not hear."""
    while any(list(map(Running.tell, trainings))) and not limit.over:
        time.sleep(POLL_SECONDS)


def give_back_claims(out: Path) -> None:
    """Free what ended workers of this machine held: another one could not know that they are gone, and would wait."""
    for path in (*out.glob("*/*/claim"), *out.glob("answers/*/claims/[!.]*")):
        seen = look(path)
        if seen is not None and is_alive_here(seen.owner) is False:
            with suppress(LockHeld), Lock(path):
                pass


def next_jobs(sweep: Sweep, waiting: list[Job], running: list[Job], resources: Resources) -> list[Job]:
    """The jobs that can start now; one whose training has failed is dropped from `waiting`. What finds no room holds up
    those behind it: a training on all GPUs would else wait for ever."""
    names = {job.name for job in (*running, *waiting)}
    ready = []
    for job in list(waiting):
        if can_start(sweep, job):
            ready.append(job)
        elif job.after not in names:
            waiting.remove(job)
    room = resources.workers - sum(map(resources.places, running))
    taken = accumulate(map(resources.places, ready))
    return [job for job, places in zip(ready, taken, strict=True) if places <= room]


def start(
    sweep: Sweep, worker: Worker, waiting: list[Job], running: dict, resources: Resources, gpus: GPUs = ()
) -> Running:
    """Start the worker of one job on its GPUs. The cores are divided among the jobs that can run beside it."""
    processes = resources.processes if worker.job.trains else 1
    now = [worker.job, *(job for job, _ in running.values())]
    beside = [*now, *(other for other in waiting if can_start(sweep, other))]
    threads = max(1, resources.cores // max(processes, min(resources.workers, sum(map(resources.places, beside)))))
    parent = Parent(os.getpid(), process_started(os.getpid()))
    trainings = min(resources.workers, sum(job.trains for job in beside))
    sharing = max(1.0, trainings * processes / max(1, len(resources.gpus))) if gpus else 1.0
    worker = replace(worker, parent=parent, sharing=sharing)
    return start_local(worker, worker.folder, worker.job.name, threads, gpus, processes)


def can_start(sweep: Sweep, job: Job) -> bool:
    """The weights that the job works with are there."""
    return job.after is None or job.needs is None or is_trained(sweep.out, job.needs)


def close_job(sweep: Sweep, job: Job, process: Running, beside: Iterable[Job], workers: int) -> list[Job]:
    """After a worker's end: what has no record gets one that says why, unless another job is to give it one.

    `beside`: the jobs that run or wait. Returns jobs for the cells that it had not begun.
    """
    words = process.last_words()
    disk = disk_words(words)
    if disk is not None:
        error = {"type": DISK_ERROR, "message": disk}
    elif process.succeeded() and words:  # it came to its end, yet could not write a record
        error = {"type": NO_RECORD, "message": words.splitlines()[-1]}
    else:
        reason = f"the worker ended without a word during {job.kind} (killed, or out of memory)"
        error = {
            "type": WORKER_DIED,
            "message": f"{reason}; its log is in {process.folder.relative_to(sweep.out.resolve())}",
        }
    error["traceback"] = words
    if job.kind == "evaluate":
        theirs = {cell.id for other in beside if other.kind == "evaluate" for cell in other.cells}
        left = [cell for cell in job.cells if cell.id not in theirs]
        return shared(
            _close_cells(sweep, replace(job, cells=tuple(left)), error, read_progress(process.folder)), workers
        )
    if job.kind == "train":
        if not is_trained(sweep.out, job.training):
            fail_record(sweep.out, job.training, error)
            record = read_record(training_folder(sweep.out, job.training.id) / "record.json")
            if record is not None and record["error"] not in (None, error):  # one of its processes has said more
                error = training_failure(job.training.id, record["error"])
            for cell in job.cells:
                fail_record(sweep.out, cell, error)
    elif job.probe is not None:
        fail_record(sweep.out, job.probe, error)
    return []


def _close_cells(sweep: Sweep, job: Job, error: dict[str, str], progress: dict) -> Job:
    """The cells of the suite that was asked have failed, the others go on; before the first suite, all have failed."""
    left = [cell for cell in job.cells if read_record(cell_folder(sweep.out, cell.id) / "record.json") is None]
    begun = left if "cells" not in progress else [cell for cell in left if cell.run == progress.get("run")]
    for cell in begun:
        fail_record(sweep.out, cell, error)
    return replace(job, name=job.name + "+", cells=tuple(cell for cell in left if cell not in begun))


@contextmanager
def _workers_ended(running: dict[str, tuple[Job, Running]]) -> Iterator[None]:
    """No worker outlives the block."""
    with interrupted_when_told_to_end():
        try:
            yield
        finally:
            for _, process in running.values():
                process.kill()
