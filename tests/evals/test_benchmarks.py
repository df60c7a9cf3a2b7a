"""The eight benchmarks, asked on stand-ins of the real schema and layout: by our command and by lmms-eval's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evals.checkpoint import load
from evals.data.__main__ import main as data_command
from evals.run import evaluate
from evals.suites import SUITES, suite_settings
from tests.evals.judge_server import compare, serving
from tests.evals.standins import STANDINS, write_repository, write_task

ROOT = Path(__file__).parent.parent.parent
SHORT = "generation_kwargs: {max_new_tokens: 3, do_sample: false}\n"
SAMPLING = {"frames": 2, "fps": None, "tokens_per_frame": 1, "max_new_tokens": 3}
NAMES = sorted(STANDINS)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All stand-ins, prepared from copies of their repositories, and a judge that compares words."""
    folder = tmp_path_factory.mktemp("benchmarks")
    for name in NAMES:
        write_repository(name, folder / "copies")
    with serving(compare) as judge, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(folder / "hub"))
        patch.setenv("VIDEONSA_TASKS", str(folder / "tasks"))
        for name, value in judge.items():
            patch.setenv(name, value)
        assert data_command(["prepare", "all", "--local", str(folder / "copies")]) == 0
        yield folder


@pytest.fixture(scope="module")
def checkpoint(says: Callable[..., Path]) -> Path:
    return says("A", " ", "3")


@pytest.fixture(scope="module")
def results(place: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    loaded = load(checkpoint, device="cpu")
    out = tmp_path_factory.mktemp("cells")
    return {name: evaluate(loaded, {}, suite_settings(name, **SAMPLING), out / name) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_the_figure_is_lmms_evals(results: dict, name: str) -> None:
    scores = results[name]["scores"]
    assert scores["errors"] == 0, [row["error"] for row in results[name]["questions"]]
    assert scores["lmms_eval"] == pytest.approx(scores["accuracy"], abs=1e-5)
    assert 0 < scores["accuracy"] < 1
    assert scores["notes"][: len(SUITES[name].notes)] == list(SUITES[name].notes)
    assert not any("figure" in note for note in scores["notes"])
    assert sum(scores["shares"].values()) == pytest.approx(1) if scores["shares"] else True


@pytest.mark.parametrize("name", NAMES)
def test_rows_say_what_they_are_about(results: dict, name: str, place: Path) -> None:
    rows, docs = results[name]["questions"], STANDINS[name].docs
    assert str(place) not in json.dumps(results[name])
    assert all(row["video"] and "/" not in row["video"] for row in rows)
    fields = SUITES[name].video
    same = [[tuple(a[f] for f in fields) == tuple(b[f] for f in fields) for b in docs] for a in docs]
    assert [[a["video"] == b["video"] for b in rows] for a in rows] == same, "one id for one video"
    assert any(sum(line) > 1 for line in same), "the stand-in has no shared video"
    rights = {
        "longvideobench_val_v": lambda doc: "AB"[doc["correct_choice"]],
        "tomato": lambda doc: "ABC"[doc["answer"]],
    }
    target = {"vsibench": "ground_truth", "lsdbench": "correct_answer", "videoevalpro": "answer_text"}.get(
        name, "answer"
    )
    assert [row["answer"] for row in rows] == [rights.get(name, lambda doc: doc[target])(doc) for doc in docs]


def right(doc: dict[str, Any]) -> str:
    """What is right for a question, by the data sets' cards."""
    if "correct_choice" in doc or "reason_type" in doc:
        return "ABCDE"[doc["correct_choice"] if "correct_choice" in doc else doc["answer"]]
    names = ("ground_truth", "correct_answer", "answer_text", "answer")
    return next(doc[name] for name in names if name in doc)


def test_the_parts_are_kept(results: dict) -> None:
    parts = results["vsibench"]["scores"]["parts"]
    assert parts["route_planning_accuracy"] == {"score": 1.0, "questions": 1}
    assert len(parts) == 8
    lengths = {"60", "300", "60_QA", "300_QA", "300_OCR", "60_temporal", "300_temporal"}
    assert set(results["timescope"]["scores"]["parts"]) == lengths
    assert {"15", "60", "600", "S2E", "E2O"} <= set(results["longvideobench_val_v"]["scores"]["parts"])
    assert {"direction", "count", "human", "object"} == set(results["tomato"]["scores"]["parts"])
    assert results["lsdbench"]["scores"]["parts"] == {}


@pytest.mark.parametrize("name", ["vsibench", "mlvu_test"])
def test_the_first_questions_only(place: Path, checkpoint: Path, tmp_path: Path, name: str) -> None:
    suite = suite_settings(name, limit=2, **SAMPLING)
    scores = evaluate(load(checkpoint, device="cpu"), {}, suite, tmp_path)["scores"]
    assert (scores["questions"], sum(scores["shares"].values())) == (2, 1)
    assert "no answer of" in " ".join(scores["notes"])
    assert "lmms-eval" in scores["notes"][-1]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_lmms_evals_command_gives_the_same(results: dict, place: Path, checkpoint: Path) -> None:
    typed = [
        "--model",
        "videonsa",
        "--model_args",
        f"pretrained={checkpoint},max_frames=2,tokens_per_frame=1,device=cpu",
    ]
    for name in NAMES:
        write_task(name, place / "tasks", more=SHORT)
    tasks = ",".join(f"{name}_local" for name in NAMES)
    typed += ["--include_path", str(place / "tasks"), "--tasks", tasks, "--output_path", str(place / "out")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lmms_eval", *typed]
    done = subprocess.run(command, capture_output=True, text=True, cwd=place, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    theirs = json.loads(next((place / "out").rglob("*_results.json")).read_text())["results"]
    figures = {
        name: SUITES[name].aggregate.figure(theirs[f"{name}_local"][f"{SUITES[name].metric},none"]) for name in NAMES
    }
    assert figures == pytest.approx({name: results[name]["scores"]["accuracy"] for name in NAMES}, abs=1e-5)
