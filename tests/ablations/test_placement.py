"""Placement: over grids and under --set, in no identity; several processes of one training on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ablations import run
from ablations.grid import load_grid
from ablations.jobs import Job
from ablations.local import Resources, next_jobs
from ablations.placement import find_placement
from ablations.plan import Sweep, make_sweep
from ablations.profile import load_profile
from slurm.executor import start_local
from slurm.profile import load_slurm_profile, make_slurm_profile
from tests.ablations.conftest import records, start_command
from videonsa.config import SettingsError, TrainSettings, from_dict
from videonsa.placement import FIELDS, described

SITE = {"gpus_per_node": 2, "placement": {"sharding": "full", "micro_batch_size": 3}}


def planned(placement: dict[str, Any], changes: dict[str, Any]) -> Sweep:
    profile = replace(load_profile("tiny"), placement=placement)
    return make_sweep(load_grid("smoke", "tiny", changes), profile, Path("runs"), "smoke", changes)


def test_a_placement_goes_over_grids_and_under_the_command_line_and_into_no_identity():
    changes = {"train.micro_batch_size": 9, "train.steps": 4}
    site = make_slurm_profile("site", SITE)
    usual, moved = planned({}, {"train.steps": 4}), planned(find_placement(site, changes), changes)
    assert changes == {"train.steps": 4}
    assert moved.name == usual.name
    assert [cell.id for cell in moved.cells] == [cell.id for cell in usual.cells]
    (before,), (after,) = ([*sweep.trainings.values()] for sweep in (usual, moved))
    assert (before.settings.sharding, before.settings.micro_batch_size) == ("none", 18)
    assert (after.settings.sharding, after.settings.micro_batch_size) == ("full", 9)
    assert find_placement(None, {}) == {}


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        ({"learning_rate": 1}, "placement: 'learning_rate' changes results; known keys: micro_batch_size, .*sharding"),
        ({"shards": 1}, r"placement: unknown key 'shards'; known keys: .*did you mean sharding\?"),
        ({"sharding": "half"}, "placement: sharding='half' is not valid: choose one of none, full"),
        ({"micro_batch_size": 0}, "placement: micro_batch_size=0 is not valid"),
    ],
)
def test_a_wrong_placement_of_a_slurm_profile_is_one_line(placement: dict[str, Any], message: str):
    with pytest.raises(SettingsError, match=message) as caught:
        find_placement(make_slurm_profile("mine", {"placement": placement}), {})
    assert str(caught.value).startswith("Slurm profile mine: placement: ")
    assert "\n" not in str(caught.value)


def test_the_dry_run_says_how_trainings_lie_over_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def said(*more: str) -> tuple[int, str]:
        code = run.main(["--grid", "smoke", "--dry-run", "--out", str(tmp_path), *more])
        return code, "".join(capsys.readouterr())

    wide = ("--set", "train.micro_batch_size=3", "--set", "train.sequence_parallel=2")
    code, text = said("--processes", "4", *wide)
    assert code == 0
    assert "Placement: 4 processes (data 2 x sequence 2), sharding none, 3 micro batches of 3 a step\n" in text
    assert "train.sequence_parallel=2 is not valid: a divisor of the 3 processes" in said("--processes", "3", *wide)[1]
    code, text = said("--profile", "h100x8")
    assert (code, "batch_size=18 is not valid: a multiple of micro_batch_size x processes = 8" in text) == (2, True)
    code, text = said("--processes", "2", "--cluster", "debug")
    assert (code, "--processes 2 is not valid: for --cluster local" in text) == (2, True)


def test_the_shipped_profile_of_eight_gpus_trains_the_papers_recipe():
    placement = find_placement(load_slurm_profile("h100x8"), {})
    settings = from_dict(TrainSettings, {**load_profile("paper").train, **placement})
    said = "8 processes (data 8 x sequence 1), sharding full, 4 micro batches of 1 a step, activation checkpointing"
    assert described(settings, load_slurm_profile("h100x8").processes) == said


def test_a_training_takes_the_place_of_its_processes_and_is_not_overtaken():
    training = SimpleNamespace(gates=None)
    train, other = (Job(f"train-{name}", "train", training) for name in "ab")
    look = Job("probe", "probe", training)
    two = Resources(2, 2, (), processes=2)
    assert next_jobs(None, [train, other, look], [], two) == [train]
    assert next_jobs(None, [other], [look], two) == []
    assert next_jobs(None, [other, look], [look], replace(two, processes=1)) == [other]
    assert next_jobs(None, [train], [], Resources(1, 1, (), processes=2)) == [train]


class Sleeps:
    """What each of several processes does: one of them may be killed or fail."""

    def __init__(self, folder: Path, second: str) -> None:
        self.folder, self.second = folder, second

    def __call__(self) -> None:
        from slurm.executor import distributed_environment

        rank, processes = distributed_environment()
        seen = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
        (self.folder / f"rank{rank}.json").write_text(json.dumps(seen))
        while len(list(self.folder.glob("rank*.json"))) < processes:
            time.sleep(0.05)
        if rank == 1 and self.second == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.second != "ends":
            time.sleep(300)


@pytest.mark.parametrize("second", ["dies", pytest.param("ends", marks=pytest.mark.long)])
def test_processes_of_one_training_know_each_other_and_end_together(tmp_path: Path, second: str, monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "1")  # of whatever the command was started from
    worker = start_local(Sleeps(tmp_path, second), tmp_path / "job", "two", 1, processes=2)
    while not worker.ended():
        time.sleep(0.05)
    first, other = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert (first["RANK"], other["RANK"], first["WORLD_SIZE"], other["LOCAL_RANK"]) == ("0", "1", "2", "1")
    assert first["MASTER_PORT"] == other["MASTER_PORT"] != "1"
    assert worker.succeeded() == (second == "ends")


@pytest.mark.long
def test_a_training_goes_on_under_another_placement(tmp_path: Path, grid_file: Path, monkeypatch: pytest.MonkeyPatch):
    """Two processes that share the weights are killed, with the command, after a checkpoint; one process goes on."""
    monkeypatch.setenv("REAL_TRAINING", "1")
    out = tmp_path / "runs"
    words = ["--grid", str(grid_file), "--cluster", "local"]
    words += [word for one in ("train.steps=16", "train.save_every=4") for word in ("--set", one)]

    def begin(*more: str) -> subprocess.Popen[str]:
        with open(tmp_path / "said", "a") as said:
            return start_command(*words, "--out", str(out), *more, stdout=said, stderr=said)

    command = begin("--processes", "2", "--set", "train.sharding=full", "--set", "train.micro_batch_size=9")
    while not list(out.glob("trainings/*/checkpoints/*/progress.json")):
        assert command.poll() is None, (tmp_path / "said").read_text()
        time.sleep(0.1)
    command.send_signal(signal.SIGINT)
    assert command.wait() == 130
    assert begin().wait() == 0, (tmp_path / "said").read_text()
    (log,) = out.glob("trainings/*/log.txt")
    starts = [line.partition("INFO ")[2] for line in log.read_text().splitlines() if "steps " in line]
    assert starts[0].startswith("steps 1 to 16 on 2 x")
    assert starts[-1].endswith("to 16 on 1 x cpu")
    assert starts[-1] != "steps 1 to 16 on 1 x cpu"
    (record,) = records(out, "trainings").values()
    assert set(FIELDS) < set(record["provenance"]["placement"])
    assert record["provenance"]["placement"]["processes"] == 1
    assert record["summary"]["steps"] == 16
