"""A thousand cells: how often Slurm is called, and how long planning and status take. Slurm's clients are played."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from ablations.jobs import Job
from ablations.slurm_jobs import read_submitted
from ablations.slurm_submit import batches
from tests.ablations.conftest import ROOT

PLAIN = SimpleNamespace(gates=None)  # as much of a training as the order of jobs asks for
SHARED = "asks: test\naxes: {nsa.window: %s}\nsuites: [synth_needle, synth_order]\n" % list(range(1, 501))  # noqa: UP031
TRAINED = "asks: train\naxes: {nsa.window: %s}\nsuites: [synth_needle, synth_order, synth_layout]\nseeds: [0, 1]\n"
MANY = TRAINED % list(range(1, 168))  # 334 trainings
FEW = "asks: train\naxes: {train.steps: [3, 4], suite.seed: %s}\nsuites: [synth_needle]\n" % list(range(500))  # noqa: UP031
CLIENTS = {
    "sbatch": 'echo call >> $CALLS; echo "Submitted batch job $(wc -l < $CALLS)"',
    "squeue": "cat $QUEUE",
    "sacct": "",
    "scontrol": "",
    "srun": "",
    "sinfo": "",
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slurm's clients, which count the calls of sbatch."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, line in CLIENTS.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("QUEUE", str(tmp_path / "queue"))
    (tmp_path / "queue").touch()
    return tmp_path


def command(site: Path, *more: str) -> str:
    """What the command says. It takes one to two seconds of CPU; what grows with the square of the cells, minutes."""
    profile = f"partition: gpu\ngpus_per_node: 6\ncpus: 96\nmemory: 960\nmax_parallel: {more[0]}\n"
    profile += "placement: {micro_batch_size: 3}\n"
    (site / "site.yaml").write_text(profile)
    line = [sys.executable, "-m", "tests.ablations.fakes", "--grid", str(site / "grid.yaml"), "--out", str(site / "o")]
    line += ["--profile", str(site / "site.yaml"), *more[1:]]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("grid", "parallel", "jobs", "calls"),
    [
        pytest.param(SHARED, 32, "34 jobs (1 train, 32 evaluate, 1 probe)", 3, marks=pytest.mark.long),
        pytest.param(SHARED, 1000, "1002 jobs (1 train, 1000 evaluate, 1 probe)", 3, marks=pytest.mark.long),
        (MANY, 16, "1002 jobs (334 train, 334 evaluate, 334 probe)", 3),
        pytest.param(FEW, 100, "104 jobs (2 train, 100 evaluate, 2 probe)", 4, marks=pytest.mark.long),
    ],
    ids=["one-training", "a-job-a-cell", "hundreds-of-trainings", "two-trainings"],
)
def test_a_thousand_cells_are_planned_and_submitted_at_once(
    site: Path, grid: str, parallel: int, jobs: str, calls: int
):
    (site / "grid.yaml").write_text(grid)
    planned = command(site, str(parallel), "--dry-run")
    assert planned.count(" cell ") in (1000, 1002)
    said = command(site, str(parallel))
    assert f"submitted {jobs} by {calls} sbatch calls" in said
    assert len((site / "calls").read_text().splitlines()) == calls <= 12
    (folder,) = (site / "o" / "sweeps").iterdir()
    rows = [f"{job.id}|PENDING||||Priority" for job in read_submitted(folder)]
    (site / "queue").write_text("\n".join(rows) + "\n")
    shown = command(site, str(parallel), "--status")
    assert f"Slurm: {len(rows)} jobs pending (Priority)" in shown


def test_a_job_that_is_silent_for_long_is_shown(site: Path):
    (site / "grid.yaml").write_text("suites: [synth_needle]\n")
    command(site, "1")
    (folder,) = (site / "o" / "sweeps").iterdir()
    training, *_ = read_submitted(folder)
    (site / "queue").write_text(f"{training.id}|RUNNING|n7|||None\n")
    progress = {"phase": "train", "what": "training", "done": 36, "total": 120, "time": time.time() - 3600}
    (folder / "jobs" / training.name / "progress.json").write_text(json.dumps(progress))
    shown = command(site, "1", "--status")
    assert (
        f"{training.id} on n7: train training 36/120; silent for 1 h 00 min: if it hangs, scancel {training.id}"
        in shown
    )


def jobs_of(**counts: tuple[int, int]) -> list[Job]:
    """Trainings by name, each with as many evaluations and probes that wait for it."""
    made = [Job(name, "train", PLAIN) for name in counts]  # type: ignore[arg-type]
    for name, (evaluations, probes) in counts.items():
        made += [Job(f"{name}-{n}", "evaluate", PLAIN, after=name) for n in range(evaluations)]  # type: ignore[arg-type]
        made += [Job(f"{name}-p{n}", "probe", PLAIN, after=name) for n in range(probes)]  # type: ignore[arg-type]
    return made


def test_trainings_that_are_unlike_do_not_cost_a_call_each():
    uneven = {f"t{n}": (1 + n % 2, n % 3 > 0) for n in range(90)}
    made = batches(jobs_of(**uneven), 1000)  # type: ignore[arg-type]
    assert len(made) == 4 + 6 + 2  # four kinds of trainings; arrays of their evaluations; of their probes
    assert sum(len(batch) for batch, _ in made) == 90 + 45 + 90 + 60
    arrays = {job.name: (number, place) for number, (batch, _) in enumerate(made) for place, job in enumerate(batch)}
    for batch, after in made:
        if after and len({job.after for job in batch}) > 1:  # aftercorr: task n waits for task n
            assert len({arrays[str(job.after)][0] for job in batch}) == 1
            assert [arrays[str(job.after)][1] for job in batch] == list(range(len(batch)))
