"""A real one-node Slurm for the tests, and sweeps of fake stages that are submitted to it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ablations.slurm_jobs import Submitted, read_submitted
from tests.ablations import fakes
from tests.ablations.conftest import GRID, ROOT, records, set_faults

SCRIPT = ROOT / "slurm" / "local_cluster.sh"
PROFILE = "partition: debug\ncpus: 1\nmemory: 0.5\nminutes: 5\nmax_parallel: 4\n"
ALL_DONE = dict.fromkeys(("b=1 synth_needle", "b=1 synth_order", "b=2 synth_needle", "b=2 synth_order"), "done")


def metrics(out: Path) -> list[dict]:
    lines = [line for path in out.glob("trainings/*/metrics.jsonl") for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def begun(out: Path, name: str) -> bool:
    return name in fakes.calls(out)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path]:
    """Start the cluster, once for all tests; its folder. Skips where it cannot be installed."""
    if os.getuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("a real Slurm for tests needs root and apt-get (slurm/local_cluster.sh)")
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")  # each has a cluster of its own
    home = Path(tempfile.gettempdir()) / f"videonsa-slurm-{worker}"
    before = dict(os.environ)
    os.environ |= {"CLUSTER_HOME": str(home), "CLUSTER_CPUS": "4", "SLURM_CONF": str(home / "slurm.conf")}
    os.environ["CLUSTER_PORT"] = str(26817 + 10 * int(worker[2:]))
    started = subprocess.run([SCRIPT, "start"], capture_output=True, text=True, check=False)
    if started.returncode != 0:
        pytest.skip(f"Slurm could not be started: {started.stderr.strip().splitlines()[-1]}")
    yield home
    subprocess.run([SCRIPT, "wipe"], capture_output=True, check=False)
    os.environ.clear()
    os.environ.update(before)


@dataclass
class SlurmSweep:
    """The command line on a sweep of fake stages."""

    out: Path
    grid: Path
    profile: Path

    def run(self, *more: str) -> subprocess.CompletedProcess[str]:
        """The command, with --cluster slurm; PYTHONPATH brings the fakes to the jobs."""
        command = [sys.executable, "-m", "tests.ablations.fakes", "--grid", str(self.grid), "--out", str(self.out)]
        command += ["--cluster", "slurm", "--profile", str(self.profile), *more]
        environment = os.environ | {"WANDB_MODE": "disabled", "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    def submitted(self, kind: str = "") -> list[Submitted]:
        """What was submitted so far, of one kind."""
        found = [job for folder in (self.out / "sweeps").glob("*") for job in read_submitted(folder)]
        return [job for job in found if job.kind == kind or not kind]

    def finish(self) -> subprocess.CompletedProcess[str]:
        """Follow to the end and show."""
        return self.run("--wait")

    def statuses(self) -> dict[str, str]:
        """Status of every record, by cell."""
        return {key: record["status"] for key, record in records(self.out).items()}

    def faults(self, **faults: object) -> None:
        """What goes wrong from now on."""
        set_faults(self.out, **faults)


@pytest.fixture
def slurm(cluster: Path, tmp_path: Path) -> SlurmSweep:
    sweep = SlurmSweep(tmp_path / "runs", tmp_path / "pair.yaml", tmp_path / "site.yaml")
    sweep.grid.write_text(GRID)
    sweep.profile.write_text(PROFILE)
    return sweep


def wait_until(condition: Callable[[], object], seconds: float = 120) -> None:
    """Poll until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.3)


def state(job: str) -> str:
    """A job's state by squeue, '' when it is not in the queue."""
    done = subprocess.run(["squeue", "-h", "-j", job, "-o", "%T %r"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


@contextmanager
def hurrying(job: str) -> Iterator[None]:
    """Start the job at once whenever it was requeued: Slurm would hold it for two minutes."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1):
            if state(job) == "PENDING BeginTime":
                over.wait(4)
                subprocess.run(
                    ["scontrol", "update", f"jobid={job}", "StartTime=now"], capture_output=True, check=False
                )

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
