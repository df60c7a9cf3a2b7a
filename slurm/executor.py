"""Starting jobs through submitit, of which this is the only importer: here, in this process, or on Slurm."""

from __future__ import annotations

import io
import os
import shlex
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slurm.environment import (
    CHOICES,
    ROOT,
    changed_environment,
    profile_decides,
    worker_environment,
)
from slurm.machine import local_cores, local_device, local_gpus, named_gpus
from slurm.profile import ClusterError, SlurmProfile
from slurm.queue import NOT_SHARED
from slurm.refusals import explain, is_busy, words_of

__all__ = ["local_cores", "local_device", "local_gpus"]  # of slurm.machine, for whoever starts jobs

CLUSTERS = ("auto", "debug", "local", "slurm")
RETRY_SECONDS = (1, 2, 4, 8, 16)  # pauses before sbatch is called again
MAX_TIMEOUTS = 1000  # a training of weeks reaches many time limits; each time it resumes
INTERRUPTED = 255  # exit code, as submitit's
KILLED_WITHIN = 600.0  # seconds from Slurm's SIGTERM to its end; sites give half a minute, or some minutes
LOCAL_MINUTES = 60 * 24 * 30  # submitit wants a time limit; this machine has none


@dataclass(frozen=True)
class Request:
    """How some jobs are to be submitted to Slurm."""

    profile: SlurmProfile
    folder: Path  # of submitit's scripts, pickles and logs; on a file system that the nodes share
    name: str  # of the jobs, in squeue
    whole_node: bool = False  # all of the profile's resources, for a training
    dependency: str | None = None  # afterok:12, or aftercorr:12
    parallel: int = 16  # tasks of the array at once
    code: Path | None = None  # where our packages are imported from; None: the checkout


@dataclass
class Running:
    """A local job: submitit's controller process, which runs the worker."""

    name: str
    folder: Path
    job: Any  # submitit's
    since: float
    gpus: tuple[str, ...] = ()
    processes: int = 1  # of the one worker
    begun: bool = False  # all of them were there

    def ended(self) -> bool:
        """The worker has gone, in whatever way. Of several processes one that fails ends the others, as srun does."""
        if self.job._process.poll() is None and self.processes > 1 and self._one_has_failed():
            self.kill()
        return self.job._process.poll() is not None

    def _one_has_failed(self) -> bool:
        """A process is gone that left no result: it was killed; or one left an error."""
        there = len(_children(self.job._process.pid))
        self.begun = self.begun or there == self.processes
        results = [one.paths.result_pickle for one in self.job._sub_jobs if one.paths.result_pickle.is_file()]
        return self.begun and (there + len(results) < self.processes or not all(map(_is_success, results)))

    def tell(self) -> bool:
        """Tell the worker by SIGTERM to save and to leave, which a training hears; False once it has gone."""
        for pid in _children(self.job._process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        return self.job._process.poll() is None

    def kill(self) -> None:
        """End the controller and the processes below it."""
        controller = self.job._process
        workers = _children(controller.pid)
        for pid in (controller.pid, *workers):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        controller.wait()
        late = time.monotonic() + 5  # one in the midst of a kernel's work goes a moment later
        while any(map(_runs, workers)) and time.monotonic() < late:
            time.sleep(0.02)

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


def run_here(function: Callable[[], Any], folder: Path) -> BaseException | None:
    """Run in this process (submitit's debug executor). Returns the function's exception."""
    import submitit

    return submitit.DebugExecutor(folder).submit(function).exception()


def delayed(function: Callable[[], Any]) -> Any:
    """What a requeued job runs: submitit asks for it before a preempted or timed-out job goes back into the queue."""
    from submitit.core.utils import DelayedSubmission

    return DelayedSubmission(function)


_leaving: list[Callable[[], None]] = []  # what requeues this job
_told: list[int] = []  # signals by which Slurm announced this job's interruption


def told_to_leave() -> bool:
    """Slurm has announced that it will interrupt this job: what fails now fails for that."""
    return bool(_told)


def signal_seconds(profile: SlurmProfile, saves: bool) -> int:
    """How long before its time limit a job is told of it; a large training `saves` for minutes."""
    return min(600 if saves else 120, profile.minutes * 15)


def leave_when_told(saves_within: float | None = None) -> None:
    """In a job: when Slurm interrupts it, end the process as soon as it is requeued.

    submitit raises SystemExit wherever the program is, and what is evaluated may catch that: a question would count as
    wrong. An error of requeueing would end up in a record as the job's own; instead the job goes on until it is killed.

    saves_within: seconds; the job is told by SIGTERM, saves what it has, and calls `leave`. Where it has not come to
    that by then, it is requeued as it is.
    """
    from submitit.core.job_environment import JobEnvironment

    number = JobEnvironment._usr_sig()
    requeue = signal.getsignal(number)
    if not callable(requeue):
        return

    def go() -> None:
        try:
            requeue(number, None)
        except SystemExit:
            sys.stdout.flush()
            os._exit(INTERRUPTED)
        except Exception:
            traceback.print_exc()

    def handle(signum: int, frame: Any) -> None:
        _told.append(signum)
        if saves_within is None:
            go()
        elif len(_told) == 1:
            late = threading.Timer(saves_within, go)
            late.daemon = True
            late.start()
            signal.raise_signal(signal.SIGTERM)

    _leaving.append(go)
    signal.signal(number, handle)


def leave(on_slurm: bool) -> None:
    """End this job's process, which was told to leave and has saved what it has; returns where this is no job's.

    On Slurm it is requeued, where Slurm's signal said so. To what it is about to kill Slurm sends SIGTERM, and puts it
    back into the queue itself, unless somebody cancelled it; a job that ends before would count as failed. So it waits
    for its end, and so does a process beside the first one.
    """
    if not _leaving:
        return
    if _told:
        _leaving[-1]()
    sys.stdout.flush()
    if on_slurm:
        time.sleep(KILLED_WITHIN)
    os._exit(INTERRUPTED)


def start_local(
    function: Callable[[], Any],
    folder: Path,
    name: str,
    threads: int,
    gpus: tuple[str, ...] = (),
    processes: int = 1,
) -> Running:
    """Start the function in a process of its own on this machine, with this many CPU threads and these GPUs.

    `gpus`: as CUDA_VISIBLE_DEVICES names them, by index or UUID. Several `processes` are as many tasks of one job, as
    on Slurm: each sees all the GPUs, and has its number from `distributed_environment`.
    """
    import submitit

    folder.mkdir(parents=True, exist_ok=True)
    executor = submitit.LocalExecutor(folder)
    executor.update_parameters(timeout_min=LOCAL_MINUTES, gpus_per_node=len(gpus), tasks_per_node=processes)
    executor.parameters["visible_gpus"] = gpus  # set as a parameter, a UUID would be refused
    with changed_environment(worker_environment(threads)), _deaf_to_interrupts():
        job = executor.submit(function)
    return Running(name, folder, job, time.time(), gpus, processes)


def submit_slurm(functions: Sequence[Callable[[], Any]], request: Request) -> list[str]:
    """Submit the functions, several as one array, in one sbatch call; returns a job id for each (12_0, 12_1, ...).

    A busy controller is asked again, later and later. Raises ClusterError when Slurm refuses.
    """
    executor = slurm_executor(request)
    for pause in (*RETRY_SECONDS, None):
        heard = io.StringIO()
        try:
            with (
                profile_decides(request.profile),
                redirect_stderr(heard),
                executor.batch(),
            ):  # submitit passes sbatch's words on to stderr
                jobs = [executor.submit(function) for function in functions]
            return [job.job_id for job in jobs]
        except Exception as error:
            text = " ".join(f"{heard.getvalue()} {words_of(error)}".split())
            if pause is None or not is_busy(text):
                raise ClusterError(explain(text, request.profile)) from None
            time.sleep(pause)
    raise AssertionError("unreachable")


def slurm_executor(request: Request) -> Any:
    """submitit's executor with the profile's parameters; evaluation takes one GPU and its share of a node."""
    import submitit

    if "%" in str(request.folder):
        raise ClusterError(f"{request.folder}: Slurm reads a % in a path as a pattern: give --out a folder without")
    request.folder.mkdir(parents=True, exist_ok=True)
    executor = submitit.SlurmExecutor(request.folder, max_num_timeout=MAX_TIMEOUTS)
    profile = request.profile
    tasks = max(1, profile.gpus_per_node) if request.whole_node else 1
    share = 1 if request.whole_node else max(1, profile.gpus_per_node)
    cpus = max(1, profile.cpus // max(tasks, share))
    optional = {name: getattr(profile, name) for name in CHOICES}
    optional["gpus_per_node"] = (profile.gpus_per_node if request.whole_node else 1) if profile.gpus_per_node else None
    optional["dependency"] = request.dependency
    more = {"requeue": True, "kill-on-invalid-dep": "yes"} if request.dependency else {"requeue": True}
    executor.update_parameters(
        job_name=" ".join(request.name.split()),
        comment=" ".join(request.name.split()),
        nodes=profile.nodes if request.whole_node else 1,
        ntasks_per_node=tasks,
        cpus_per_task=cpus,
        mem=f"{int(profile.memory / share * 1024)}MB",
        time=profile.minutes,
        signal_delay_s=signal_seconds(profile, request.whole_node),
        array_parallelism=request.parallel,
        setup=_setup_lines(profile, request, cpus),
        # A requeued job keeps the log of its earlier runs; no process waits for another that is gone.
        srun_args=["--open-mode=append", "--kill-on-bad-exit=1"],
        additional_parameters=more,
        **{key: value for key, value in optional.items() if value is not None},
    )
    return executor


def distributed_environment() -> tuple[int, int]:
    """(rank, processes) of this job; with several, torch.distributed's variables are set for this one."""
    import submitit

    try:
        here = submitit.JobEnvironment()
    except RuntimeError:  # not in a job
        return 0, 1
    if here.num_tasks > 1:
        os.environ.pop("MASTER_PORT", None)  # of whatever we were started from: ours goes by the job's number
        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        if len(named_gpus(os.environ.get("CUDA_VISIBLE_DEVICES", ""))) == 1:
            os.environ["LOCAL_RANK"] = "0"  # of the one GPU that the site shows to each task
    return here.global_rank, here.num_tasks


def _setup_lines(profile: SlurmProfile, request: Request, cpus: int) -> list[str]:
    variables = worker_environment(cpus, request.code or ROOT)
    variables["SRUN_CPUS_PER_TASK"] = str(cpus)  # srun does not inherit --cpus-per-task from Slurm 22.05 on
    variables |= profile.environment
    lines = []
    if request.code is not None:  # a file server may need a moment to show a new folder
        seen = f"until [ -d {shlex.quote(str(request.code))} ]; do sleep 1; done"
        lines.append(f"timeout 60 sh -c {shlex.quote(seen)} || exit {NOT_SHARED}")
    lines += [f"module load {shlex.join(profile.modules)}"] if profile.modules else []
    return [*lines, *profile.setup, *(f"export {key}={shlex.quote(value)}" for key, value in variables.items())]


def _is_success(result: Path) -> bool:
    """What a process left is no error."""
    from submitit.core.utils import pickle_load

    return pickle_load(result)[0] == "success"


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes started meanwhile do not see Ctrl-C: a terminal sends it to all, but run.py alone ends workers."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
