"""Per-question scores out of what lmms-eval's tasks return, and their summary."""

from __future__ import annotations

import pytest

from evals.scores import guessing, question_score, summarize_costs, summarize_scores
from videonsa.config import NSASettings


@pytest.mark.parametrize(
    ("value", "score"),
    [
        pytest.param(1.0, 1.0, id="exact_match"),
        pytest.param({"question_id": 3, "score": 0.0}, 0.0, id="tomato"),
        pytest.param({"pred_answer": "B", "answer": "b", "task_type": "QA"}, 1.0, id="timescope"),
        pytest.param({"pred_answer": "", "answer": "A"}, 0.0, id="mlvu"),
        pytest.param({"parsed_pred": "C", "answer": "C", "id": "x"}, 1.0, id="longvideobench"),
        pytest.param({"question_type": "count", "MRA:.5:.95:.05": 0.4}, 0.4, id="vsibench-number"),
        pytest.param({"question_type": "route", "accuracy": 1.0}, 1.0, id="vsibench-choice"),
        pytest.param({"judge_result": True, "task_type": "x"}, 1.0, id="videoevalpro"),
        pytest.param({"judge_result": None}, 0.0, id="videoevalpro-no-verdict"),
        pytest.param({"something": "else"}, None, id="unknown"),
        pytest.param(float("nan"), None, id="nan"),
    ],
)
def test_question_score(value: object, score: float | None) -> None:
    assert question_score(value) == score


def test_guessing_counts_the_options() -> None:
    assert guessing([{"options": ["a", "b"]}, {"options": {"A": 1, "B": 2, "C": 3, "D": 4}}]) == 0.375
    assert guessing([{"option0": "a", "option1": "b", "option2": "N/A", "option3": "N/A"}]) == 0.5
    assert guessing([{"options": ["a", "b"]}, {"question": "how far?"}]) is None
    assert guessing([]) is None


def rows(*scores: float | None) -> list[dict]:
    return [{"score": score} for score in scores]


def test_errors_are_counted_beside_the_accuracy() -> None:
    summary = summarize_scores(rows(1.0, 0.0, None, 1.0), "exact_match", 0.25)
    assert summary == {
        "metric": "exact_match",
        "accuracy": 2 / 3,
        "correct": 2,
        "questions": 4,
        "answered": 3,
        "errors": 1,
        "chance": 0.25,
    }


def test_without_an_answer_there_is_no_accuracy() -> None:
    assert summarize_scores(rows(None, None), "exact_match", None)["accuracy"] is None


def test_costs() -> None:
    names = ("prefill_ms", "latency_ms", "peak_memory_mib", "prefill_tokens", "vision_tokens")
    table = [
        dict(zip(names, values, strict=True)) for values in ((1, 4, 10, 80, 65), (2, 6, 30, 90, 65), (9, 5, 20, 82, 65))
    ]
    table.append(dict.fromkeys(names))
    assert summarize_costs(table, NSASettings(block_size=4, block_count=4, window=4)) == {
        "prefill_ms_p50": 2,
        "latency_ms_p50": 5,
        "peak_memory_mib": 30,
        "prefill_tokens_mean": 84,
        "vision_tokens_mean": 65,
        "attention_fraction": 2 * 20 / 64,
    }
