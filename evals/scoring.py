"""lmms-eval scores the answers; this keeps apart what failed, and makes rows and scores of a record of it."""

from __future__ import annotations

import functools
import inspect
import json
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from threading import Lock
from typing import Any
from unittest.mock import patch

from evals import judge
from evals.scores import guessing, summarize_scores
from evals.suites import OPTIONS, Suite

FOLDERS = re.compile(r"(?<![\w.:/])/(?:[^\s/:'\"]+/)+")  # of a file's path: records are shared between people
ERROR = "videonsa_error"  # beside a question's metrics: why it has no score
_DRAWING = Lock()  # lmms-eval scores in threads
SAME = 1e-4  # lmms-eval rounds some figures to 5 digits
ROW = (
    *("doc_id", "video", "kind", "parts", "prompt_hash", "answer", "prediction", "score", "latency_ms", "prefill_ms"),
    *("tower_ms", "decoder_ms", "decode_ms", "prefill_tokens", "vision_tokens", "peak_memory_mib", "spent", "error"),
    *("read_ms", "frames_decoded", "frames_skipped"),
)


def one_line(error: BaseException) -> str:
    """An exception as a row's `error`: its first line, without folders."""
    return FOLDERS.sub("", f"{type(error).__name__}: {error}".splitlines()[0])[:300]


def draw_by_question(task: Any) -> None:
    """Let a task that draws at random while it scores draw from a generator seeded by the question's content.

    LongVideoBench gives an answer without a letter a random one: now the same in any order, after any interruption, for
    any model, by lmms-eval's command and by ours.
    """
    process: Any = getattr(getattr(task, "config", None), "process_results", None)
    if getattr(process, "__globals__", {}).get("random") is not random or hasattr(process, "by_question"):
        return

    @functools.wraps(process)
    def seeded(doc: Any, results: Any, **more: Any) -> Any:
        with _DRAWING:
            before = random.getstate()
            random.seed(json.dumps(doc, sort_keys=True, default=lambda value: type(value).__name__))
            try:
                return process(doc, results, **more)
            finally:
                random.setstate(before)

    seeded.by_question = True  # type: ignore[attr-defined]
    task.config.process_results = seeded


@contextmanager
def kept_apart(suite: Suite, task: Any) -> Iterator[None]:
    """While lmms-eval evaluates the task, a question that cannot be scored, or judged, costs that question alone.

    lmms-eval would try it five times and then give up all questions. Its aggregations are left for `figure`.
    """
    once = inspect.unwrap(type(task).process_results)

    def process(doc: Any, results: Any, **more: Any) -> dict[str, Any]:
        with judge.listening() as failures:
            try:
                values = once(task, doc, results, **more)
            except judge.JudgeSilent:
                raise
            except Exception as error:
                return {ERROR: one_line(error)}
        return {**values, ERROR: failures[0] if failures else None}

    hearing = judge.heard() if suite.judged else nullcontext()
    with patch.object(task, "process_results", process), patch.object(task, "aggregation", dict), hearing:
        yield


def rows(suite: Suite, asked: dict[int, dict[str, Any]], samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The record's questions, in order, of the answers and lmms-eval's samples."""
    made = [_row(suite, asked[sample["doc_id"]], sample) for sample in samples]
    return sorted(made, key=lambda row: row["doc_id"])


def _row(suite: Suite, row: dict[str, Any], sample: dict[str, Any]) -> dict[str, Any]:
    doc, value = sample["doc"], sample.get(suite.metric)
    error = row["error"] or sample[ERROR]
    score = None if error else suite.aggregate.question_score(value)
    if score is None and error is None:
        error = FOLDERS.sub("", f"no score in the task's {suite.metric}: {value}")[:300]
    answer = suite.right_answer(doc, sample["target"])
    full = {**row, "video": suite.video_id(doc), "kind": suite.aggregate.kind_of(doc), "answer": answer}
    full["parts"] = suite.aggregate.parts_of(doc)
    full |= {"score": score, "error": error}
    return {name: full[name] for name in ROW}


def scores(suite: Suite, task: Any, questions: list[dict[str, Any]], samples: list[dict[str, Any]]) -> dict[str, Any]:
    """`scores` of a record: our aggregate, its parts, lmms-eval's figure beside it, and what is to be known of them."""
    parts: dict[str, list[int]] = {}
    for sample in samples:
        for name in suite.aggregate.parts_of(sample["doc"]):
            parts.setdefault(name, []).append(sample["doc_id"])
    summary = summarize_scores(questions, suite.aggregate, parts)
    chance = guessing(sample["doc"] for sample in samples) if suite.chance == OPTIONS else suite.chance
    theirs, failed = figure(suite, task, samples)
    missing = _missing(suite, questions, task)
    notes = [
        *suite.notes,
        *(judge.notes() if suite.judged else []),
        *missing,
        *_differs(summary, theirs, failed, bool(missing)),
    ]
    return {"metric": suite.metric, **summary, "chance": chance, "lmms_eval": theirs, "notes": notes}


def figure(suite: Suite, task: Any, samples: list[dict[str, Any]]) -> tuple[float | None, str]:
    """What lmms-eval's own aggregation makes of all questions, errors as it counts them, 0 to 1; or why it cannot."""
    values = [sample[suite.metric] for sample in samples if suite.metric in sample]
    if len(values) < len(samples):
        return None, "some questions cannot be scored"
    try:
        return float(suite.aggregate.figure(task.aggregation()[suite.metric](values))), ""
    except Exception as error:
        return None, one_line(error)


def _missing(suite: Suite, questions: list[dict[str, Any]], task: Any) -> list[str]:
    """Kinds without an answer, where the figure is a mean over kinds."""
    aggregate = suite.aggregate
    if aggregate.mean_over is None:
        return []
    kinds = {str(aggregate.kind_of(doc)) for doc in task.eval_docs_no_media}
    whole = kinds | set(aggregate.kinds) if kinds <= set(aggregate.kinds) else kinds
    absent = sorted(whole - {row["kind"] for row in questions if row["score"] is not None})
    return [f"no answer of {', '.join(absent)}: the mean is over the other kinds"] if absent else []


def _differs(summary: dict[str, Any], theirs: float | None, failed: str, missing: bool) -> list[str]:
    """Whether lmms-eval says another number, and why."""
    if failed:
        return [f"lmms-eval gives no figure for these questions ({failed})"]
    if theirs is None or summary["accuracy"] is None or abs(theirs - summary["accuracy"]) < SAME:
        return []
    why = "this task aggregates otherwise than the benchmark"
    if missing:
        why = "it counts kinds without an answer as 0"
    if summary["errors"]:
        why = f"it counts {summary['errors']} errors as answers"
    return [f"lmms-eval's figure is {100 * theirs:.2f} %: {why}"]
