"""A training that begins with the weights of another variant: it waits for that, counts it in, and fails with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ablations.cell import Training, make_cells
from ablations.grid import load_grid
from ablations.jobs import Job, make_jobs
from ablations.local import Resources, next_jobs, run_debug
from ablations.plan import make_sweep
from ablations.profile import load_profile
from ablations.slurm_submit import batches
from ablations.stages import Stages
from ablations.state import read_state
from tests.ablations import fakes
from tests.ablations.conftest import records, set_faults
from videonsa.config import SettingsError

GRID = """
asks: train
axes:
  variant:
    - {label: longer, start: gated, train.steps: 5}
    - {label: gated, start: dense, train.steps: 4}
    - {label: dense, nsa.attention: dense}
suites: [synth_needle]
"""
ROOM = Resources(workers=9, cores=2, gpus=())
STAGES = Stages(f"{__name__}:train", *(f"tests.ablations.fakes:{name}" for name in ("load", "Suite", "probe")))


def train(settings: Any, folder: Path, **reports: Any) -> Path:
    final = fakes.train(settings, folder, **reports)
    (final / "began.txt").write_text(settings.model)
    return final


def grid_file(tmp_path: Path, text: str = GRID) -> str:
    (tmp_path / "begun.yaml").write_text(text)
    return str(tmp_path / "begun.yaml")


def trainings(tmp_path: Path) -> dict[str, Training]:
    cells = make_cells(load_grid(grid_file(tmp_path), "tiny"), load_profile("tiny"))
    return {cell.label: cell.training for cell in cells}


def test_each_training_begins_where_the_other_ended(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    sweep = make_sweep(load_grid(grid_file(tmp_path), "tiny"), load_profile("tiny"), tmp_path / "runs", "begun", {})
    jobs = make_jobs(sweep, read_state(sweep), sweep.cells[:1], False, 2)
    ids = {cell.label: cell.training.id for cell in sweep.cells}
    order = [f"train-{ids[label]}" for label in ("dense", "gated", "longer")]
    assert [job.name for job in jobs[:3]] == order
    assert [job.after for job in jobs[:3]] == [None, *order[:2]]
    assert all(job.cells == sweep.cells[:1] for job in jobs[:3])
    assert next_jobs(sweep, list(jobs), [], ROOM) == jobs[:1]
    run_debug(sweep, jobs, STAGES)
    began = {label: (sweep.out / f"trainings/{ids[label]}/final/began.txt").read_text() for label in ids}
    assert began["dense"] == "tiny"
    assert began["gated"] == str((sweep.out / f"trainings/{ids['dense']}/final").resolve())
    assert began["longer"] == str((sweep.out / f"trainings/{ids['gated']}/final").resolve())
    record = records(sweep.out, "trainings")[ids["longer"]]
    assert record["settings"]["start"]["start"]["nsa"]["attention"] == "dense"
    assert next(iter(records(sweep.out).values()))["status"] == "done"
    later = [job for job in make_jobs(sweep, read_state(sweep), sweep.cells, False, 2) if job.kind == "train"]
    assert not later


def test_where_the_first_one_fails_nothing_waits_and_nothing_is_trained_in_its_place(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    sweep = make_sweep(load_grid(grid_file(tmp_path), "tiny"), load_profile("tiny"), tmp_path / "runs", "begun", {})
    set_faults(sweep.out, train="raise")
    jobs = make_jobs(sweep, read_state(sweep), sweep.cells, False, 2)
    run_debug(sweep, jobs, STAGES)
    assert {record["error"]["type"] for record in records(sweep.out).values()} == {"TrainingFailed"}
    assert len(records(sweep.out)) == 3
    assert len(records(sweep.out, "trainings")) == 1
    waiting = list(jobs[1:])
    assert next_jobs(sweep, waiting, [], ROOM) == []
    assert make_jobs(sweep, read_state(sweep), sweep.cells, False, 2) == []
    assert len(make_jobs(sweep, read_state(sweep), sweep.cells, True, 2)) == len(jobs)


def test_what_it_began_with_counts(tmp_path):
    made = trainings(tmp_path)
    other = load_grid(grid_file(tmp_path, GRID.replace("attention: dense", "attention: dense, train.steps: 9")), "tiny")
    changed = {cell.label: cell.training for cell in make_cells(other, load_profile("tiny"))}
    assert all(made[label].id != changed[label].id for label in made)
    assert made["gated"].inputs["model"] == made["dense"].inputs


def test_on_slurm_it_waits_for_the_job_of_the_other(tmp_path):
    made = trainings(tmp_path)
    jobs = [Job(f"train-{label}", "train", made[label]) for label in ("dense", "gated")]
    jobs[1] = Job("train-gated", "train", made["gated"], after="train-dense")
    assert batches(jobs, 100) == [([jobs[0]], False), ([jobs[1]], True)]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("start: dens", "start: no variant is called 'dens'; variants: longer, gated, dense; did you mean dense?"),
        ("start: longer", "start: longer from gated from longer: a training begins with another"),
        ("start: dense, checkpoint: me/model", "start='dense' is not valid: nothing is trained of checkpoint me/model"),
        ("start: dense, train.model: me/model", "train.model='me/model' is not valid: dense began with tiny"),
    ],
)
def test_a_start_that_cannot_be_is_refused(tmp_path, row, said):
    with pytest.raises(SettingsError, match=said.replace("?", r"\?")):
        make_cells(load_grid(grid_file(tmp_path, GRID.replace("start: dense", row)), "tiny"), load_profile("tiny"))
