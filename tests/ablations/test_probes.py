"""A probe is of weights as cells of the grid ask them, by their gates or by methods that choose keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ablations.grid import grid_names, load_grid
from ablations.jobs import make_jobs
from ablations.plan import Sweep, make_sweep, write_plan
from ablations.profile import load_profile, read_probe
from ablations.run import choose, main
from ablations.state import read_state
from videonsa.config import SettingsError
from videonsa.methods.settings import OracleSettings


def sweep(grid: str, tmp_path: Path, profile: str = "paper", **changes: object) -> Sweep:
    named = {key.replace("__", "."): value for key, value in changes.items()}
    return make_sweep(load_grid(grid, profile, named), load_profile(profile), tmp_path, grid, named)


@pytest.mark.parametrize("profile", ["tiny", "paper"])
def test_every_probe_is_as_large_as_a_cell_and_asks_as_it_does(profile: str, tmp_path: Path):
    for name in grid_names(profile):
        made = sweep(name, tmp_path, profile)
        for key, probe in made.probes.items():
            cells = [cell for cell in made.cells if cell.training.id == key]
            assert (probe.nsa, probe.suite) in [(cell.nsa, cell.suite) for cell in cells], name
            assert probe.videos <= (probe.suite.limit or made.profile.probe_videos)
            by_gates = probe.nsa.attention == probe.training.nsa.attention == "nsa"
            assert by_gates or probe.methods, name


METHODS = """
axes:
  variant:
    - {label: nsa}
    - {label: eight, method: oracle, oracle.keys: 8}
    - {label: default, method: oracle}
    - {label: again, method: oracle, oracle.keys: 2304}
    - {label: dense, nsa.attention: dense}
suites: [synth_order, synth_needle]
"""


def test_methods_that_choose_keys_are_looked_at_by_the_probe_of_their_weights(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text(METHODS)
    made = sweep(str(tmp_path / "mine.yaml"), tmp_path, "tiny")
    (probe,) = made.probes.values()
    assert (probe.nsa.attention, probe.suite.name) == ("nsa", made.profile.probe_suite)
    assert probe.methods == (OracleSettings(2304), OracleSettings(8)), "in one order, each once"
    assert probe.settings["methods"] == [{"name": "oracle", "keys": 2304}, {"name": "oracle", "keys": 8}]
    assert set(probe.inputs["code"]) >= {"probe", "sparse", "method oracle"}
    write_plan(made)
    planned = json.loads((made.folder / "plan.json").read_text())["cells"]
    assert {cell["label"] for cell in planned if cell["probe"] == probe.id} == {"nsa", "eight", "default", "again"}
    (only,) = sweep("budget", tmp_path, "tiny").probes.values()
    assert "methods" not in {**only.settings, **only.inputs}
    assert only.id != probe.id


def test_a_grid_has_another_variant_probed_than_its_reference(tmp_path: Path):
    (usual,) = sweep("blocks", tmp_path).probes.values()
    assert (usual.nsa.block_size, usual.nsa.window) == (64, 256)
    made = sweep("blocks", tmp_path, probe__label="s=128 w=64")
    (probe,) = made.probes.values()
    assert (probe.nsa.block_size, probe.nsa.block_count, probe.nsa.window) == (128, 16, 64)
    assert {cell.id for cell in made.cells} == {cell.id for cell in sweep("blocks", tmp_path).cells}
    with pytest.raises(SettingsError, match=r"--set: probe: label: no variant is called 's=9'; variants: s=32 w=64, "):
        sweep("blocks", tmp_path, probe__label="s=9")
    with pytest.raises(SettingsError, match="label"):
        read_probe({"probe": {"label": "s=128 w=64"}}, "profile.yaml")


def test_weights_without_gates_are_probed_where_methods_choose_keys(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text(METHODS.replace("    - {label: nsa}\n", ""))
    stock = "Qwen/Qwen2.5-VL-7B-Instruct"
    made = sweep(str(tmp_path / "mine.yaml"), tmp_path, "paper", checkpoint=stock, suites="timescope")
    (probe,) = made.probes.values()
    assert (probe.nsa.attention, len(probe.methods), probe.training.checkpoint) == ("dense", 2, stock)
    jobs = {}
    for label in ("eight", "dense"):
        found = make_jobs(made, read_state(made), choose(made, f"{label} · timescope"), False, 1)
        jobs[label] = [job.kind for job in found]
    assert jobs == {"eight": ["probe", "evaluate"], "dense": ["evaluate"]}


def test_limits_of_the_grid_hold_for_its_probe(tmp_path: Path):
    (probe,) = sweep("smoke", tmp_path).probes.values()
    assert (probe.suite.frames, probe.videos) == (32, 4)
    (probe,) = sweep("branches", tmp_path, suite__limit=7, suite__frames=64).probes.values()
    assert (probe.suite.frames, probe.videos, probe.suite.name) == (64, 7, "timescope")


def test_a_grid_that_does_not_ask_the_probes_suite_is_probed_on_its_own(tmp_path: Path):
    (probe,) = sweep("tomato", tmp_path).probes.values()
    assert probe.suite.name == "tomato"


def test_dense_rows_and_weights_without_gates_have_no_probe(tmp_path: Path):
    made = sweep("transfer", tmp_path)
    assert [probe.training.checkpoint for probe in made.probes.values()] == ["Enxin/VideoNSA"]
    wanted = {}
    for label in ("dense", "dense_sft", "dense_nsa", "videonsa"):
        jobs = make_jobs(made, read_state(made), choose(made, f"{label} · timescope"), False, 1)
        wanted[label] = sum(job.kind == "probe" for job in jobs)
    assert wanted == {"dense": 0, "dense_sft": 0, "dense_nsa": 0, "videonsa": 1}


def test_a_profile_a_grid_and_set_name_the_observers(tmp_path: Path, capsys: pytest.CaptureFixture):
    (usual,) = sweep("smoke", tmp_path).probes.values()
    assert "observers" not in {**usual.settings, **usual.inputs}
    (tmp_path / "mine.yaml").write_text(METHODS + "probe: {videos: 2, observers: [recall, gates]}\n")
    mine = str(tmp_path / "mine.yaml")
    (of_grid,) = sweep(mine, tmp_path, "tiny").probes.values()
    assert (of_grid.observers, of_grid.videos) == (("gates", "recall"), 2)
    assert of_grid.inputs["observers"] == of_grid.settings["observers"] == ["gates", "recall"]
    assert {part for part in of_grid.inputs["code"] if "obs" in part} == {"observer gates", "observer recall"}
    changed = sweep(mine, tmp_path, "tiny", probe__observers="gates", probe__suite="synth_order")
    (probe,) = changed.probes.values()
    assert (probe.observers, probe.suite.name, probe.videos, probe.methods) == (("gates",), "synth_order", 2, ())
    assert changed.name != sweep(mine, tmp_path, "tiny").name
    assert [cell.id for cell in changed.cells] == [cell.id for cell in sweep(mine, tmp_path, "tiny").cells]
    assert main(["--grid", "smoke", "--dry-run", "--out", str(tmp_path), "--set", "probe.observers=recall+gates"]) == 0
    assert " videos of synth_needle: gates, recall\n" in capsys.readouterr().out
    assert main(["--grid", "smoke", "--dry-run", "--out", str(tmp_path), "--set", "probe.observers=gatez"]) == 2
    assert "--set: probe: observers: no observer 'gatez'; observers: gates, " in capsys.readouterr().err
