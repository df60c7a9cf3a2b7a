"""Identities: everything that changes a number changes them, nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablations import facts
from ablations.cell import Cell, make_cells
from ablations.grid import load_grid
from ablations.jobs import Job, make_jobs, shared
from ablations.plan import make_sweep
from ablations.profile import load_profile
from ablations.state import read_state
from videonsa.config import SettingsError
from videonsa.identity import part_version


def cells(text: str, tmp_path: Path, **changes: object) -> list[Cell]:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return make_cells(
        load_grid(str(path), "tiny", {key.replace("__", "."): v for key, v in changes.items()}), load_profile("tiny")
    )


def test_cells_that_differ_at_test_time_share_a_training_also_across_grids(tmp_path: Path):
    one = cells("axes: {nsa.block_count: [1, 2]}", tmp_path)
    other = cells("axes: {nsa.branches: [cmp, slc+swa]}\nsuites: [synth_order]", tmp_path)
    assert len({cell.training.id for cell in one + other}) == 1
    assert len({cell.id for cell in one + other}) == len(one + other)


def test_the_same_cell_of_two_grids_is_one(tmp_path: Path):
    one = cells("axes: {nsa.window: [8, 4]}", tmp_path)
    other = cells("axes: {a: [{nsa.window: 4, label: small}]}", tmp_path)
    assert {cell.id for cell in other} <= {cell.id for cell in one}


def test_a_small_model_is_made_whatever_the_current_folder_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert {cell.training.settings.model for cell in cells("axes: {nsa.window: [8, 4]}", tmp_path)} == {"tiny"}


def test_asks_train_trains_every_variant(tmp_path: Path):
    made = cells("asks: train\naxes: {nsa.block_count: [1, 2]}", tmp_path)
    assert len({cell.training.id for cell in made}) == 2
    assert [cell.training.nsa.block_count for cell in made] == [1, 1, 1, 2, 2, 2]
    assert all(cell.nsa == cell.training.nsa for cell in made)


@pytest.mark.parametrize(
    "change",
    [
        {"nsa__window": 99},
        {"nsa__gate_temperature": 0.5},
        {"suite__frames": 8},
        {"suite__max_new_tokens": 5},
        {"suite__limit": 7},
        {"train__steps": 7},
        {"train__learning_rate": 0.5},
        {"train__nsa__window": 99},
        {"seeds": [1]},
    ],
)
def test_what_changes_a_number_changes_the_identity(change: dict, tmp_path: Path):
    usual, changed = (cells("suites: [synth_order]", tmp_path, **more)[0] for more in ({}, change))
    assert usual.id != changed.id
    trains = any(key.startswith(("train", "seeds")) for key in change)
    assert (usual.training.id != changed.training.id) == trains


def test_how_often_a_training_is_saved_changes_no_identity(tmp_path: Path):
    usual, changed = (cells("asks: test", tmp_path, **more)[0] for more in ({}, {"train__save_every": 7}))
    assert usual.training.id == changed.training.id


def test_code_changes_the_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    usual = cells("asks: test", tmp_path)[0]
    before = usual.id, usual.training.id

    def change(changed: str) -> None:
        monkeypatch.setattr(facts, "part_version", lambda part: "another" if part == changed else part_version(part))

    change("evals")
    evaluated = cells("asks: test", tmp_path)[0]
    assert (evaluated.id != before[0], evaluated.training.id == before[1]) == (True, True)
    for unused in ("probe", "release"):  # observers, and the code of methods that the cell does not use
        change(unused)
        assert cells("asks: test", tmp_path)[0].id == before[0]
    change("training")
    assert cells("asks: test", tmp_path)[0].training.id != before[1]


def checkpoint(folder: Path, weights: bytes = b"weights") -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "videonsa"}')
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_a_checkpoint_is_its_content_not_its_place(tmp_path: Path):
    one, same, other = (
        cells("asks: test", tmp_path, checkpoint=str(checkpoint(tmp_path / name, weights)))[0]
        for name, weights in (("a", b"w"), ("b", b"w"), ("c", b"x"))
    )
    assert one.training.id == same.training.id != other.training.id
    assert one.training.settings is None
    assert one.settings["train"]["checkpoint"] == str(tmp_path / "a")


def test_a_checkpoint_counts_once_whatever_the_seeds(tmp_path: Path):
    made = cells("seeds: [0, 1, 2]\nsuites: [synth_order]", tmp_path, checkpoint=str(checkpoint(tmp_path / "a")))
    assert [cell.seed for cell in made] == [0]


def test_a_folder_without_weights_or_of_another_model_is_refused(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for content, message in (
        (None, r"no readable config\.json"),
        ("[]", r"no readable config\.json"),
        ('{"model_type": "llama"}', "its model_type is 'llama', not videonsa or qwen2_5_vl"),
        ('{"model_type": "videonsa"}', r"no weights \(model\.safetensors, or"),
    ):
        if content is not None:
            (tmp_path / "empty" / "config.json").write_text(content)
        with pytest.raises(SettingsError, match=message):
            cells("asks: test", tmp_path, checkpoint=str(tmp_path / "empty"))[0].id  # noqa: B018


def test_a_dense_twin_needs_a_training_of_its_own(tmp_path: Path):
    text = """
suites: [synth_order]
axes: {v: [{label: sft, train.nsa.attention: dense, nsa.attention: dense}, {label: test, nsa.attention: dense}]}
"""
    sft, test = cells(text, tmp_path)
    assert sft.training.nsa.attention == "dense"
    assert test.training.nsa.attention == "nsa"
    assert sft.nsa == test.nsa


def evaluations(made: list[Cell], most: int) -> list[Job]:
    return shared(Job("evaluate-x", "evaluate", made[0].training, tuple(made)), most)


def test_a_long_cell_is_several_jobs_and_a_short_one_is_one(tmp_path: Path):
    (long,) = cells("asks: test\nsuites: [timescope]\naxes: {nsa.block_count: [1]}", tmp_path)
    (short,) = cells("asks: test\nsuites: {synth_needle: {limit: 4}}\naxes: {nsa.block_count: [1]}", tmp_path)
    assert [job.name for job in evaluations([long], 8)] == [f"evaluate-x-{place}" for place in range(8)]
    assert all(job.cells == (long,) for job in evaluations([long], 8))
    assert len(evaluations([short], 8)) == 1
    assert len(evaluations([short] * 20, 8)) == 2, "what counts is the answers of all its cells"
    parts = evaluations(cells("asks: test\naxes: {nsa.block_count: [1, 2, 3]}", tmp_path), 34)
    assert len(parts) == 27
    assert {tuple(cell.suite.name for cell in job.cells) for job in parts} == {
        ("synth_needle", "synth_needle", "synth_needle", "synth_order"),
        ("synth_order", "synth_order", "synth_layout", "synth_layout", "synth_layout"),
    }
    assert shared(Job("evaluate-x", "evaluate", long.training), 8) == []


def test_cells_of_the_same_weights_and_questions_share_a_folder_of_answers(tmp_path: Path):
    text = "asks: test\naxes: {nsa.block_count: [1, 2]}\nsuites: [synth_needle, synth_order]"
    made = cells(text, tmp_path)
    assert len({cell.id for cell in made}) == 4
    assert [cell.run for cell in made[:2]] == [cell.run for cell in made[2:]]
    assert made[0].run != made[1].run
    fewer = cells(text + "\nbase: {suite.limit: 9}", tmp_path)
    assert [cell.run for cell in fewer] == [cell.run for cell in made], "the first questions are the same questions"
    shorter = cells(text + "\nbase: {suite.frames: 8}", tmp_path)
    assert {cell.run for cell in shorter}.isdisjoint(cell.run for cell in made)


def test_a_thousand_cells_are_planned_quickly(tmp_path: Path):
    import time

    counts, windows = list(range(1, 21)), list(range(1, 18))
    path = tmp_path / "large.yaml"
    path.write_text(f"axes: {{nsa.block_count: {counts}, nsa.window: {windows}}}")
    started = time.process_time()  # CPU time: tests run beside other work
    sweep = make_sweep(load_grid(str(path), "tiny"), load_profile("tiny"), tmp_path / "runs", str(path), {})
    jobs = make_jobs(sweep, read_state(sweep), sweep.cells, retry=False, per_training=8)
    assert len(sweep.cells) == 1020
    assert len(jobs) == 10
    assert time.process_time() - started < 2
