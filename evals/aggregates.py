"""What a benchmark's number is: how its questions' scores become one figure, and its parts. Imports no torch.

Each `Aggregate` says in our words what lmms-eval's own aggregation of the task computes; tests/evals/test_aggregates.py
holds the two together. Ours leaves out what has no score (errors, kinds without an answer); lmms-eval's does not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

Doc = Mapping[str, Any]


@dataclass(frozen=True)
class Aggregate:
    """How one benchmark counts. A document is a question as the data set has it."""

    score: Callable[[Any], Any] = float  # of one question, 0 to 1, from what the task's process_results gives
    kind: Callable[[Doc], Any] = lambda doc: None  # the part in which a question counts
    parts: Callable[[Doc], Iterable[Any]] | None = None  # sub-scores that a question enters; None: its kind
    mean_over: Callable[[str], str] | None = None  # kind -> its task: mean over tasks of means over kinds; None: plain
    kinds: tuple[str, ...] = ()  # the whole benchmark's, where the mean goes over them
    figure: Callable[[Any], Any] = float  # lmms-eval's aggregated value, 0 to 1

    def question_score(self, value: Any) -> float | None:
        """A question's score, of what the task gave for its metric; None: it is not of the form that we know."""
        try:
            number = float(self.score(value))
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        return number if math.isfinite(number) else None

    def kind_of(self, doc: Doc) -> str | None:
        """The kind of a question, as text; None where the benchmark has none, or the document does not say."""
        return _text(self.kind, doc)

    def parts_of(self, doc: Doc) -> list[str]:
        """The sub-scores that a question enters, by lmms-eval's names."""
        try:
            names = [self.kind_of(doc)] if self.parts is None else list(self.parts(doc))
        except (KeyError, TypeError):
            return []
        return [str(name) for name in names if name is not None]

    def shares(self, kinds: Collection[str]) -> dict[str, float] | None:
        """What each kind weighs, in sum 1, among those that have an answer; None: each question weighs the same."""
        if self.mean_over is None:
            return None
        tasks = Counter(map(self.mean_over, kinds))
        return {kind: 1 / len(tasks) / tasks[self.mean_over(kind)] for kind in sorted(kinds)}

    def mean(self, scored: Iterable[tuple[str | None, float]]) -> float | None:
        """The benchmark's figure over (kind, score) of answered questions; None without any."""
        kinds: dict[str | None, list[float]] = {}
        for kind, score in scored:
            kinds.setdefault(kind, []).append(score)
        if not kinds:
            return None
        if self.mean_over is None or None in kinds:
            return fmean(score for scores in kinds.values() for score in scores)
        tasks: dict[str, list[float]] = {}
        for kind, scores in kinds.items():
            tasks.setdefault(self.mean_over(str(kind)), []).append(fmean(scores))
        return fmean(fmean(means) for means in tasks.values())


def _text(field: Callable[[Doc], Any], doc: Doc) -> str | None:
    try:
        value = field(doc)
    except (KeyError, TypeError):
        return None
    return None if value is None else str(value).strip()


def field(name: str) -> Callable[[Doc], Any]:
    """The document's field of this name."""
    return lambda doc: doc[name]


def equal(prediction: str, answer: str = "answer") -> Callable[[Any], bool]:
    """Right when two fields of the task's result are the same."""
    return lambda value: value[prediction] == value[answer]


def percent(value: float) -> float:
    """lmms-eval counts in percent here."""
    return value / 100


# exact_match; the kinds are those of videonsa/synth
SYNTHETIC = Aggregate(kind=field("kind"))

# Plain means over questions. LongVideoBench's rounds to 5 digits; it counts each question twice, in both its groups.
LONGVIDEOBENCH = Aggregate(
    equal("parsed_pred"),
    kind=field("question_category"),
    parts=lambda doc: (doc["duration_group"], doc["question_category"]),
)
TIMESCOPE = Aggregate(
    lambda value: value["pred_answer"].lower() == value["answer"].lower(),
    kind=lambda doc: f"{doc['length']}_{doc['type']}",
    parts=lambda doc: (doc["length"], f"{doc['length']}_{doc['type']}"),
    figure=percent,
)
TOMATO = Aggregate(
    field("score"), kind=field("reason_type"), parts=lambda doc: (doc["reason_type"], doc["demonstration_type"])
)
LSDBENCH = Aggregate(equal("pred_answer"), figure=percent)
VIDEOEVALPRO = Aggregate(
    lambda value: value["judge_result"] is True, kind=field("qa_type"), figure=lambda value: value["overall"]
)

# Means over kinds. MLVU's task types count the same; lmms-eval counts one without a question as 0.
MLVU = Aggregate(
    equal("pred_answer"),
    kind=field("task_type"),
    mean_over=str,
    kinds=(
        *("anomaly_reco", "count", "ego", "needleQA", "order", "plotQA", "sportsQA", "topic_reasoning", "tutorialQA"),
    ),
    figure=percent,
)

# VSI-Bench: mean over eight tasks, of which relative direction is the mean of three difficulties. Choices are right or
# wrong; numbers get their mean relative accuracy: the share of thresholds 0.5, 0.55, ..., 0.95 that they meet.
DIRECTION = "object_rel_direction"
CHOICES = (*(f"{DIRECTION}_{hard}" for hard in ("easy", "medium", "hard")),)
CHOICES += ("object_rel_distance", "route_planning", "obj_appearance_order")
NUMBERS = ("object_abs_distance", "object_counting", "object_size_estimation", "room_size_estimation")


def _vsibench_task(kind: str) -> str:
    return DIRECTION if kind.startswith(DIRECTION) else kind


def _vsibench_score(value: Any) -> float:
    return value["MRA:.5:.95:.05" if value["question_type"] in NUMBERS else "accuracy"]


def _vsibench_part(doc: Doc) -> tuple[str]:
    kind = doc["question_type"]
    return (f"{_vsibench_task(kind)}_{'mra' if kind in NUMBERS else 'accuracy'}",)


VSIBENCH = Aggregate(
    _vsibench_score,
    kind=field("question_type"),
    parts=_vsibench_part,
    mean_over=_vsibench_task,
    kinds=CHOICES + NUMBERS,
)
