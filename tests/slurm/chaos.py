"""A sweep on the real one-node Slurm while things break at random, and whether its records are those of a calm run.

    CLUSTER_CPUS=4 slurm/local_cluster.sh start && eval "$(slurm/local_cluster.sh env)"
    python -m tests.slurm.chaos --seed 1 [--faults 12] [--grid smoke] [--set train.steps=100 ...]

Real trainings and evaluations. The one who types the command only ever types it again (--wait). At the end every cell
must have exactly one record, equal to the calm run's but for times and memory; every training the calm run's losses.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ablations.slurm_jobs import read_submitted
from ablations.snapshot import take_snapshot
from tests.ablations.conftest import ROOT, results

SCRIPT = ROOT / "slurm" / "local_cluster.sh"
SETTINGS = ("train.steps=120", "train.save_every=10", "suite.limit=16")
PAUSES = (1.0, 9.0)  # seconds between two faults
FINISH_TRIES = 6  # of the same command, once nothing breaks any more


class Chaos:
    """The sweep, and all that can happen to it."""

    def __init__(self, arguments: argparse.Namespace):
        self.random = random.Random(arguments.seed)
        self.home = Path(os.environ["SLURM_CONF"]).parent
        self.environment = os.environ | {"CLUSTER_HOME": str(self.home)}
        self.code = take_snapshot(arguments.out / "code")  # whoever edits the checkout changes nothing
        self.calm = arguments.out / f"calm-{self.code.name}"
        self.out, self.grid = (
            Path(tempfile.mkdtemp(prefix=f"seed-{arguments.seed}-", dir=arguments.out)),
            arguments.grid,
        )
        self.settings = [part for setting in arguments.set or SETTINGS for part in ("--set", setting)]
        self.user: subprocess.Popen[str] | None = None
        self.over = threading.Event()
        self.begun = time.monotonic()

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.begun:6.1f} s  {text}", flush=True)

    def command(self, out: Path, *more: str) -> list[str]:
        return [sys.executable, "ablations/run.py", "--grid", self.grid, "--out", str(out), *self.settings, *more]

    def start(self) -> subprocess.Popen[str]:
        """The user's command, its output in a file."""
        with open(self.out / "user.log", "a") as log:
            command = self.command(self.out, "--cluster", "slurm", "--profile", "cpu-test", "--wait")
            return subprocess.Popen(command, cwd=self.code, stdout=log, stderr=log, text=True)

    def jobs(self) -> list[str]:
        """The sweep's jobs that are in the queue."""
        wanted = {job.id for folder in (self.out / "sweeps").glob("*") for job in read_submitted(folder)}
        return sorted(wanted & set(ask("squeue", "-h", "--array", "-o", "%i").split()))

    def workers(self, *words: str) -> list[int]:
        """Processes of this cluster's jobs whose command line holds all the words."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if all(word in line for word in words) and str(self.out).encode() in environment + line.encode():
                found.append(int(entry.name))
        return found

    # What can happen.

    def repair(self) -> None:
        """Start the daemons that do not run."""
        subprocess.run([SCRIPT, "start"], env=self.environment, check=True, capture_output=True)

    def daemon(self, name: str) -> None:
        """kill -9 of a daemon, and its return some seconds later."""
        kill([int((self.home / "pid" / name).read_text())])
        time.sleep(self.random.uniform(0, 6))
        self.repair()

    def slurmd(self) -> None:
        self.daemon("slurmd")

    def slurmctld(self) -> None:
        self.daemon("slurmctld")

    def slurmdbd(self) -> None:
        self.daemon("slurmdbd")

    def stepd(self) -> None:
        """kill -9 of Slurm's process that watches a job."""
        if found := [pid for job in self.jobs() for pid in stepds(job)]:
            kill([self.random.choice(found)])

    def worker(self) -> None:
        """kill -9 of what does the work."""
        if found := self.workers("submitit.core._submit"):
            kill([self.random.choice(found)])

    def node(self) -> None:
        """The node goes with all that runs on it, and comes back."""
        kill([int((self.home / "pid" / "slurmd").read_text())])
        kill([pid for job in self.jobs() for pid in stepds(job)] + self.workers("submitit.core._submit"))
        time.sleep(self.random.uniform(0, 6))
        self.repair()

    def preempt(self) -> None:
        """A job of the higher partition takes the whole node."""
        ask("sbatch", "-p", "urgent", "-n", "1", "-c", "4", "--mem=100", "-o", "/dev/null", "--wrap", "sleep 2")

    def scancel(self) -> None:
        if jobs := self.jobs():
            ask("scancel", self.random.choice(jobs))

    def requeue(self) -> None:
        if jobs := self.jobs():
            ask("scontrol", "requeue", self.random.choice(jobs))

    def shell(self) -> None:
        """The user's shell is gone."""
        if self.user is not None:
            kill([self.user.pid])

    def again(self) -> None:
        """Another shell, the same command."""
        self.run_user()

    def run_user(self) -> int:
        """Type the command unless it runs; its exit code, or -1 while it runs."""
        if self.user is None or self.user.poll() is not None:
            self.user = self.start()
        return -1 if self.user.poll() is None else int(self.user.returncode)

    def hurry(self) -> None:
        """Requeued jobs need not wait the two minutes that Slurm holds them."""
        since: dict[str, float] = {}
        while not self.over.wait(1):
            for line in ask("squeue", "-h", "--array", "-o", "%i %r").splitlines():
                job, _, reason = line.partition(" ")
                if reason == "BeginTime" and time.monotonic() - since.setdefault(job, time.monotonic()) > 4:
                    ask("scontrol", "update", f"jobid={job}", "StartTime=now")
                    since.pop(job)

    def run(self, faults: int) -> list[str]:
        """Everything; returns what is wrong with the end."""
        calm = subprocess.run(
            self.command(self.calm, "--cluster", "local"), cwd=self.code, capture_output=True, text=True, check=False
        )
        assert calm.returncode == 0, calm.stderr
        self.begun = time.monotonic()
        threading.Thread(target=self.hurry, daemon=True).start()
        self.run_user()
        names = ("slurmd", "slurmctld", "slurmdbd", "stepd", "worker", "node", "preempt", "scancel", "requeue", "shell")
        time.sleep(5)
        for number in range(faults):
            time.sleep(self.random.uniform(*PAUSES))
            name = self.random.choice((*names, "again"))
            self.say(f"fault {number + 1}: {name}; {len(self.jobs())} jobs in the queue")
            fault: Callable[[], None] = getattr(self, name)
            fault()
            if self.random.random() < 0.5:
                self.run_user()
        self.repair()
        for number in range(FINISH_TRIES):
            self.run_user()
            assert self.user is not None
            code = self.user.wait(timeout=400)
            self.say(f"calm again, command {number + 1}: exit code {code}")
            if code == 0:
                break
        self.over.set()
        return differences(results(self.calm), results(self.out)) + (["no exit code 0"] if code else [])


def differences(calm: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Lines on what is not equal."""
    wrong = [f"{key}: missing" for key in calm if key not in found]
    wrong += [f"{key}: too many" for key in found if key not in calm]
    return wrong + [f"{key}: differs" for key in calm if key in found and calm[key] != found[key]]


def ask(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout
    except subprocess.TimeoutExpired:
        return ""


def kill(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def stepds(job: str) -> list[int]:
    """Slurm's own processes of a job's steps."""
    number = ask("squeue", "-h", "-j", job, "-o", "%A").strip()
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if number and line.startswith(f"slurmstepd: [{number}."):
            found.append(int(entry.parent.name))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=int, default=12)
    parser.add_argument("--grid", default="budget")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "videonsa-chaos")
    arguments = parser.parse_args()
    arguments.out = arguments.out.resolve()
    arguments.out.mkdir(exist_ok=True)
    os.environ["WANDB_MODE"] = "disabled"
    chaos = Chaos(arguments)
    wrong = chaos.run(arguments.faults)
    print(json.dumps(wrong, indent=1) if wrong else f"{len(results(chaos.out))} files as in the calm run")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
