"""Per-question scores out of what lmms-eval's tasks return, and their summary."""

from __future__ import annotations

from evals.aggregates import MLVU, SYNTHETIC
from evals.scores import guessing, summarize_costs, summarize_scores
from videonsa.config import NSASettings


def test_guessing_counts_the_options() -> None:
    assert guessing([{"options": ["a", "b"]}, {"options": {"A": 1, "B": 2, "C": 3, "D": 4}}]) == 0.375
    assert guessing([{"option0": "a", "option1": "b", "option2": "N/A", "option3": "N/A"}]) == 0.5
    assert guessing([{"options": ["a", "b"]}, {"question": "how far?"}]) is None
    assert guessing([]) is None


def rows(*scores: float | None, kind: str | None = None) -> list[dict]:
    return [{"doc_id": number, "kind": kind, "score": score} for number, score in enumerate(scores)]


def test_errors_are_counted_beside_the_accuracy() -> None:
    summary = summarize_scores(rows(1.0, 0.0, None, 1.0), SYNTHETIC, {"first": [0, 2], "last": [2]})
    assert summary == {
        "accuracy": 2 / 3,
        "shares": None,
        "parts": {"first": {"score": 1.0, "questions": 1}, "last": {"score": None, "questions": 0}},
        "correct": 2,
        "questions": 4,
        "answered": 3,
        "errors": 1,
    }


def test_without_an_answer_there_is_no_accuracy() -> None:
    assert summarize_scores(rows(None, None), SYNTHETIC, {})["accuracy"] is None
    assert summarize_scores(rows(None, kind="count"), MLVU, {})["shares"] is None


def test_costs() -> None:
    names = ("prefill_ms", "latency_ms", "peak_memory_mib", "prefill_tokens", "vision_tokens")
    names += ("tower_ms", "decoder_ms", "decode_ms", "read_ms", "frames_decoded", "frames_skipped")
    numbers = ((1, 4, 10, 80, 65), (2, 6, 30, 90, 65), (9, 5, 20, 82, 65))
    table = [dict(zip(names, (*values, *range(6)), strict=True)) for values in numbers]
    table.append(dict.fromkeys(names))
    assert summarize_costs(table, NSASettings(block_size=4, block_count=4, window=4)) == {
        "prefill_ms_p50": 2,
        "tower_ms_p50": 0,
        "decoder_ms_p50": 1,
        "decode_ms_p50": 2,
        "latency_ms_p50": 5,
        "peak_memory_mib": 30,
        "prefill_tokens_mean": 84,
        "vision_tokens_mean": 65,
        "attention_fraction": 2 * 20 / 64,
        "read_ms_p50": 3,
        "frames_decoded_mean": 4,
        "frames_skipped_mean": 5,
    }
