"""A training that goes wrong ends at once, says so, and keeps what was good."""

from __future__ import annotations

import json
import math
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.disks import fill, small_disk
from tests.training.conftest import metrics, quick
from videonsa.config import to_dict
from videonsa.disk import DiskError
from videonsa.training.batch import answer_loss
from videonsa.training.checkpoint import finished
from videonsa.training.gates import mean_of
from videonsa.training.loop import Diverged, Trainer
from videonsa.training.run import main, train
from videonsa.training.watch import Trouble


def quietly(done: int, total: int) -> None:
    """In place of a progress bar."""


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_all_files_have_the_users_umask(tmp_path, umask):
    train(quick(steps=3, save_every=1), tmp_path / "run", quietly)
    found = {str(path): stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "run").rglob("*")}
    assert any(name.endswith("model.safetensors") for name in found)
    assert {name: oct(mode) for name, mode in found.items() if mode != (0o750 if Path(name).is_dir() else 0o640)} == {}


def test_checkpoints_have_the_users_umask(tmp_path, umask):
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(quick(save_every=1), tmp_path, stop)
    files = [path for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".distcp", ".json"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o640}


@pytest.mark.parametrize("what", ["loss", "gradient", "spike"])
def test_it_ends_at_the_step_and_keeps_the_last_good_checkpoint(what, tmp_path, monkeypatch):
    """Also where the loss is a number and its gradient is none: the root's derivative at 0 is infinite, times 0.

    And where both jump, for three steps: then the last good one is from before the first of them.
    """
    count = iter(range(100))
    monkeypatch.setattr("videonsa.training.watch.LEAST", 3)

    def spoilt(model, batch):
        loss, step = answer_loss(model, batch), next(count) // 2  # two micro-batches a step
        if what == "spike":
            return loss * (1 if step < 3 else 2.5)
        if step != 3:
            return loss
        return loss * math.nan if what == "loss" else loss + (loss - loss.detach()).abs().sqrt()

    monkeypatch.setattr("videonsa.training.loop.answer_loss", spoilt)
    seen = {"loss": r"loss nan", "gradient": r"loss \d\.\d+, gradient norm nan", "spike": "loss .* after a median of"}
    end, last, told = (Trouble, 6, []) if what == "spike" else (Diverged, 4, [])
    with pytest.raises(end, match=f"^step {last}: {seen[what]}.*learning_rate"):
        train(quick(save_every=1, stop_at="spike"), tmp_path, quietly, told.append)
    assert [line["step"] for line in metrics(tmp_path)] == list(range(1, last + 1))
    if what == "spike":
        assert metrics(tmp_path)[-1]["trouble"].startswith("loss ")
        assert f"step 6: {metrics(tmp_path)[-1]['trouble']}" in (tmp_path / "log.txt").read_text()
        assert "tokens/s" in told[0]
        assert told[-1].endswith(metrics(tmp_path)[-1]["trouble"])
    assert finished(tmp_path / "checkpoints")[-1].name == "000003"
    assert not (tmp_path / "final").exists()


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    """The last update went too far: there is no loss after it that would tell."""
    settings = quick(steps=1, learning_rate=1e38, warmup_fraction=0)
    with pytest.raises(Diverged, match="the last step made weights that are no numbers"):
        train(settings, tmp_path, quietly)
    assert {path.name for path in tmp_path.iterdir()} == {"settings.json", "start.json", "metrics.jsonl", "log.txt"}


@pytest.mark.parametrize(
    ("text", "said", "code"),
    [
        (b"\xff\xfe", "settings.json: no JSON: 'utf-8' codec can't decode", 2),
        (b'{"steps": 1', "settings.json: no JSON: Expecting", 2),
        (b"[1]", "settings.json: [1] is not valid", 2),
        (b'{"steps": 1, "nsa": {"window": 4, "window": 8}}', "settings.json: window stands twice", 2),
        (b'{"steps": 1e400}', "settings.json: 1e400 is not valid", 2),
        (b'{"steps": 2.0, "learning_rate": NaN}', "settings.json: learning_rate=nan is not valid", 2),
        (json.dumps(to_dict(quick(steps=1, learning_rate=1e38, warmup_fraction=0))).encode(), "try a lower", 1),
    ],
)
def test_the_command_says_it_in_one_line(text, said, code, tmp_path, capsys):
    file = tmp_path / "settings.json"
    file.write_bytes(text)
    assert main([str(file), str(tmp_path / "run")]) == code
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert said in error


def test_gates_that_are_no_numbers_are_not_kept():
    with pytest.raises(FloatingPointError, match="mean gates"):
        mean_of(torch.tensor([[[1.0, math.nan, 0.5]]]), torch.ones(1))


@pytest.mark.parametrize(("what", "left"), [("checkpoints/000004", 2), ("final", 6)])
def test_a_full_disk_is_named_and_what_was_complete_goes_on(what, left, tmp_path, monkeypatch):
    steps, mean_gates = [], Trainer.mean_gates
    with small_disk(tmp_path / "disk", "size=32m") as disk, monkeypatch.context() as patch:

        def fill_up(done: int, total: int) -> None:
            if done == 4 and what != "final":
                fill(disk, leave=1 << 20)  # less than the weights

        def fill_up_last(trainer: Trainer) -> Any:
            fill(disk, leave=1 << 20)
            return mean_gates(trainer)

        patch.setattr(Trainer, "mean_gates", fill_up_last)
        with pytest.raises(
            DiskError, match=rf"^cannot write to \S+/{what}: No space.*; disk \S+/disk: .* free, .* needed$"
        ):
            train(quick(), disk / "run", fill_up)
        assert [path.name for path in (disk / "run").glob("*final*")] == []
        before = [path.name for path in (disk / "run" / "checkpoints").iterdir()]
        assert before == [f"{left:06d}"]  # no draft fills the disk
        (disk / ".filling").unlink()
        patch.undo()
        train(quick(), disk / "run", lambda done, total: steps.append(done))
        assert steps == list(range(left + 1, 7))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_killed_before_each_change_of_a_disk_it_loses_nothing_and_leaves_nothing(tmp_path):
    environment = {**os.environ, "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "tests.training.killed", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 40
    ends = {number: metrics(tmp_path / str(number)) for number in range(1, int(done.stdout.split()[-1]) + 1)}
    assert all(lines == ends[1] for lines in ends.values())


def test_what_a_kill_left_of_a_save_is_not_taken_and_does_not_stay(tmp_path):
    left = tmp_path / "checkpoints" / ".000004"
    left.mkdir(parents=True)
    (left / "__0_0.distcp").write_bytes(b"half")
    train(
        quick(steps=2, save_every=1), tmp_path, lambda done, total: left.is_dir() and pytest.fail("it fills the disk")
    )


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp"])
def test_a_checkpoint_that_was_damaged_later_gives_way_to_the_one_before(name, tmp_path, caplog):
    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(quick(keep_checkpoints=2), tmp_path, stop)
    file = tmp_path / "checkpoints" / "000004" / name
    file.write_bytes(file.read_bytes()[:-100])
    steps = []
    train(quick(), tmp_path, lambda done, total: steps.append(done))
    assert steps == [3, 4, 5, 6]
    assert f"checkpoint 000004 is not taken: {name} cut short" in caplog.text
