"""From lmms-eval's per-question metric values to numbers between 0 and 1. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import mean, median
from typing import Any

from videonsa.config import NSASettings

MOST_OPTIONS = 26
FRACTIONS = ("score", "accuracy", "MRA:.5:.95:.05")  # TOMATO; VSI-Bench's choices and numbers
VERDICTS = ("correct", "judge_result")  # VideoEval-Pro
PREDICTIONS = ("pred_answer", "parsed_pred")  # beside "answer": MLVU, TimeScope, LSDBench; LongVideoBench


def question_score(value: Any) -> float | None:
    """A question's score in [0, 1], of what the task's process_results gave for its metric; None: not recognised.

    Many shipped tasks hand their aggregation a dictionary; the keys differ from task to task.
    """
    if isinstance(value, Mapping):
        for name in FRACTIONS:
            if isinstance(value.get(name), int | float):
                return question_score(value[name])
        for name in VERDICTS:
            if name in value:
                return float(value[name] is True)
        for name in PREDICTIONS:
            if name in value and "answer" in value:
                return float(str(value[name]).strip().lower() == str(value["answer"]).strip().lower())
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def guessing(docs: Iterable[Mapping[str, Any]]) -> float | None:
    """Accuracy of guessing among the options that stand in the documents; None when one of them has none.

    Options are a list or a mapping `options`, or `option0`, `option1`, ..., some of them N/A (LongVideoBench).
    """
    shares = []
    for doc in docs:
        options = doc.get("options")
        if options is None:
            numbered = [doc.get(f"option{place}") for place in range(MOST_OPTIONS)]
            options = [option for option in numbered if option not in (None, "N/A")]
        if not options:
            return None
        shares.append(1 / len(options))
    return mean(shares) if shares else None


def summarize_scores(questions: list[dict[str, Any]], metric: str, chance: float | None) -> dict[str, Any]:
    """`scores` of a record: accuracy is the mean score of the questions that were answered; errors count beside it.

    An error is no wrong answer: it says nothing of the model. With no answered question accuracy is None.
    """
    scores = [row["score"] for row in questions if row["score"] is not None]
    correct = sum(scores)
    return {
        "metric": metric,
        "accuracy": correct / len(scores) if scores else None,
        "correct": int(correct) if correct == int(correct) else correct,
        "questions": len(questions),
        "answered": len(scores),
        "errors": len(questions) - len(scores),
        "chance": chance,
    }


def summarize_costs(questions: list[dict[str, Any]], nsa: NSASettings) -> dict[str, float | None]:
    """`summary` of a record: medians of times, the peak of memory, means of tokens and of the attention fraction."""

    def values(name: str) -> list[float]:
        return [row[name] for row in questions if row[name] is not None]

    def of(statistic: Any, name: str) -> float | None:
        return round(statistic(values(name)), 3) if values(name) else None

    fractions = [nsa.attention_fraction(int(tokens)) for tokens in values("vision_tokens")]
    return {
        "prefill_ms_p50": of(median, "prefill_ms"),
        "latency_ms_p50": of(median, "latency_ms"),
        "peak_memory_mib": of(max, "peak_memory_mib"),
        "prefill_tokens_mean": of(mean, "prefill_tokens"),
        "vision_tokens_mean": of(mean, "vision_tokens"),
        "attention_fraction": mean(fractions) if fractions else None,
    }
