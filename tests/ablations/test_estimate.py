"""Times come from records of the same scale, from the tiny model's rules, from records elsewhere, or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ablations import recorded
from ablations.cell import Cell
from ablations.estimate import estimate, job_seconds, seconds_a_cell
from ablations.grid import grid_names, load_grid
from ablations.jobs import make_jobs
from ablations.plan import Sweep, cell_folder, make_sweep
from ablations.profile import load_profile
from ablations.records import record_of
from ablations.state import read_state


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
    record["provenance"] = {"gpu": "a card"}
    path.write_text(json.dumps(record))


def test_the_tiny_model_has_rules_of_thumb(tmp_path: Path):
    assert "rule of thumb of the tiny profile" in time_of(planned("budget", "tiny", tmp_path))


def test_rates_of_the_tiny_model_say_nothing_of_another(tmp_path: Path):
    for cell in planned("smoke", "tiny", tmp_path).cells:
        done(cell, tmp_path, 6.0)
    said = time_of(planned("branches", "paper", tmp_path, suite__limit=100, checkpoint="some/other"))
    assert said.startswith("not known: no earlier records at this scale (")


HEAD = "gpu,attention,tokens,patch_rows,patch_columns,tower_s,first_token_s,decode_ms,peak_gib\n"
ROWS = "an H200,nsa,1000,16,16,1,2,10,9\nan H200,nsa,1000,12,20,2,3,10,9\nan H200,nsa,4000,16,16,8,12,20,9\n"
DENSE = "an H200,dense,1000,16,16,1,5,10,9\nG2,dense,1000,16,16,1,50,10,9\n"


@pytest.fixture
def benchmarks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of recorded times: questions of 1,000 and 4,000 tokens, and two other ways to attend."""
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "question.csv").write_text(HEAD + ROWS + DENSE)
    layers = "provider,semantics,stage,mode,length,ms_p50\ntriton,paper,all,fwd,1000,10\ntriton,paper,all,bwd,1000,99\n"
    (folder / "h200.csv").write_text(layers)
    (folder / "release_h200.csv").write_text(layers.replace("paper", "release").replace("1000,10", "1000,20"))
    (folder / "methods.csv").write_text("method,data,length,total_ms,dense_ms\ntri_shape,lifelike,1000,40,140\n")
    monkeypatch.setattr(recorded, "FOLDER", folder)
    return folder


@pytest.mark.parametrize(
    ("tokens", "answer", "kind", "seconds"),
    [
        (1000, 0, "paper", 3.0),  # the slower shape of frames
        (1000, 100, "paper", 3 + 100 * 0.01),
        (2000, 0, "paper", 6.0),  # 3 to 12 from 1,000 to 4,000: as the length
        (8000, 0, "paper", 24.0),
        (500, 0, "paper", 1.5),
        (500, 100, "paper", 1.5 + 100 * 0.01),  # a token takes as long as after 1,000
        (1000, 0, "release", 3 + 28 * 0.01),
        (1000, 0, "dense", 5.0),  # of one GPU
        (1000, 0, "tri_shape", 5 - 28 * 0.1),
        (1000, 0, "fastv", 5.0),
    ],
)
def test_what_a_question_took_elsewhere(benchmarks: Path, tokens: int, answer: int, kind: str, seconds: float):
    found = recorded.question_seconds(2 * tokens, 1, answer, kind)
    assert found is not None
    assert found.seconds == pytest.approx(seconds)
    assert found.tower == pytest.approx(tokens / 1000 * (2 if kind in ("paper", "release") else 1))
    assert found.where[0] == "an H200, question.csv"
    assert ("without a record" in " ".join(found.where)) == (kind == "fastv")


def test_without_records_nothing_is_known(benchmarks: Path):
    (benchmarks / "question.csv").unlink()
    assert recorded.question_seconds(2000, 1, 16, "paper") is None


def test_a_paper_grid_is_estimated_in_gpu_hours(benchmarks: Path, tmp_path: Path):
    """14 variants of 3,600 questions: of 3 s to the first token 2 are the tower's, once for all; 1 s decodes."""
    sampling = {"suite__frames": 2000, "suite__tokens_per_frame": 1, "suite__max_new_tokens": 100, "suite__limit": 3600}
    sweep = planned("budget", "paper", tmp_path, suites=["timescope"], nsa__semantics="paper", **sampling)
    cells = len(sweep.cells)
    said = time_of(sweep)
    assert said.startswith(f"about {2 * cells + 2:.3g} GPU hours, 3 h 4")
    assert " on 8 GPUs (" in said, "this machine has none"
    assert "recorded elsewhere, not measured here; an H200, question.csv; each video fills its frames" in said
    assert "without what has no record at its scale: probing timescope" in said
    assert seconds_a_cell(tmp_path, sweep.cells, "cpu") is None, (
        "only what was measured here is expected of a running cell"
    )
    done(sweep.cells[0], tmp_path, 10.0)
    said = time_of(sweep)
    assert said.startswith(f"about {cells - 1} h"), "what was measured here goes before"
    assert "(from earlier records on a card; without" in said


def test_the_hours_of_each_benchmark_are_told(benchmarks: Path, tmp_path: Path):
    sampling = {"suite__frames": 2000, "suite__tokens_per_frame": 1, "suite__max_new_tokens": 100, "suite__limit": 3600}
    suites = ["timescope", "tomato"]
    said = time_of(planned("budget", "paper", tmp_path, suites=suites, nsa__semantics="paper", **sampling))
    assert said.startswith("about 60 GPU hours (timescope 30, tomato 30), ")


def test_a_training_without_a_record_comes_first(benchmarks: Path, tmp_path: Path):
    said = time_of(planned("semantics_trained", "paper", tmp_path, train__steps=100))
    assert said.startswith("not known of training Qwen/Qwen2.5-VL-7B-Instruct; the rest about ")


def test_methods_that_look_into_the_tower_do_not_share_it(benchmarks: Path, tmp_path: Path):
    sampling = {"suite__frames": 2000, "suite__tokens_per_frame": 1, "suite__max_new_tokens": 1, "suite__limit": 3600}
    grid = tmp_path / "grid.yaml"
    grid.write_text("asks: test\nbase: {checkpoint: Qwen/Qwen2.5-VL-7B-Instruct}\nsuites: [timescope]\n"
                    "axes: {method: [dense, tri_shape, vscan, fewer_frames]}\n")  # fmt: skip
    sweep = planned(str(grid), "paper", tmp_path, **sampling)
    # dense 4 and tri_shape 1.2 (2.2 of one layer's attention) share a second of the tower; each other has its own.
    assert time_of(sweep).startswith(f"about {4 + 1.2 + 1 + 5 + 5:.3g} GPU hours, ")


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
    assert seconds_a_cell(tmp_path, measured.cells, "cpu") == 100.0  # another budget is of the same scale
    assert seconds_a_cell(tmp_path, asked.cells, "cpu") is None


def test_a_whole_benchmark_counts_all_of_its_questions(tmp_path: Path):
    sweep = planned("budget", "paper", tmp_path, suites=["timescope"])
    done(sweep.cells[0], tmp_path, 100.0)
    assert seconds_a_cell(tmp_path, sweep.cells, "cpu") == pytest.approx(10 * 1500)
    said = time_of(sweep)
    assert "without what has no record at its scale: probing timescope, 2048 frames of 64 tokens" in said


def test_the_rule_of_a_gpu_is_not_expected_of_cells_on_a_cpu(tmp_path: Path):
    cells = planned("twins", "study", tmp_path).cells
    assert seconds_a_cell(tmp_path, cells, "cpu") is None
    assert 1 < (seconds_a_cell(tmp_path, cells, "cuda") or 0) < 20
    assert seconds_a_cell(tmp_path, planned("budget", "tiny", tmp_path).cells, "cpu")


def test_all_grids_of_the_study_take_at_most_three_gpu_hours(tmp_path: Path):
    """What grids share counts once."""
    seconds, known = 0.0, set()
    for name in grid_names("study"):
        sweep = planned(name, "study", tmp_path)
        for job in make_jobs(sweep, read_state(sweep), sweep.cells, False, 1):
            things = {"train": (job.training,), "probe": (job.probe,), "evaluate": job.cells}[job.kind]
            fresh = {thing.id: thing for thing in things if thing and thing.id not in known}
            cells = tuple(fresh.values()) if job.kind == "evaluate" else job.cells
            assert job_seconds(tmp_path, job, "cpu") is None, "a GPU's rule of thumb"
            left = replace(job, cells=cells)  # type: ignore[arg-type]
            seconds += (job_seconds(tmp_path, left, "cuda") or 0.0) if fresh else 0.0
            known |= fresh.keys()
    assert 1 < seconds / 3600 <= 3
