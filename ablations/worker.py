"""What runs a job, here or on Slurm: ablations/job_train, job_evaluate or job_probe. No torch at first."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablations.failures import JobFailed
from ablations.job_evaluate import run_cells
from ablations.job_probe import run_probe
from ablations.job_train import run_training, train_along
from ablations.jobs import Job
from ablations.plan import Sweep
from ablations.progress import Progress
from ablations.stages import Stages
from ablations.work import Work
from slurm.executor import delayed, distributed_environment, leave, leave_when_told
from videonsa.process import is_alive
from videonsa.surroundings import settings_decide
from videonsa.training.watch import Left


@dataclass(frozen=True)
class Parent:
    """The process that a local worker must not outlive."""

    pid: int
    started: str


@dataclass(frozen=True)
class Worker(Work):
    """Runs its job when it is called; submitit pickles it. A requeued job simply starts again: its stages resume."""

    parent: Parent | None = None
    save_seconds: float = 30.0  # that a training has for its last step and for saving it, once Slurm interrupts it

    def __call__(self) -> None:
        """Run the job; raises JobFailed at the end when anything in it failed, DiskError when a disk did."""
        if self.parent is not None:
            _die_with(self.parent)
        trains = self.job.kind == "train" and not self.job.measures
        leave_when_told(self.save_seconds if trains else None)
        rank, processes = distributed_environment() if self.job.kind == "train" else (0, 1)
        try:
            with settings_decide(alone=processes == 1):
                return train_along(self) if rank > 0 else self._run()
        except Left:
            leave(on_slurm=self.parent is None)
            raise

    def _run(self) -> None:
        progress = Progress(self.folder)
        run = {"train": run_training, "evaluate": run_cells, "probe": run_probe}[self.job.kind]
        problems = run(self, progress)
        progress.write(phase="end", force=True)
        if problems:
            raise JobFailed("; ".join(problems))

    def checkpoint(self, *_: Any, **__: Any) -> Any:
        """Called by submitit before a preempted or timed-out job is requeued."""
        return delayed(self)


def make_worker(sweep: Sweep, job: Job, stages: Stages, attempt: str) -> Worker:
    """The picklable thing that a job runs; its folder is made, its earlier progress forgotten. attempt: see Work."""
    folder = job_folder(sweep, job)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "progress.json").unlink(missing_ok=True)
    return Worker(job, sweep.out.resolve(), folder.resolve(), sweep.name, stages, attempt)


def job_folder(sweep: Sweep, job: Job) -> Path:
    """Where a job's logs and progress lie."""
    return sweep.folder / "jobs" / job.name


def _die_with(parent: Parent) -> None:
    """End this process within a second of the end of run.py, or of submitit's controller between the two."""
    controller = os.getppid()

    def watch() -> None:
        while is_alive(parent.pid, parent.started) is not False and os.getppid() == controller:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent watch").start()
