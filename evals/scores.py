"""The scores of a record: the benchmark's number, its parts, what guessing reaches, what it took. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import mean, median
from typing import Any

from evals.aggregates import Aggregate
from videonsa.config import NSASettings

MOST_OPTIONS = 26


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


def summarize_scores(
    questions: list[dict[str, Any]], aggregate: Aggregate, parts: Mapping[str, Collection[Any]]
) -> dict[str, Any]:
    """What follows from the rows alone; accuracy is the benchmark's own aggregate over the answered questions.

    An error is no wrong answer: it says nothing of the model. With no answered question accuracy is None.

    Args:
        questions: rows with `doc_id`, `kind` and `score`.
        parts: of each sub-score the doc_ids that enter it.
    """
    scored = {row["doc_id"]: (row["kind"], row["score"]) for row in questions if row["score"] is not None}
    correct = sum(score for _, score in scored.values())
    kinds = {kind for kind, _ in scored.values()}
    answered = {name: [scored[doc] for doc in docs if doc in scored] for name, docs in parts.items()}
    return {
        "accuracy": aggregate.mean(scored.values()),
        "shares": aggregate.shares(kinds) if kinds and None not in kinds else None,
        "parts": {name: {"score": aggregate.mean(rows), "questions": len(rows)} for name, rows in answered.items()},
        "correct": int(correct) if correct == int(correct) else correct,
        "questions": len(questions),
        "answered": len(scored),
        "errors": len(questions) - len(scored),
    }


def summarize_costs(questions: list[dict[str, Any]], nsa: NSASettings | None) -> dict[str, Any]:
    """`summary` of a record: medians of times, the peak of memory, means of tokens and of the attention fraction.

    nsa: the attention that was asked; None of another method, whose attention fraction is the density that it reports.
    """

    def values(name: str) -> list[float]:
        return [row[name] for row in questions if row[name] is not None]

    def of(statistic: Any, name: str) -> float | None:
        return round(statistic(values(name)), 3) if values(name) else None

    spending = summarize_spending([row["spent"] for row in questions if row.get("spent")])
    fractions = [spending["density"]] if nsa is None and spending else []
    if nsa is not None:
        fractions = [nsa.attention_fraction(int(tokens)) for tokens in values("vision_tokens") if tokens]
    return {
        "prefill_ms_p50": of(median, "prefill_ms"),
        **{f"{part}_p50": of(median, part) for part in ("tower_ms", "decoder_ms", "decode_ms", "latency_ms")},
        "peak_memory_mib": of(max, "peak_memory_mib"),
        "prefill_tokens_mean": of(mean, "prefill_tokens"),
        "vision_tokens_mean": of(mean, "vision_tokens"),
        "attention_fraction": mean(fractions) if fractions else None,
        "read_ms_p50": of(median, "read_ms"),
        "frames_decoded_mean": of(mean, "frames_decoded"),
        "frames_skipped_mean": of(mean, "frames_skipped"),
        **spending,
    }


def summarize_spending(spent: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the prefills computed: means by layer, medians of times; empty where nothing is known."""
    if not spent:
        return {}
    by_layer = {
        f"{name}_by_layer": [round(mean(layer), 6) for layer in zip(*(each[name] for each in spent), strict=True)]
        for name in ("density", "block_means", "tokens")
    }
    chosen = [each["choice_ms"] for each in spent if each["choice_ms"] is not None]
    return {
        "density": round(mean(by_layer["density_by_layer"]), 6),
        "block_means": round(mean(by_layer["block_means_by_layer"]), 6),
        **by_layer,
        "choice_ms_p50": round(median(chosen), 3) if chosen else None,
        "attention_ms_p50": round(median(each["attention_ms"] for each in spent), 3),
    }
