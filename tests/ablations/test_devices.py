"""Every local job has a GPU of its own; trainings share where there are more workers. No GPU is needed: names are."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ablations.devices import gpus_for
from ablations.estimate import measured_rates
from ablations.grid import load_grid
from ablations.jobs import Job, make_jobs
from ablations.local import Resources, run_local
from ablations.plan import make_sweep
from ablations.profile import load_profile
from ablations.stages import Stages
from ablations.state import read_state
from tests.ablations import fakes
from tests.ablations.conftest import records
from videonsa.record import write_record

STAGES = Stages(f"{__name__}:train", *(f"tests.ablations.fakes:{name}" for name in ("load", "Suite", "probe")))
GRID = """
asks: train
axes: {nsa.block_count: [1, 2, 3]}
suites: [synth_needle]
"""
TWO = ("4", "GPU-7")


def job(kind: str, **training: Any) -> Job:
    return Job(kind, kind, SimpleNamespace(gates=None, **training))  # type: ignore[arg-type]


TRAIN, ASK, LOOK = map(job, ("train", "evaluate", "probe"))


def train(settings: Any, folder: Path, **reports: Any) -> Path:
    """Says which GPUs it sees once the three trainings run at once."""
    there = folder.parent.parent.parent / "there"
    there.mkdir(exist_ok=True)
    (there / folder.name).touch()
    late = time.monotonic() + 60
    while len(list(there.iterdir())) < 3 and time.monotonic() < late:
        time.sleep(0.05)
    (there / folder.name).write_text(os.environ["CUDA_VISIBLE_DEVICES"])
    return fakes.train(settings, folder, **reports)


def test_each_job_has_a_gpu_of_its_own_while_there_are_enough():
    assert gpus_for(TRAIN, TWO, [], 1) == ("4",)
    assert gpus_for(TRAIN, TWO, [(ASK, ("4",))], 1) == ("GPU-7",)
    assert gpus_for(ASK, TWO, [(TRAIN, ("GPU-7",))], 1) == ("4",)
    assert gpus_for(TRAIN, TWO, [], 2) == TWO
    assert gpus_for(LOOK, (), [(LOOK, ())], 1) == ()


def test_trainings_share_evenly_and_what_is_timed_is_alone():
    both = [(TRAIN, ("4",)), (TRAIN, ("GPU-7",))]
    assert gpus_for(TRAIN, TWO, both, 1) == ("4",)
    assert gpus_for(TRAIN, TWO, [*both, (TRAIN, ("4",))], 1) == ("GPU-7",)
    assert gpus_for(TRAIN, TWO, [(ASK, ("4",)), (TRAIN, ("GPU-7",))], 1) == ("GPU-7",)
    assert gpus_for(TRAIN, TWO, [(ASK, ("4",)), (LOOK, ("GPU-7",))], 1) is None
    assert gpus_for(TRAIN, TWO, [(TRAIN, ("4",))], 2) is None
    assert gpus_for(ASK, TWO, both, 1) is gpus_for(LOOK, TWO, both, 1) is None
    assert gpus_for(Job("gates", "train", SimpleNamespace(gates=1)), TWO, both, 1) is None  # type: ignore[arg-type]


def test_questions_are_asked_by_as_many_jobs_as_there_are_gpus():
    assert [Resources(workers, 16, TWO).askers for workers in (1, 2, 5)] == [1, 2, 2]
    assert Resources(5, 16, ()).askers == 5


def test_jobs_of_a_sweep_see_their_gpus_and_say_them(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    file = tmp_path / "three.yaml"
    file.write_text(GRID)
    sweep = make_sweep(load_grid(str(file), "tiny"), load_profile("tiny"), tmp_path / "runs", str(file), {})
    jobs = [job for job in make_jobs(sweep, read_state(sweep), sweep.cells, False, 1) if job.trains]
    run_local(sweep, jobs, STAGES, Resources(3, 2, TWO))
    assert sorted(path.read_text() for path in (tmp_path / "there").iterdir()) == ["4", "4", "GPU-7"]
    said = capsys.readouterr().err
    assert [said.count(f"start   train (1 cells) on GPU {gpu}") for gpu in ("4", "GPU-7")] == [2, 1]
    placements = [record["provenance"]["placement"] for record in records(tmp_path / "runs", "trainings").values()]
    assert [placement["trainings_a_gpu"] for placement in placements] == [1.5] * 3
    for file in (tmp_path / "runs" / "trainings").glob("*/record.json"):
        write_record(file, json.loads(file.read_text()) | {"summary": {"steps": 10, "seconds": 30.0}})
    (rate,) = measured_rates(tmp_path / "runs").measured.values()
    assert rate.seconds == 2.0  # of the GPU
