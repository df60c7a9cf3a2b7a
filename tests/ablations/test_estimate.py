"""Times come from records of the same scale, or from the tiny model's stated rules, or are not known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ablations.cell import Cell
from ablations.estimate import estimate, seconds_a_cell
from ablations.grid import load_grid
from ablations.plan import Sweep, cell_folder, make_jobs, make_sweep, read_state
from ablations.profile import load_profile
from ablations.records import record_of


@pytest.fixture(autouse=True)
def fixed_code(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ablations.facts.part_version", lambda part: "code")


def planned(grid: str, profile: str, out: Path, **changes: object) -> Sweep:
    named = {key.replace("__", "."): value for key, value in changes.items()}
    return make_sweep(load_grid(grid, profile, named), load_profile(profile), out, grid, named)


def time_of(sweep: Sweep) -> str:
    state = read_state(sweep)
    return estimate(sweep, state, make_jobs(sweep, state, sweep.cells, False, 1), 1)


def done(cell: Cell, out: Path, seconds: float, questions: int = 10) -> None:
    path = cell_folder(out, cell.id) / "record.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = record_of(cell) | {"status": "done", "questions": [{}] * questions, "summary": {"seconds": seconds}}
    path.write_text(json.dumps(record))


def test_the_tiny_model_has_rules_of_thumb(tmp_path: Path):
    assert "rule of thumb of the tiny profile" in time_of(planned("budget", "tiny", tmp_path))


def test_rates_of_the_tiny_model_say_nothing_of_another(tmp_path: Path):
    for cell in planned("smoke", "tiny", tmp_path).cells:
        done(cell, tmp_path, 6.0)
    said = time_of(planned("branches", "paper", tmp_path, suite__limit=100))
    assert said.startswith("not known: no earlier records at this scale (")


@pytest.mark.parametrize(
    "other",
    [
        {"suite__frames": 64},
        {"suite__tokens_per_frame": 128},
        {"suite__max_new_tokens": 99},
        {"nsa__semantics": "paper"},
        {"nsa__attention": "dense"},
        {"checkpoint": "some/other"},
    ],
)
def test_a_rate_holds_for_its_own_scale_alone(tmp_path: Path, other: dict):
    small = {"suites": ["timescope"], "suite__limit": 10}
    measured, asked = (planned("budget", "paper", tmp_path, **small, **more) for more in ({}, other))
    done(measured.cells[0], tmp_path, 100.0)
    assert seconds_a_cell(tmp_path, measured.cells) == 100.0  # another budget is of the same scale
    assert seconds_a_cell(tmp_path, asked.cells) is None


def test_a_whole_benchmark_counts_all_of_its_questions(tmp_path: Path):
    sweep = planned("budget", "paper", tmp_path, suites=["timescope"])
    done(sweep.cells[0], tmp_path, 100.0)
    assert seconds_a_cell(tmp_path, sweep.cells) == pytest.approx(10 * 1500)
    said = time_of(sweep)
    assert "probing timescope, 2048 frames of 64 tokens" in said  # a probe is no question
