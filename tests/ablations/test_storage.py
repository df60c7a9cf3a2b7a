"""The disk that trainings need is told before they begin."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablations import storage
from ablations.jobs import make_jobs
from ablations.plan import Sweep
from ablations.state import read_state
from ablations.storage import amount, disk_lines
from tests.ablations.test_estimate import planned

TRAINED = {"train__steps": 100, "train__data": "synth", "train__video_folder": None}


@pytest.fixture(autouse=True)
def fixed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ablations.facts.part_version", lambda part: "code")
    monkeypatch.setattr(storage, "space", lambda place: (300 * 10**9, None))


def told(sweep: Sweep, at_once: int = 1) -> list[str]:
    state = read_state(sweep)
    return disk_lines(sweep, make_jobs(sweep, state, sweep.cells, False, 1), at_once)


def test_seven_billion_weights(tmp_path: Path):
    """Two trainings: 12 bytes a weight, twice while one is saved, and 2 for each final/."""
    grid = tmp_path / "two.yaml"
    grid.write_text("asks: train\naxes: {nsa.window: [64, 128]}\nsuites: [timescope]\n")
    sweep = planned(str(grid), "paper", tmp_path, **TRAINED)
    assert len(sweep.trainings) == 2
    (line,) = told(sweep)
    assert "104 GB a checkpoint of Qwen/Qwen2.5-VL-7B-Instruct (8.66e+09 weights), 2 while one is saved; " in line
    assert f"final/ 17.3 GB in bf16; 2 trainings, 1 at once: at most {208 + 17.3:.0f} GB; 300 GB are free on " in line
    line, warning = told(sweep, at_once=2)
    assert "2 at once: at most 416 GB" in line
    assert warning.startswith("Warning: 116 GB are missing on ")
    (line, _) = told(planned(str(grid), "paper", tmp_path, train__keep_checkpoints=2, **TRAINED))
    assert "3 while one is saved" in line


def test_what_does_not_learn_is_in_no_checkpoint(tmp_path: Path):
    still = {"train__freeze": ["tower", "projector"], "train__lora_rank": 16}
    (line,) = told(planned("semantics_trained", "paper", tmp_path, **still, **TRAINED))
    adapters = 28 * 16 * (2 * (3584 + 3584) + 2 * (3584 + 512) + 3 * (3584 + 18944))
    gates = 28 * (3584 * 3584 + 3584 + 84 * 3584 + 84)
    assert line.startswith(f"Disk: {amount(12 * (adapters + gates))} a checkpoint of ")
    assert "final/ 17.3 GB" in line


def test_what_is_there_counts_and_what_nobody_knows_is_said(tmp_path: Path):
    sweep = planned("budget", "tiny", tmp_path)
    assert "1 training, 1 at once: at most 8.67 MB" in told(sweep)[0]
    (training,) = sweep.trainings
    (tmp_path / "trainings" / training / "checkpoints").mkdir(parents=True)
    (tmp_path / "trainings" / training / "checkpoints" / "part").write_bytes(bytes(4_330_000))
    assert "at most 4.34 MB" in told(sweep)[0]
    unknown = planned("semantics_trained", "paper", tmp_path, train__model="some/other", **TRAINED)
    assert told(unknown) == ["Disk: not known of some/other: neither here nor a model whose size is known"]
