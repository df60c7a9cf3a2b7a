"""What Slurm says of jobs: one call for all. Clients are given a time limit, since a sick controller hangs them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from slurm.profile import ClusterError

CALL_SECONDS = 20
# Variables by which users have their clients show less, otherwise, or ask first.
FILTERS = ("SQUEUE_", "SACCT_", "SINFO_", "SCANCEL_", "SLURM_TIME_FORMAT", "SLURM_BITSTR_LEN")
LAG_TRIES, LAG_SECONDS = 3, 1.5
ACTIVE = ("PENDING", "RUNNING", "REQUEUED", "RESIZING", "SUSPENDED", "COMPLETING", "CONFIGURING", "REQUEUE_HOLD")
NOT_SHARED = 66  # exit code of a job that does not see the code that it should run
UNSEEN = (f"{NOT_SHARED}:0", "0:53")  # and Slurm's own: it could not open the job's log
# Reasons of a pending job that time does not remove, or parts of them.
BEYOND = (
    *("PartitionNodeLimit", "PartitionTimeLimit", "PartitionConfig", "BadConstraints", "NotAllowed", "PerJob"),
    *("InvalidAccount", "InvalidQOS"),
)
HELD = ("JobHeld", "requeued_held", "requeued held")
MAX_ARRAY_DEFAULT = 1001  # Slurm's own


class QueueAway(RuntimeError):
    """Neither sacct nor squeue answers."""


@dataclass(frozen=True)
class JobState:
    """One job's state as Slurm has it."""

    state: str  # PENDING, RUNNING, COMPLETED, FAILED, CANCELLED, TIMEOUT, OUT_OF_MEMORY, NODE_FAIL, ...
    node: str = ""
    memory: str = ""  # the most that it used, as sacct writes it (512000K)
    asked: str = ""  # memory that it asked for
    reason: str = ""
    exit: str = ""  # code:signal

    @property
    def not_shared(self) -> bool:
        """Its node did not see the folder of the sweep."""
        return self.state == "FAILED" and self.exit in UNSEEN

    @property
    def active(self) -> bool:
        """It will still do something by itself."""
        return self.state in ACTIVE

    @property
    def advice(self) -> str:
        """What to do about a job that will not start by itself; '' when it will."""
        if self.state != "PENDING":
            return ""
        if any(part in self.reason for part in BEYOND):
            return "the profile asks for more than the site gives: --cancel, correct it, submit again"
        return "it is held: scontrol release, or --cancel" if any(part in self.reason for part in HELD) else ""

    @property
    def out_of_memory(self) -> bool:
        """Killed for its memory. Sites without cgroups say FAILED, with more used than was asked for."""
        over = kilobytes(self.asked) > 0 and kilobytes(self.memory) >= kilobytes(self.asked)
        return self.state == "OUT_OF_MEMORY" or (self.state in ("FAILED", "CANCELLED") and over)


def require_slurm() -> None:
    """Raise ClusterError where there is no Slurm."""
    if shutil.which("sbatch") is None:
        raise ClusterError("--cluster slurm: no sbatch on the PATH; run this on a login node, or use --cluster local")


def job_states(ids: Iterable[str]) -> dict[str, JobState]:
    """The states of all these jobs, by id (array tasks as 12_3): one call of squeue for the active ones, one of sacct.

    A job that squeue answered without naming has ended: as accounting says, else as LOST. Absent are jobs that only
    squeue could know while it does not answer. Raises QueueAway when neither answers.
    """
    ids = list(ids)
    if not ids:
        return {}
    queue = _ask("squeue", "--noheader", "--array", "--me", "--format=%i|%T|%N|||%r")
    active = {job: state for job, state in parse_sacct(queue or "").items() if state.active}
    ended = [job for job in ids if job not in active]
    past = _past(ended)
    for _ in range(LAG_TRIES):  # accounting lags behind the controller
        if queue is None or past is None or all(job in past and not past[job].active for job in ended):
            break
        time.sleep(LAG_SECONDS)
        past = _past(ended)
    if queue is None and past is None:
        raise QueueAway("Slurm does not answer (squeue and sacct)")
    states = {job: active[job] for job in ids if job in active} | (past or {})
    if queue is not None:
        lost = JobState("LOST")
        states |= {job: lost for job in ended if job not in states or states[job].active}
    return states


def _past(ids: list[str]) -> dict[str, JobState] | None:
    """What accounting says of these jobs; None when it does not answer or a site has none."""
    if not ids:
        return {}
    parents = sorted({job.partition("_")[0] for job in ids}, key=int)
    fields = "--format=JobID,State,NodeList,MaxRSS,ReqMem,Reason,ExitCode"
    text = _ask("sacct", "--noheader", "--parsable2", fields, "--jobs", ",".join(parents))
    return None if text is None else {job: state for job, state in parse_sacct(text).items() if job in set(ids)}


def parse_sacct(text: str) -> dict[str, JobState]:
    """Lines of JobID|State|NodeList|MaxRSS|ReqMem|Reason|ExitCode; a job's memory is the most that a step used."""
    states: dict[str, JobState] = {}
    used: dict[str, str] = {}
    for line in text.splitlines():
        job, state, node, memory, asked, reason, code = (line.split("|") + [""] * 7)[:7]
        parent, _, step = job.partition(".")
        if step:
            if kilobytes(memory) > kilobytes(used.get(parent, "")):
                used[parent] = memory
            continue
        state = state.split()[0] if state else ""  # "CANCELLED by 0"
        for one in expand(job):
            states[one] = JobState(state, node, "", asked, reason, code)
    return {job: replace(state, memory=used.get(job, "")) for job, state in states.items()}


def expand(job: str) -> list[str]:
    """'12_[0-2,5%4]' -> ['12_0', '12_1', '12_2', '12_5']; '12' -> ['12']."""
    found = re.fullmatch(r"(\d+)_\[([\d,\-]+)(?:%\d+)?\]", job)
    if not found:
        return [job]
    parent, ranges = found.groups()
    tasks = []
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        tasks += [f"{parent}_{number}" for number in range(int(first), int(last or first) + 1)]
    return tasks


def kilobytes(text: str) -> float:
    """'512000K', '2.5G' -> kB; 0 when there is none."""
    found = re.match(r"([\d.]+)([KMGT]?)", text)
    return float(found[1]) * {"": 1 / 1024, "K": 1, "M": 1024, "G": 1024**2, "T": 1024**3}[found[2]] if found else 0.0


def cancel(ids: Iterable[str]) -> None:
    """Cancel these jobs and nothing else. Raises QueueAway when Slurm does not answer."""
    ids = list(ids)
    if ids and _ask("scancel", *ids) is None:
        raise QueueAway("Slurm does not answer (scancel)")


def max_array_size() -> int:
    """Largest number of tasks of one array at this site."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", _ask("scontrol", "show", "config") or "")
    return max(1, int(found[1]) - 1 if found else MAX_ARRAY_DEFAULT - 1)


def partitions() -> list[str]:
    """Names of the site's partitions."""
    return sorted(set((_ask("sinfo", "--noheader", "--format=%R") or "").split()))


def _ask(*command: str) -> str | None:
    own = {name: value for name, value in os.environ.items() if not name.startswith(FILTERS)}
    how: dict[str, Any] = {"env": own, "capture_output": True, "text": True, "errors": "replace"}
    try:
        done = subprocess.run(command, timeout=CALL_SECONDS, check=False, **how)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
