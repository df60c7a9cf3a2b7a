"""Benchmarks that a language model judges: a server on this machine, the real openai client, no five-minute waits."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from evals import judge, task
from evals.answers import Answers
from evals.checkpoint import Checkpoint, load
from evals.run import NothingAnswered, evaluate
from evals.suites import suite_settings
from evals.task import load_task
from tests.evals.judge_server import serving
from tests.evals.standins import write_task, write_videos
from videonsa.config import SettingsError

SUITE = suite_settings(
    "videoevalpro", task="videoevalpro_local", frames=2, fps=None, tokens_per_frame=1, max_new_tokens=1
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judged")
    write_videos(folder / "hub", "videoevalpro")
    write_task("videoevalpro", folder / "tasks")
    return folder


@pytest.fixture(scope="module")
def checkpoint(says: Callable[..., Path]) -> Checkpoint:
    return load(says("A"), device="cpu")


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_API_URL", "API_TYPE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(place / "hub"))
    monkeypatch.setenv("VIDEONSA_TASKS", str(place / "tasks"))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between a judge's ten attempts


@pytest.fixture
def ask(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Evaluate in a folder, judged by a rule; how many questions the model was asked stands beside the result."""

    def evaluated(folder: Path, verdict: Callable[[str], str | None]) -> tuple[dict, int]:
        task._other_task.cache_clear()  # lmms-eval's judge remembers its address
        steps: list[int] = []
        with serving(verdict) as variables, monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            result = evaluate(checkpoint, {}, SUITE, folder, lambda done, total: steps.append(done))
        return result, steps[-1] - steps[0]

    return evaluated


def test_without_a_key_no_question_is_asked(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"suite videoevalpro: .*judged by a language model: set OPENAI_API_KEY"):
        evaluate(checkpoint, {}, SUITE, tmp_path / "cell")
    assert not (tmp_path / "cell").exists()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"API_TYPE": "azure", "AZURE_API_KEY": "k"}, "set AZURE_ENDPOINT"),
        ({"API_TYPE": "oracle"}, "API_TYPE='oracle' names no judge: set it to one of openai, azure"),
    ],
)
def test_other_judges(variables: dict, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=message):
        load_task(SUITE)


def test_a_judges_failure_is_an_error_and_no_verdict(ask: Callable, tmp_path: Path) -> None:
    result, asked = ask(tmp_path, lambda prompt: None if "What is it, 0?" in prompt else "A")
    rows, scores = result["questions"], result["scores"]
    assert asked == 5
    assert rows[0]["score"] is None
    assert rows[0]["prediction"] == "A"
    assert "the judge failed" in rows[0]["error"]
    assert (scores["accuracy"], scores["errors"], scores["lmms_eval"]) == (1.0, 1, 0.8)
    assert "lmms-eval's figure is 80.00 %: it counts 1 errors as answers" in scores["notes"]
    assert any("may be another model" in note for note in scores["notes"])


@pytest.mark.parametrize("said", ["", "Apologies, I cannot say.", "CORRECT"])
def test_what_is_no_verdict_is_an_error(ask: Callable, tmp_path: Path, said: str) -> None:
    """lmms-eval goes by the first letter: it takes these for wrong, right and not attempted."""
    verdicts = {"0?": said, "1?": "B: INCORRECT", "2?": " c", "3?": "NOT_ATTEMPTED"}
    result, _ = ask(
        tmp_path, lambda prompt: next((v for k, v in verdicts.items() if f"What is it, {k}" in prompt), "A")
    )
    assert [row["score"] for row in result["questions"]] == [None, 0.0, 0.0, 0.0, 1.0]
    assert result["questions"][0]["error"] == f"the judge failed: {said!r} is no verdict A, B or C"


def test_after_an_outage_answers_are_only_judged_again(
    ask: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NothingAnswered, match="the judge failed"):
        ask(tmp_path, lambda prompt: None)
    with monkeypatch.context() as patch:
        patch.setattr(judge, "PATIENCE", 5)  # all that are asked: several ask at once, and one alone can be the last
        with pytest.raises(judge.JudgeSilent, match=r"the judge failed 5 times in a row .*run again"):
            ask(tmp_path, lambda prompt: None)
    result, asked = ask(tmp_path, lambda prompt: "B" if "What is it, 0?" in prompt else "A")
    assert (asked, result["scores"]["accuracy"], result["scores"]["errors"]) == (0, 0.8, 0)
    assert len(Answers(tmp_path).rows) == 5


def test_a_corrected_answer_is_judged_anew(ask: Callable, place: Path, tmp_path: Path) -> None:
    docs = place / "tasks" / "videoevalpro_local.jsonl"
    before = docs.read_text()
    ask(tmp_path, lambda prompt: "A")
    try:
        rows = [json.loads(line) for line in before.splitlines()]
        docs.write_text("".join(json.dumps({**row, "answer_text": "corrected"}) + "\n" for row in rows))
        result, asked = ask(tmp_path, lambda prompt: "A" if "Goldtarget:corrected" in prompt else "B")
    finally:
        docs.write_text(before)
    assert asked == 0
    assert [row["answer"] for row in result["questions"]] == ["corrected"] * 5
    assert result["scores"]["accuracy"] == 1.0
