"""Static gates of weights that hold none: measured by a job before they are asked for, once for all cells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ablations import run
from ablations.cell import make_cells
from ablations.grid import load_grid
from ablations.jobs import make_jobs
from ablations.plan import make_sweep
from ablations.profile import load_profile
from ablations.slurm_submit import batches
from ablations.state import read_state
from tests.ablations import fakes
from tests.ablations.conftest import records
from videonsa.config import NSASettings, SettingsError
from videonsa.tiny import build_tiny

PROFILE = """
checkpoint: {checkpoint}
train: {{model: tiny, data: {data}, video_folder: {folder}, steps: 2, batch_size: 2, frames: [4]}}
suites: {{synth_needle: {{limit: 1, frames: 8}}}}
gates: {{samples: {samples}}}
"""
GRID = """
question: Do gates need to follow the content?
asks: test
axes:
  gates:
    - {label: dynamic, nsa.gate_mode: dynamic}
    - {label: static, nsa.gate_mode: static}
    - {label: static w=8, nsa.gate_mode: static, nsa.window: 8}
    - {label: dense, nsa.gate_mode: static, nsa.attention: dense}
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights with gates and without means, that call themselves Qwen2.5-VL as the published ones do."""
    folder = tmp_path_factory.mktemp("published")
    model, processor = build_tiny(NSASettings(), seed=0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    ours = ("attention", "backend", "block_count", "block_size", "branches", "gate_mode", "gate_temperature")
    for name in (*ours, "gate_values", "semantics", "static_gates", "window"):
        config.pop(name, None)
    config |= {"model_type": "qwen2_5_vl", "architectures": ["Qwen2_5_VLForConditionalGeneration"]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_inputs(
    folder: Path, checkpoint: object, data: str = "synth", samples: object = 3, grid: str = GRID
) -> list[str]:
    """Profile and grid; returns the options that name them."""
    text = PROFILE.format(checkpoint=checkpoint, data=data, folder=folder, samples=samples)
    (folder / "small.yaml").write_text(text)
    (folder / "static.yaml").write_text(grid)
    return ["--grid", str(folder / "static.yaml"), "--profile", str(folder / "small.yaml")]


def test_means_are_measured_once_and_used(published, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr("ablations.results.summary", fakes.summary)
    words = [*write_inputs(tmp_path, published), "--out", str(tmp_path / "runs"), "--only", "static"]
    assert run.main([*words, "--dry-run"]) == 0
    assert "To run: 0 train jobs, 1 evaluate jobs, 0 probe jobs, 1 gates jobs" in capsys.readouterr().out
    run.main([*words, "--cluster", "debug"])
    found = records(tmp_path / "runs")
    assert {name: record["status"] for name, record in found.items()} == {
        "static synth_needle": "done",
        "static w=8 synth_needle": "done",
    }
    assert len({record["identities"]["training"] for record in found.values()}) == 1
    assert found["static synth_needle"]["settings"]["train"]["gates"]["samples"] == 3
    (folder,) = (tmp_path / "runs" / "trainings").iterdir()
    record, means = (json.loads((folder / name).read_text()) for name in ("record.json", "gates.json"))
    assert (record["status"], record["summary"]["samples"]) == ("done", 3)
    assert torch.tensor(means["static_gates"]).shape == (3, 4, 3)
    assert means["tokens"] > 0
    before = (folder / "record.json").stat().st_mtime_ns
    run.main([*words, "--cluster", "debug"])
    assert (folder / "record.json").stat().st_mtime_ns == before


def test_means_that_cannot_be_taken_fail_the_cells_that_need_them(published, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr("ablations.results.summary", fakes.summary)
    words = write_inputs(tmp_path, published, data=str(tmp_path / "missing.json"))
    run.main([*words, "--out", str(tmp_path / "runs"), "--cluster", "debug", "--only", "static"])
    errors = [record["error"] for record in records(tmp_path / "runs").values()]
    assert [error["type"] for error in errors] == ["TrainingFailed"] * 2
    assert all("missing.json" in error["message"] for error in errors)


@pytest.mark.parametrize("checkpoint", ["hub", "folder", "folder with means"])
def test_only_weights_without_means_need_them(checkpoint, published, tmp_path):
    given = "Enxin/VideoNSA" if checkpoint == "hub" else published
    if checkpoint == "folder with means":
        model, _ = build_tiny(NSASettings(), seed=0)
        model.config.static_gates = [[[0.5] * 3] * 4] * 3
        model.save_pretrained(given := tmp_path / "model")
    write_inputs(tmp_path, given)
    profile = load_profile(str(tmp_path / "small.yaml"))
    cells = make_cells(load_grid(str(tmp_path / "static.yaml"), profile.name), profile)
    needed = {cell.label: cell.training.gates is not None for cell in cells}
    static = checkpoint != "folder with means"
    assert needed == {"dynamic": False, "static": static, "static w=8": static, "dense": False}
    assert len({cell.training.id for cell in cells}) == (2 if static else 1)


def test_they_go_first_on_a_cluster_and_need_no_whole_node(published, tmp_path):
    write_inputs(tmp_path, published)
    profile = load_profile(str(tmp_path / "small.yaml"))
    grid = load_grid(str(tmp_path / "static.yaml"), profile.name)
    sweep = make_sweep(grid, profile, tmp_path / "runs", str(tmp_path / "static.yaml"), {})
    jobs = make_jobs(sweep, read_state(sweep), sweep.cells, retry=False, per_training=8)
    measuring = [job for job in jobs if job.training.gates is not None]
    assert [job.kind for job in measuring] == ["train", "evaluate"]
    assert {job.after for job in measuring} == {None, measuring[0].name}
    assert batches(jobs, 100)[0] == ([measuring[0]], False)


@pytest.mark.parametrize("samples", [0, 1.5, "many", "true"])
def test_a_number_of_samples_that_is_none_is_refused(samples, tmp_path):
    write_inputs(tmp_path, "Enxin/VideoNSA", samples=samples)
    with pytest.raises(SettingsError, match=r"small.yaml: gates: samples=.*: give a whole number of at least 1"):
        load_profile(str(tmp_path / "small.yaml"))
