"""Starting jobs through submitit, of which this is the only importer: here, in this process, or on Slurm."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLUSTERS = ("auto", "debug", "local", "slurm")
ROOT = Path(__file__).resolve().parent.parent
LOCAL_MINUTES = 60 * 24 * 30  # submitit wants a time limit; this machine has none
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass
class Running:
    """A local job: submitit's controller process, which runs the worker."""

    name: str
    folder: Path
    job: Any  # submitit's
    since: float
    gpus: tuple[int, ...] = ()

    def ended(self) -> bool:
        """The worker has gone, in whatever way."""
        return self.job._process.poll() is not None

    def kill(self) -> None:
        """End the controller and the worker below it."""
        controller = self.job._process
        workers = _children(controller.pid)
        for pid in (controller.pid, *workers):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        controller.wait()

    def succeeded(self) -> bool:
        """The worker came to its end and left a result."""
        return self.job.paths.result_pickle.is_file()

    def last_words(self, lines: int = 12) -> str:
        """The end of the worker's error log."""
        try:
            text = self.job.paths.stderr.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


def run_here(function: Callable[[], Any], folder: Path) -> None:
    """Run in this process (submitit's debug executor). An exception of the function stays in its records."""
    import submitit

    submitit.DebugExecutor(folder).submit(function).exception()


def delayed(function: Callable[[], Any]) -> Any:
    """What a requeued job runs: submitit asks for it before a preempted or timed-out job goes back into the queue."""
    from submitit.core.utils import DelayedSubmission

    return DelayedSubmission(function)


def start_local(
    function: Callable[[], Any], folder: Path, name: str, threads: int, gpus: tuple[int, ...] = ()
) -> Running:
    """Start the function in a process of its own on this machine, with this many CPU threads and these GPUs."""
    import submitit

    folder.mkdir(parents=True, exist_ok=True)
    executor = submitit.LocalExecutor(folder)
    executor.update_parameters(timeout_min=LOCAL_MINUTES, gpus_per_node=len(gpus), visible_gpus=gpus)
    with _environment(worker_environment(threads)), _deaf_to_interrupts():
        job = executor.submit(function)
    return Running(name, folder, job, time.time(), gpus)


def worker_environment(threads: int) -> dict[str, str]:
    """Environment of a worker: our packages on its path, and its share of the cores."""
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    path = os.pathsep.join(dict.fromkeys(paths))
    return {"PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"} | dict.fromkeys(THREAD_VARIABLES, str(threads))


def local_gpus() -> tuple[int, ...]:
    """Indices of the NVIDIA GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(int(part) for part in visible.split(",") if part.strip().isdigit())
    if shutil.which("nvidia-smi") is None:
        return ()
    done = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=30, check=False)
    return tuple(range(sum(line.startswith("GPU ") for line in done.stdout.splitlines())))


def local_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes started meanwhile do not see Ctrl-C: a terminal sends it to all, but run.py alone ends workers."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
