"""A training that goes wrong ends at once, says so, and keeps what was good."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.disks import fill, small_disk
from tests.training.conftest import metrics, quick
from videonsa.config import to_dict
from videonsa.disk import DiskError
from videonsa.training.batch import answer_loss
from videonsa.training.checkpoint import finished
from videonsa.training.gates import mean_of
from videonsa.training.loop import Diverged
from videonsa.training.run import main, train


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


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_it_ends_at_the_step_and_keeps_the_last_good_checkpoint(what, tmp_path, monkeypatch):
    """Also where the loss is a number and its gradient is none: the root's derivative at 0 is infinite, times 0."""
    count = iter(range(100))

    def spoilt(model, batch):
        loss = answer_loss(model, batch)
        if next(count) // 2 != 3:  # two micro-batches a step
            return loss
        return loss * math.nan if what == "loss" else loss + (loss - loss.detach()).abs().sqrt()

    monkeypatch.setattr("videonsa.training.loop.answer_loss", spoilt)
    seen = [r"loss nan", r"loss \d\.\d+, gradient norm nan"][what == "gradient"]
    with pytest.raises(Diverged, match=f"^step 4: {seen}.*learning_rate"):
        train(quick(save_every=1), tmp_path, quietly)
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3, 4]
    assert finished(tmp_path / "checkpoints")[-1].name == "000003"
    assert not (tmp_path / "final").exists()


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    """The last update went too far: there is no loss after it that would tell."""
    settings = quick(steps=1, learning_rate=1e38, warmup_fraction=0)
    with pytest.raises(Diverged, match="the last step made weights that are no numbers"):
        train(settings, tmp_path, quietly)
    assert {path.name for path in tmp_path.iterdir()} == {"settings.json", "metrics.jsonl", "log.txt"}


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


@pytest.mark.parametrize(("full", "what"), [(4, "checkpoints/000004"), (6, "final")])
def test_a_full_disk_is_named_and_what_was_complete_goes_on(full, what, tmp_path):
    steps = []
    with small_disk(tmp_path / "disk", "size=32m") as disk:

        def fill_up(done: int, total: int) -> None:
            if done == full:
                fill(disk, leave=1 << 20)  # less than the weights

        with pytest.raises(
            DiskError, match=rf"^cannot write to \S+/{what}: No space.*; disk \S+/disk: .* free, .* needed$"
        ):
            train(quick(), disk / "run", fill_up)
        before = [path.name for path in (disk / "run" / "checkpoints").iterdir()]
        assert before == (["000002"] if full == 4 else ["000004"])  # no draft fills the disk
        (disk / ".filling").unlink()
        train(quick(), disk / "run", lambda done, total: steps.append(done))
        assert steps == list(range(full - 1, 7))


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
