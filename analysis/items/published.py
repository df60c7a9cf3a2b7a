"""The published numbers of an item: what each was asked, and what to know of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pandas as pd

from analysis.items import catalog
from analysis.paper import FAILED, load_reference
from analysis.paper.questions import FIELDS, METHODS, Question, load_settings, plain, published_question
from analysis.rows import each

WHOLE = ("accuracy", "overall")  # metrics that are a benchmark's own number
Sampling = Mapping[tuple[str, str | None], Mapping[str, Any]]


@dataclass(frozen=True)
class Number:
    """One number of the paper."""

    row: Any  # of reference.csv
    question: Question | None  # what ours beside it is asked; None: nothing of ours is
    method: Mapping[str, Any] = field(default_factory=dict)  # settings of a method other than NSA
    marks: tuple[str, ...] = ()  # what to know of it, a line each

    @property
    def text(self) -> str:
        """As it is published; a failed run is no number."""
        return "0.0, failed" if self.row.note == FAILED else str(self.row.value)


def numbers(tables: Sequence[int]) -> list[Number]:
    """Those of these tables, in the order of the file."""
    reference = _reference()
    return [_number(row) for row in each(reference[reference["table"].isin(tables)])]


def key(question: Question) -> tuple[Any, ...]:
    """Equal for the same question."""
    return tuple(question.get(name) for name in FIELDS)


def question_of(row: Any, sampling: Sampling) -> Question | None:
    """What a number was asked; of another method than NSA the question of dense attention under its name."""
    if row.method in METHODS:
        return published_question(row, sampling)
    if row.method not in catalog().methods:
        return None
    dense = published_question(row._replace(method="dense"), sampling)
    return dense and {**dense, "attention": row.method}


@lru_cache
def _reference() -> pd.DataFrame:
    return load_reference()


@lru_cache
def stated() -> Sampling:
    """How the paper samples, where it says so."""
    return load_settings()


@lru_cache
def sampling() -> Sampling:
    """`stated`, and ours for what it leaves open."""
    ours, known = catalog().sampling, stated()
    benchmarks = {name for name, _ in known}
    contexts: Sampling = {
        (benchmark, context): {**known[benchmark, None], **ours[context]}
        for benchmark in benchmarks
        for context in ours
        if context.endswith("k")
    }
    return {**contexts, **{(name, None): values for name, values in ours.items() if not name.endswith("k")}, **known}


def _number(row: Any) -> Number:
    said = [one for one in catalog().contradictions if one.holds(row)]
    ours = {name: value for one in said for name, value in one.ours.items()}
    question = None if any(one.alone for one in said) else question_of(row._replace(**ours), sampling())
    marks = [one.says for one in said] + ([f"{FAILED}: written 0.0"] if row.note == FAILED else [])
    if row.metric in WHOLE and (other := _several(row)):
        marks.append(other)
    if question is not None and (row.benchmark, plain(row.context)) not in stated():
        what = "this context" if plain(row.context) else "this benchmark"
        split = f"{question['frames']:,} frames of {question['tokens_per_frame']} tokens"
        marks.append(f"the paper does not say how it samples {what}: ours has {split}, and may be another question")
    return Number(row, question, catalog().methods.get(row.method, {}), tuple(marks))


def _several(row: Any) -> str:
    """The overall scores that the paper gives for one question, where they are not all the same."""
    question = question_of(row, stated())
    scores = _scores().get(key(question), {}) if question else {}
    if len(scores) < 2:
        return ""
    told = [f"{value} in table{'s' * (len(tables) > 1)} {', '.join(tables)}" for value, tables in scores.items()]
    return f"{row.benchmark}, {row.method}: the paper has {'; '.join(told)}"


@lru_cache
def _scores() -> dict[tuple[Any, ...], dict[float, list[str]]]:
    """Question -> overall score -> tables that have it; only questions that the paper states."""
    found: dict[tuple[Any, ...], dict[float, list[str]]] = {}
    reference = _reference()
    for row in each(reference[reference["metric"].isin(WHOLE) & reference["value"].notna()]):
        if question := question_of(row, stated()):
            found.setdefault(key(question), {}).setdefault(row.value, []).append(str(row.table))
    return found
