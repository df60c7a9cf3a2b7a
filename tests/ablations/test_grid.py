"""Grid files: what they mean, and that a mistake in one is named in one line with what is valid."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from ablations.cell import make_cells
from ablations.grid import FOLDER, grid_names, load_grid, parse_changes
from ablations.plan import sweep_name
from ablations.profile import Profile, load_profile, profile_names
from ablations.settings import OF_GRIDS, SETTINGS
from videonsa.config import DIFFERENCES, SettingsError, canonical_semantics, differences

EVERY = [(profile, grid) for profile in ("tiny", "paper") for grid in grid_names(profile)]


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


@cache
def tiny() -> Profile:
    return load_profile("tiny")


def labels(tmp_path: Path, text: str) -> list[str]:
    return [variant.label for variant in load_grid(write(tmp_path, text), "tiny").variants]


@pytest.mark.parametrize(("profile", "name"), EVERY)
def test_every_shipped_grid_makes_cells_and_says_its_question(profile: str, name: str):
    grid = load_grid(name, profile)
    assert grid.question.endswith((".", "?", ")"))
    cells = make_cells(grid, load_profile(profile))
    assert len({cell.id for cell in cells}) == len(cells)


def test_shipped_profiles_and_grids_are_all_there():
    assert profile_names() == ["paper", "study", "tiny"]
    assert {"smoke", "budget", "branches", "tokens"} <= set(grid_names("tiny"))
    assert {"budget", "branches", "tokens", "blocks", "context", "gates", "transfer"} <= set(grid_names("paper"))
    assert len(load_grid("budget", "tiny").variants) == 9
    assert FOLDER.is_dir()


def test_product_of_axes(tmp_path: Path):
    text = "axes: {nsa.block_count: [1, 2], nsa.window: [4, 8]}"
    assert labels(tmp_path, text) == ["b=1 w=4", "b=1 w=8", "b=2 w=4", "b=2 w=8"]


def test_zip_of_axes(tmp_path: Path):
    assert labels(tmp_path, "combine: zip\naxes: {nsa.block_count: [1, 2], nsa.window: [4, 8]}") == [
        "b=1 w=4",
        "b=2 w=8",
    ]


def test_rows_move_several_settings_together(tmp_path: Path):
    text = """
axes:
  split: [{nsa.block_count: 1, nsa.window: 8, label: local}, {nsa: {block_count: 4, window: 2}}]
  nsa.attention: [nsa, dense]
"""
    assert labels(tmp_path, text) == ["local nsa", "local dense", "b=4 w=2 nsa", "b=4 w=2 dense"]


def test_within_tells_what_is_compared_with_what(tmp_path: Path):
    axes = "axes: {nsa.window: [4, 8], context: [{suite.frames: 8, label: short}, {suite.frames: 32, label: long}]}"
    grid = load_grid(write(tmp_path, f"{axes}\nreference: w=4 short\nwithin: context"), "tiny")
    assert [(variant.label, variant.group, variant.name) for variant in grid.variants] == [
        ("w=4 short", "short", "w=4"),
        ("w=4 long", "long", "w=4"),
        ("w=8 short", "short", "w=8"),
        ("w=8 long", "long", "w=8"),
    ]
    out = "exclude: [{nsa.window: 4, suite.frames: 32}]"
    for text, message in (
        (f"{axes}\nreference: w=4 short\nwithin: frames", "within: 'frames' is no axis; axes: nsa.window, context"),
        (f"{axes}\nwithin: context", "within: context needs a reference"),
        (
            "axes:\n  x: [{nsa.window: 4, label: a b}, {nsa.window: 8, label: a}]\n"
            "  at: [{suite.frames: 8, label: s}]\n"
            "  y: [{nsa.block_count: 1, label: c}, {nsa.block_count: 2, label: b c}]\nreference: a s b c\nwithin: at",
            "two variants are called 'a b c' there",
        ),
        (f"{axes}\n{out}\nreference: w=4 short\nwithin: context", "no variant is like 'w=4 short' at long"),
    ):
        with pytest.raises(SettingsError, match=message):
            load_grid(write(tmp_path, text), "tiny")


def test_exclude_takes_values_or_lists(tmp_path: Path):
    text = "axes: {nsa.block_count: [1, 2], nsa.window: [4, 8]}\nexclude: [{nsa.block_count: 2, nsa.window: [8, 16]}]"
    assert labels(tmp_path, text) == ["b=1 w=4", "b=1 w=8", "b=2 w=4"]


def test_labels_rename_settings(tmp_path: Path):
    assert labels(tmp_path, "axes: {nsa.window: [4]}\nlabels: {nsa.window: local}") == ["local=4"]


def test_labels_are_as_they_were_written(tmp_path: Path):
    written = [
        "on",
        "off",
        "no",
        "010",
        "1.10",
        "1e3",
        "true",
        "2024-01-01",
        "12:30",
        "$x_1|<b>",
        "a\u2028b",
        "e" * 300,
    ]
    rows = "\n".join(f"  - {{nsa.window: {n}, label: {label}}}" for n, label in enumerate(written, 1))
    assert labels(tmp_path, f"axes:\n x:\n{rows}\nreference: 010") == written
    assert labels(tmp_path, "axes: {train.activation_checkpointing: [true, false]}") == [
        *("activation_checkpointing=true", "activation_checkpointing=false")
    ]


def test_text_that_looks_like_a_number_is_kept_where_text_is_meant(tmp_path: Path):
    grid = load_grid(
        write(tmp_path, "base: {train.model: 007}\naxes: {suite.task: [010, 1e3]}\nquestion: 1.50"), "tiny"
    )
    assert [variant.settings["suite.task"] for variant in grid.variants] == ["010", "1e3"]
    assert (grid.variants[0].settings["train.model"], grid.question) == ("007", "1.50")
    assert parse_changes(["train.model=007", "checkpoint=null"]) == {"train.model": "007", "checkpoint": None}


def test_one_number_is_one_cell_and_one_sweep_however_it_is_written(tmp_path: Path):
    profile, path = load_profile("tiny"), write(tmp_path, "suites: [synth_order]")
    for key, *spellings in (
        ("nsa.gate_temperature", "1", "1.0", "+1", "01", "1e0"),
        ("suite.fps", "2", "2.0"),
        ("train.steps", "20", "20.0", "2e1", "020"),
        ("train.weight_decay", "0", "-0.0", "0e5"),
    ):
        found = set()
        for written in spellings:
            changes = parse_changes([f"{key}={written}"])
            cells = make_cells(load_grid(path, "tiny", changes), profile)
            found.add((cells[0].id, sweep_name("mine", path, profile, changes)))
        assert len(found) == 1, key


def test_two_labels_of_equal_settings_share_the_work_and_keep_their_rows(tmp_path: Path):
    text = "axes: {v: [{nsa.window: 8, label: usual}, {nsa.window: 8.0, nsa.block_count: 04, label: spelt-out}]}"
    cells = make_cells(load_grid(write(tmp_path, text + "\nsuites: [synth_order]"), "tiny"), load_profile("tiny"))
    assert [cell.label for cell in cells] == ["usual", "spelt-out"]
    assert len({cell.id for cell in cells}) == 1


def test_numbers_with_an_exponent_are_numbers(tmp_path: Path):
    grid = load_grid(write(tmp_path, "base: {train.learning_rate: 3e-4}\naxes: {nsa.window: [4]}"), "tiny")
    assert grid.variants[0].settings["train.learning_rate"] == 3e-4
    assert parse_changes(["train.learning_rate=1e-3"]) == {"train.learning_rate": 1e-3}


def test_set_goes_over_the_base_but_not_over_an_axis(tmp_path: Path):
    path = write(tmp_path, "base: {nsa.window: 4}\naxes: {nsa.block_count: [1, 2]}")
    assert load_grid(path, "tiny", {"nsa.window": 16}).variants[0].settings["nsa.window"] == 16
    with pytest.raises(SettingsError, match="grid mine varies it"):
        load_grid(path, "tiny", {"nsa.block_count": 3})


def test_a_grid_that_asks_at_test_time_is_trained_by_one_option():
    paper = load_profile("paper")
    cells = {cell.label: cell for cell in make_cells(load_grid("gates", "paper", {"asks": "train"}), paper)}
    made = {label: cell.training.made for label, cell in cells.items()}
    assert cells["dense"].training.checkpoint == "Qwen/Qwen2.5-VL-7B-Instruct"  # its own weights
    assert cells["static"].training.id == cells["dynamic"].training.id  # means of what was learnt
    assert (cells["static"].nsa.gate_mode, made["static"].gate_mode) == ("static", "dynamic")
    assert made["no gates"].gate_values == (1, 1, 1)
    changes = {"asks": "train", "nsa.semantics": "paper"}
    budget = make_cells(load_grid("budget", "paper", changes), paper)
    assert len({cell.training.id for cell in budget}) == 14
    assert {cell.training.settings.model for cell in budget} == {"Qwen/Qwen2.5-VL-7B-Instruct"}
    assert all(cell.training.made == cell.nsa and cell.nsa.semantics == "paper" for cell in budget)
    with pytest.raises(SettingsError, match="asks='tran' is not valid: choose one of test, train"):
        load_grid("budget", "paper", {"asks": "tran"})


@pytest.mark.parametrize("key", [*SETTINGS, *OF_GRIDS])
def test_what_is_advised_in_the_place_of_an_empty_value_works(tmp_path: Path, key: str):
    with pytest.raises(SettingsError, match=f"--set {key}: no value is given; .*leave it out$") as told:
        parse_changes([f"{key}= "])
    if "write null" in str(told.value):
        say = {
            "train.steps": ["train.data=samples.jsonl", "train.video_folder=videos"],
            "suite.frames": ["suite.fps=1"],
        }  # what says it then
        changes = parse_changes([f"{key}=null", *say.get(key, ())])
        make_cells(load_grid(write(tmp_path, "axes: {nsa.gate_temperature: [1, 2]}"), "tiny", changes), tiny())


def test_set_of_suites_and_seeds():
    changes = parse_changes(["suites=synth_order+synth_needle", "seeds=0+2"])
    grid = load_grid("budget", "tiny", changes)
    assert list(grid.suites or {}) == ["synth_order", "synth_needle"]
    assert grid.seeds == (0, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("axis: {nsa.window: [1]}", "mine.yaml: unknown key 'axis'; known keys: question, asks, base, axes"),
        ("asks: both", "asks='both' is not valid: choose one of test, train"),
        ("axes: {nsa.windows: [1]}", "unknown setting 'nsa.windows'; known: nsa.block_size, nsa.block_count"),
        ("axes: {window: [1]}", "unknown setting 'window'; settings are nsa"),
        ("axes: {nsa.window: 4}", "axes: nsa.window: expected a list"),
        ("axes: {a: [{nsa.window: 1}, {nsa.windw: 2}]}", "unknown setting 'nsa.windw'"),
        ("base: {train.stepz: 4}", "unknown setting 'train.stepz'; known: train.model"),
        ("combine: zip\naxes: {nsa.window: [1, 2], nsa.block_count: [1]}", "zip needs axes of one length, not 2, 1"),
        ("axes: {nsa.window: [1]}\nexclude: [{nsa.window: 1}]", "no variant is left"),
        ("axes: {a: [{nsa.window: 1, label: x}, {nsa.window: 2, label: x}]}", "two variants are called 'x'"),
        ("axes: {nsa.window: [1", "mine.yaml: not valid YAML"),
        ("- a list", "expected a mapping"),
        ("seeds: [-1]", "seeds=.* is not valid"),
        ("suites: 3", "suites: give a list"),
        ("suites: [synth_order, synth_order]", "suites: synth_order, synth_order: give each suite once"),
        ("seeds: [0, 1, 0]", "seeds=.* is not valid: give each number once"),
        ("axes: {nsa.window: [4]}\naxes: {nsa.window: [8]}", "line 2: axes stands twice, first in line 1"),
        ("axes: {nsa.window: [4], x: [{nsa.window: 8}]}", "axes: two axes set nsa.window"),
        ("axes: {x: [{nsa.window: 8, label: null}]}", "axes: x: label=None is not valid: one line of text"),
        ("axes: {x: [{nsa.window: 8, label: ' '}]}", "axes: x: label=' ' is not valid: one line of text"),
        ("axes: {x: [{nsa.window: 1, label: x y}, {nsa.window: 2, label: 'x  y '}]}", "two variants are called"),
        ("axes: {x: [{nsa.window: 1, label: \u00e9}, {nsa.window: 2, label: e\u0301}]}", "two variants are called"),
        ("base: {nsa: {}}", "base: unknown setting 'nsa'; settings are nsa"),
        ("base: {training: {lr: 1}}", r"unknown setting 'training.lr'; .*; did you mean train.learning_rate\?"),
        ("axes: false", "axes: expected a mapping, as in .*, not False"),
        ("base:", "line 1: base has no value; write null for none"),
        ("base: {checkpoint: ''}", "base: checkpoint='' is not valid: give text, or null for none"),
        ("base: {training.lr: 1}", r"unknown setting 'training.lr'; .*; did you mean train.learning_rate\?"),
        ("labels: {nsa.windw: w}", r"labels: unknown setting 'nsa.windw'; .*; did you mean nsa.window\?"),
        ("exclude: {nsa.window: 4}", "exclude: expected a list"),
    ],
)
def test_a_mistake_in_a_grid_is_one_line(tmp_path: Path, text: str, message: str):
    with pytest.raises(SettingsError, match=message) as caught:
        load_grid(write(tmp_path, text), "tiny")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "axes: {nsa.branches: [cmp+slice]}",
            "branches='cmp\\+slice' is not valid: a subset of cmp, slc, swa, each once",
        ),
        ("base: {nsa.window: {}}", "window={} is not valid: a whole number of at least 0"),
        ("base: {nsa: {window: {a: 1}}}", "window={'a': 1} is not valid: a whole number of at least 0"),
        ("axes: {nsa.window: [0]}", "window=0 is not valid: 1 or more while swa is a branch"),
        ("base: {nsa.attention: sparse}", "attention='sparse' is not valid: choose one of nsa, dense"),
        (
            "suites: [synth_noodle]",
            r"unknown suite 'synth_noodle'; choose one of synth_needle.*; did you mean synth_needle\?",
        ),
        ('axes: {train.model: ["a\\nb"]}', "label='model=a.*b' is not valid: one line of text"),
        ("suites: {synth_needle: {frame: 3}}", "unknown setting 'frame'; known settings: .*frames"),
        ("base: {checkpoint: ./nowhere}", "checkpoint './nowhere': there is no such folder"),
    ],
)
def test_a_setting_that_cannot_be_is_one_line(tmp_path: Path, text: str, message: str):
    with pytest.raises(SettingsError, match=message) as caught:
        identify(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def identify(path: str) -> list[str]:
    """The ids of the grid's cells."""
    return [cell.id for cell in make_cells(load_grid(path, "tiny"), load_profile("tiny"))]


def test_more_blocks_than_there_are_is_allowed(tmp_path: Path):
    cells = make_cells(load_grid(write(tmp_path, "axes: {nsa.block_count: [100000]}"), "tiny"), load_profile("tiny"))
    assert cells[0].nsa.block_count == 100000


@pytest.mark.parametrize("name", grid_names("paper"))
def test_the_published_checkpoint_is_asked_with_the_semantics_that_it_was_trained_with(name: str):
    """Its probes too. What a grid trains itself follows the paper, unless the grid is about semantics."""
    profile = load_profile("paper")
    for cell in make_cells(load_grid(name, "paper"), profile):
        if cell.training.checkpoint == profile.checkpoint:
            assert cell.training.nsa.semantics == "release"
            asked = differences(cell.nsa.semantics)
            assert asked >= set(DIFFERENCES) - {"importance_round_up"} or name == "semantics"
        elif cell.training.settings is not None and name != "semantics_trained":
            assert cell.training.nsa.semantics == "paper"


def test_the_published_checkpoint_can_be_asked_with_the_papers_semantics_by_one_option():
    cells = make_cells(load_grid("budget", "paper", {"nsa.semantics": "paper"}), load_profile("paper"))
    assert {cell.nsa.semantics for cell in cells} == {"paper"}


@pytest.mark.parametrize("profile", ["tiny", "paper"])
def test_grid_semantics_switches_off_each_difference(profile: str):
    asked = {cell.nsa.semantics for cell in make_cells(load_grid("semantics", profile), load_profile(profile))}
    without = {canonical_semantics(f"release-{name}") for name in DIFFERENCES}
    assert asked == {"release", "paper"} | without
    trained = {
        cell.nsa.semantics for cell in make_cells(load_grid("semantics_trained", profile), load_profile(profile))
    }
    assert trained == asked - {canonical_semantics("release-dense_decode")}  # every prompt holds text


def test_the_tiny_grids_on_semantics_share_their_trainings():
    profile = load_profile("tiny")
    asked, trained = (
        {cell.training.id for cell in make_cells(load_grid(name, "tiny"), profile)}
        for name in ("semantics", "semantics_trained")
    )
    assert len(asked) == 2
    assert asked < trained
