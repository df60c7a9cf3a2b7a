"""Failures: what a record keeps of an error, its `type` and words, and what is said of it. Imports no torch.

What an exception ended has the exception's own name; the names below are found out from outside the job.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from videonsa.disk import DiskError, disk_error
from videonsa.record import failure, without_paths


class TrainingFailed(RuntimeError):
    """The training that a cell needs has failed."""


class JobFailed(RuntimeError):
    """Something in a job failed; its records say what. Raised last, so that Slurm sees a failed job."""


class PlannedOtherwise(RuntimeError):
    """This machine would not make the number that was planned; the message says what differs."""


CANCELLED = "Cancelled"  # by somebody, before or while it ran
WORKER_DIED = "WorkerDied"  # killed, preempted, its node lost: it left no word
OUT_OF_MEMORY = "OutOfMemory"  # as Slurm says
NOT_SHARED = "NotShared"  # its node does not see the out folder
DISK_ERROR = DiskError.__name__  # the disk was full, or failed
NO_RECORD = "JobError"  # it came to its end, yet wrote no record
TRAINING_FAILED = TrainingFailed.__name__

INTERRUPTIONS = (WORKER_DIED, CANCELLED, DISK_ERROR)  # nobody's fault: tried again without being asked


def disk_words(log: str) -> str | None:
    """What a log says of the disk that ended its process, in its traceback; None when it was something else."""
    name = f"{DiskError.__module__}.{DISK_ERROR}: "
    return next((line[len(name) :] for line in reversed(log.splitlines()) if line.startswith(name)), None)


def training_failure(training: str, error: Mapping[str, str]) -> dict[str, str]:
    """The error of a cell whose training failed; an interrupted training interrupts it too."""
    kind = error["type"] if error["type"] in INTERRUPTIONS else TRAINING_FAILED
    return {"type": kind, "message": f"training {training} failed: {error['message']}", "traceback": error["traceback"]}


def line_of_failure(name: str, error: Mapping[str, str]) -> str:
    """What failed, in a line. Raises DiskError where it was the disk: what comes after would fail in the same way."""
    if error["type"] == DISK_ERROR:
        raise DiskError(error["message"])
    return f"{name}: {error['message']}"


def error_of(error: Exception, folder: Path) -> dict[str, str]:
    """What a record says of an exception. Where a disk is to blame, in whatever library's words, it says which."""
    disk = disk_error(error, folder)
    told = {} if disk is None else {"type": DISK_ERROR, "message": without_paths(str(disk))}
    return failure(error) | told
