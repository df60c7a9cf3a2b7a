"""What a training that fails leaves: one failure record that names the cause, cells that say so, nothing that waits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ablations.cell import Training
from ablations.facts import facts_now
from ablations.job_train import run_training, train_along
from ablations.jobs import Job
from ablations.progress import Progress
from ablations.results import skipped_lines
from ablations.stages import Stages
from ablations.work import Work
from tests.ablations.conftest import records
from tests.training.conftest import quick
from videonsa.record import read_record
from videonsa.training.skipped import FILE, Skipped, Skips


def fail_first(settings: Any, folder: Path, on_progress: Any = None, on_words: Any = None) -> Path:
    """Of two processes the second fails; the first one sees only that."""
    if on_progress is None:
        raise ValueError("no such sample")
    Skips(folder / FILE, 1.0, 9).add(1, [Skipped(3, "c, c.mp4", "it ends after 2.5 of 9 s")], main=True)
    with pytest.raises(ValueError, match="no such sample"):
        train_along(work_of(folder.parent.parent))
    raise RuntimeError("Connection closed by peer")


def work_of(out: Path) -> Work:
    training = Training(quick(), None, facts_now("cpu"))
    return Work(Job("train", "train", training), out, out, "two", Stages(train=f"{__name__}:fail_first"))


def test_the_process_that_failed_first_has_the_word(tmp_path, monkeypatch):
    monkeypatch.setattr("ablations.job_train.distributed_environment", lambda: (0, 2))
    work = work_of(tmp_path)
    assert run_training(work, Progress(tmp_path)) == [f"training {work.job.training.id}: no such sample"]
    record = read_record(tmp_path / "trainings" / work.job.training.id / "record.json") or {}
    assert (record["status"], record["error"]["type"]) == ("failed", "ValueError")
    assert record["skipped"] == {"samples": 1, "why": {"it ends after N of N s": 1}}
    sweep: Any = SimpleNamespace(out=tmp_path, trainings=[work.job.training.id])
    (line,) = skipped_lines(sweep)
    assert "1 sample could not be shown (1 it ends after N of N s): " in line


def note_only(settings: Any, folder: Path) -> None:
    folder.with_name("begun").touch()


def test_a_requeued_training_begins_beside_a_claim_of_this_launch_alone(tmp_path, monkeypatch):
    """The job's folder holds what its first process said before it was requeued."""
    begun = tmp_path / "trainings" / "begun"
    begun.parent.mkdir()
    Progress(tmp_path).begin("train", "training")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    work = replace(work_of(tmp_path), stages=Stages(train=f"{__name__}:note_only"))
    said, seen = [lambda: None, lambda: Progress(tmp_path).begin("wait"), lambda: Progress(tmp_path).begin("train")], []

    def wait(seconds: float) -> None:
        seen.append(begun.exists())
        said.pop(0)()

    monkeypatch.setattr("ablations.job_train.time.sleep", wait)
    train_along(work)
    assert (seen, begun.exists(), said) == ([False] * 3, True, [])


def test_alone_a_training_that_fails_again_says_how_it_failed_this_time(tmp_path, monkeypatch):
    work = work_of(tmp_path)
    run_training(work, Progress(tmp_path))
    record = read_record(tmp_path / "trainings" / work.job.training.id / "record.json") or {}
    assert record["error"]["message"] == "Connection closed by peer"


def test_a_sweep_whose_training_diverges_ends_and_its_table_says_so(tmp_path, monkeypatch, capsys):
    """The real training; with tiny's own evaluation nothing is asked of weights that are no numbers."""
    from ablations import run

    monkeypatch.setenv("WANDB_MODE", "disabled")
    grid = "question: Does it diverge?\nasks: test\naxes: {nsa.block_count: [2]}\nsuites: [synth_needle]\n"
    (tmp_path / "one.yaml").write_text(grid)
    words = ["--grid", str(tmp_path / "one.yaml"), "--out", str(tmp_path / "runs"), "--cluster", "debug"]
    settings = ["train.steps=2", "train.frames=[4]", "train.learning_rate=1e38", "train.warmup_fraction=0"]
    settings += ["train.batch_size=2", "train.micro_batch_size=2", "suite.limit=1"]
    assert run.main([*words, *(word for setting in settings for word in ("--set", setting))]) == 1
    assert "Diverged" not in capsys.readouterr().err  # one line, no traceback
    (training,) = (tmp_path / "runs" / "trainings").iterdir()
    assert json.loads((training / "record.json").read_text())["error"]["type"] == "Diverged"
    assert not (training / "final").exists()
    (cell,) = records(tmp_path / "runs").values()
    assert cell["error"]["type"] == "TrainingFailed"
    assert "loss nan" in cell["error"]["message"] or "no numbers" in cell["error"]["message"]
    table = next((tmp_path / "runs" / "sweeps").glob("*/table.txt")).read_text()
    assert "failed" in table
