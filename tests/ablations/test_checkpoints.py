"""What given weights were made with is said once, is asked where nothing else is named, and decides the reference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ablations.cell import Cell, make_cells
from ablations.grid import grid_names, load_grid
from ablations.plan import make_sweep, write_plan
from ablations.profile import Profile, load_profile
from ablations.reference import find_reference
from tests.awq import awq_folder
from tests.test_weights import as_qwen
from videonsa.config import NSASettings, SettingsError
from videonsa.fingerprint import fingerprint
from videonsa.git import ROOT
from videonsa.tiny import build_tiny

PAPER = load_profile("paper")


def plan(text: str, tmp_path: Path, profile: Profile = PAPER, **changes: object) -> tuple[list[Cell], str | None]:
    """A grid's cells and its reference."""
    (tmp_path / "mine.yaml").write_text("suites: [timescope]\n" + text)
    named = {key.replace("__", "."): value for key, value in changes.items()}
    grid = load_grid(str(tmp_path / "mine.yaml"), profile.name, named)
    cells = make_cells(grid, profile)
    return cells, find_reference(grid, profile, cells)


def folder(path: Path, **config: object) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "videonsa", **config}))
    (path / "model.safetensors").write_bytes(b"weights")
    return path


def test_the_profile_says_it_for_every_grid(tmp_path: Path):
    (one, other), reference = plan("axes: {nsa.window: [8, 256]}", tmp_path)
    assert (one.nsa, other.nsa) == (NSASettings(semantics="release", window=8), NSASettings(semantics="release"))
    assert other.settings["train"]["nsa"]["semantics"] == "release"
    assert other.settings["train"]["name"] == "Enxin/VideoNSA"
    assert reference == "w=256"


def test_the_grid_goes_before_the_profile_and_a_named_setting_before_both(tmp_path: Path):
    said = "checkpoints: {Enxin/VideoNSA: {window: 8}}\naxes: {nsa.window: [8, 256]}\n"
    (cell, _), reference = plan(said, tmp_path)
    assert (cell.training.nsa.window, cell.training.nsa.semantics, reference) == (8, "release", "w=8")
    (cell, _), reference = plan(said + "base: {train.nsa.window: 256}", tmp_path)
    assert (cell.training.nsa.window, reference) == (256, "w=256")


def test_a_folder_says_it_and_not_the_profiles_recipe(tmp_path: Path):
    given = folder(tmp_path / "ours", block_size=16, block_count=3, window=5)
    (cell,), reference = plan(
        "asks: test", tmp_path, load_profile("tiny"), suites=["synth_order"], checkpoint=str(given)
    )
    assert cell.nsa == NSASettings(block_size=16, block_count=3, window=5)
    assert (cell.training.given.name, reference) == (None, "base")


def test_a_folder_can_be_given_the_name_of_published_weights(tmp_path: Path):
    given = folder(tmp_path / "copy", block_count=3)
    (cell,), _ = plan(f"checkpoints: {{{given}: {{name: Enxin/VideoNSA}}}}", tmp_path, checkpoint=str(given))
    assert cell.settings["train"] == {
        "checkpoint": str(given),
        "name": "Enxin/VideoNSA",
        "model": "Qwen/Qwen2.5-VL-7B-Instruct",
        "nsa": {**cell.settings["train"]["nsa"], "semantics": "release", "block_count": 3},
    }


def test_of_a_hub_name_that_nobody_describes_nothing_is_claimed(tmp_path: Path):
    (cell,), reference = plan("asks: test", tmp_path, checkpoint="some/model")
    assert (cell.training.made, cell.settings["train"]["nsa"], reference) == (None, None, None)
    assert cell.nsa == NSASettings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "checkpoints: {a/b: {semantic: release}}",
            "checkpoints: a/b: unknown key 'semantic'; known keys: name, model",
        ),
        ("checkpoints: {a/b: {window: 0}}", "checkpoints: a/b: window=0 is not valid"),
        ("checkpoints: [a/b]", "checkpoints: expected a mapping"),
        ("checkpoints: {a/b: release}", "checkpoints: a/b: expected a mapping"),
        ("reference: w=9\naxes: {nsa.window: [8, 16]}", "no variant is called 'w=9'; variants: w=8, w=16"),
        ("base: {checkpoint: Qwen/Qwen2.5-VL-7B-Instruct, nsa.attention: nsa}", "made for dense attention and have no"),
        ("asks: train\nbase: {train.model: TMP}", "no readable config.json"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, text: str, message: str):
    with pytest.raises(SettingsError, match=message) as caught:
        plan(text.replace("TMP", str(tmp_path)), tmp_path)
    assert "\n" not in str(caught.value)


def test_dense_weights_are_asked_densely_or_with_gates_that_they_need_not_have(tmp_path: Path):
    even = "{label: even, nsa.attention: nsa, nsa.gate_mode: fixed, nsa.gate_values: [1, 1, 1]}"
    text = f"axes: {{gates: [{{label: as made}}, {even}]}}"
    (dense, fixed), reference = plan(text, tmp_path, checkpoint="Qwen/Qwen2.5-VL-7B-Instruct")
    assert (dense.nsa.attention, fixed.nsa.attention, reference) == ("dense", "nsa", "as made")


def test_packed_weights_of_the_hub_are_planned_without_them_and_are_dense(tmp_path: Path):
    name = "Qwen/Qwen2.5-VL-7B-Instruct-AWQ"
    (cell,), reference = plan(f"axes: {{weights: [{{label: awq, checkpoint: {name}}}]}}", tmp_path)
    assert (cell.nsa.attention, cell.training.made.attention, reference) == ("dense", "dense", "awq")
    assert cell.settings["train"]["name"] == name
    assert cell.inputs["weights"] == {"hub": name, "revision": None}


def test_packed_weights_of_a_folder_are_known_by_content_and_not_trained(tmp_path: Path):
    model, processor = build_tiny(NSASettings(attention="dense"), seed=0)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "ours")
    given, meant = awq_folder(as_qwen(tmp_path / "ours", tmp_path / "stock", lacking=".g_proj_"), tmp_path)
    (cell,), _ = plan("asks: test", tmp_path, checkpoint=str(given))
    (other,), _ = plan("asks: test", tmp_path, checkpoint=str(meant))
    assert cell.nsa.attention == "dense"
    assert cell.inputs["weights"] == {"folder": fingerprint(given)} != other.inputs["weights"]
    with pytest.raises(SettingsError, match="is asked, not trained and not saved"):
        plan(f"asks: train\nbase: {{train.model: {given}}}", tmp_path)


def test_set_goes_over_what_some_rows_have_alike_but_a_row_keeps_its_model(tmp_path: Path):
    text = "axes: {v: [{label: a, checkpoint: me/a, nsa.semantics: release}, {label: b}]}"
    (a, b), _ = plan(text, tmp_path, nsa__semantics="paper", checkpoint="me/b")
    assert [(cell.training.checkpoint, cell.nsa.semantics) for cell in (a, b)] == [("me/a", "paper"), ("me/b", "paper")]
    with pytest.raises(SettingsError, match="grid mine varies it"):
        plan("axes: {v: [{label: a, nsa.window: 1}, {label: b, nsa.window: 2}, {label: c}]}", tmp_path, nsa__window=3)


def test_of_trained_variants_the_reference_is_trained_as_the_profile(tmp_path: Path):
    tiny = load_profile("tiny")
    text = "asks: train\naxes: {nsa.window: [4, 8]}"
    assert plan(text, tmp_path, tiny, suites=["synth_order"])[1] == "w=8"
    assert plan(text, tmp_path, tiny, suites=["synth_order"], train__nsa__block_count=7)[1] == "w=8"


def test_two_models_under_several_seeds(tmp_path: Path):
    text = "axes: {v: [{label: a}, {label: b, nsa.window: 4}, {label: other, train.nsa.window: 4}]}\nseeds: [0, 1]"
    assert plan(text, tmp_path, load_profile("tiny"), suites=["synth_order"])[1] == "a"


@pytest.mark.parametrize("profile", ["tiny", "paper"])
def test_every_grid_has_a_reference_and_its_plan_carries_it(profile: str, tmp_path: Path):
    loaded = load_profile(profile)
    for name in grid_names(profile):
        sweep = make_sweep(load_grid(name, profile), loaded, tmp_path, name, {})
        write_plan(sweep)
        assert json.loads((sweep.folder / "plan.json").read_text())["reference"] in {c.label for c in sweep.cells}, name


def test_the_papers_grids_say_nothing_of_weights_that_the_profile_says():
    for path in (ROOT / "ablations" / "grids" / "paper").glob("*.yaml"):
        assert "train.nsa.semantics" not in path.read_text()
