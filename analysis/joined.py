"""Foreign results as a row of a sweep's table: paired with ours question by question.

A benchmark of the sweep and a task of lmms-eval's are one where they have the same task name. A question is the same
where its document has the same number, the right answer agrees, and its kind does where the sample tells it. Only
questions that pair count in the row's number, so that it is of the same questions as ours; what does not is counted.
In a sweep of groups (a grid's `within`: context lengths) the row's label ends with the group that it belongs to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import pandas as pd

from analysis.foreign import Foreign, NotForeign, Sample, Task
from analysis.load import Results
from analysis.numbers import number_of, number_of_part
from analysis.rows import CELL_COLUMNS, QUESTION_COLUMNS, each, groups_of, part
from evals.suites import SUITES, Suite
from videonsa.text import line_of

OTHER = 0.1  # share of the common numbers; where more answers differ, the documents are numbered otherwise
OF_OURS = ("doc_id", "answer", "video", "kind", "parts")  # what a row of ours says of its question


class Paired(NamedTuple):
    """A benchmark's foreign questions that are ours, as rows of Results.questions, and what did not pair."""

    questions: pd.DataFrame
    notes: list[str]


def join(results: Results, foreign: Foreign, reference: str | None) -> Results:
    """The results with a row a benchmark more. `reference`: the variant that rows are compared with.

    Raises NotForeign where nothing pairs, or the label is taken.
    """
    cells = results.cells
    if foreign.label in set(cells["label"]):
        raise NotForeign(f"--join: the label {foreign.label!r} is taken; give another one: --join FOLDER=LABEL")
    group, name = _group_of(foreign.label, groups_of(cells))
    there = results if group is None else _within(results, group)
    first = max(foreign.tasks.values(), key=lambda task: task.date)
    notes = [f"{foreign.label}: not asked here, read of lmms-eval's samples in {foreign.source} ({first.about})"]
    rows, questions = [], []
    for suite, task in _suites(there.cells, foreign):
        asked = _asked(there, suite)
        paired = _pair(SUITES[suite], asked, task)
        notes += [f"{foreign.label}, {suite}: {note}" for note in [*paired.notes, *task.notes, *_more(task, first)]]
        if len(paired.questions):
            row = _row(foreign, suite, task, paired.questions, _alike(there.cells, suite, reference))
            rows.append(row | {"group": group, "name": name})
            questions.append(paired.questions.assign(cell=row["id"], label=foreign.label, suite=suite))
    if not rows:
        raise NotForeign(_why_nothing(cells, foreign, notes[1:]))
    joined = pd.DataFrame(rows, columns=CELL_COLUMNS)
    return dataclasses.replace(
        results,
        cells=pd.concat([cells.astype(object), joined.astype(object)], ignore_index=True).infer_objects(),
        questions=pd.concat([results.questions, *questions], ignore_index=True),
        problems=(*notes, *results.problems),
    )


def _group_of(label: str, groups: Sequence[Any]) -> tuple[str | None, str]:
    """(the group of a sweep of groups that a label ends with, the label without it)."""
    if groups == [None]:
        return None, label
    for group in groups:
        if label.endswith(f" {group}"):
            return str(group), label.removesuffix(f" {group}")
    known = ", ".join(map(str, groups))
    raise NotForeign(f"--join: label {label!r} does not say where it was asked: let LABEL end with one of {known}")


def _within(results: Results, group: str) -> Results:
    """Of one group alone."""
    cells = results.cells[results.cells["group"] == group]
    return dataclasses.replace(
        results, cells=cells, questions=results.questions[results.questions["cell"].isin(cells["id"])]
    )


def _suites(cells: pd.DataFrame, foreign: Foreign) -> Iterator[tuple[str, Task]]:
    """The sweep's benchmarks whose task lmms-eval was asked."""
    for suite, group in cells.groupby("suite", sort=False):
        task = next((name for name in [*group["task"].dropna(), str(suite)] if name in foreign.tasks), None)
        if task is not None and suite in SUITES:
            yield str(suite), foreign.tasks[task]


def _asked(results: Results, suite: str) -> pd.DataFrame:
    """What we know of this benchmark's questions, one row each."""
    asked = results.questions[results.questions["suite"] == suite]
    return asked.drop_duplicates("doc_id")[list(OF_OURS)].set_index("doc_id", drop=False)


def _pair(suite: Suite, asked: pd.DataFrame, task: Task) -> Paired:
    if not len(asked):
        return Paired(pd.DataFrame(columns=QUESTION_COLUMNS), ["nothing of ours has finished: not joined"])
    common = [(task.samples[row.doc_id], row) for row in each(asked) if row.doc_id in task.samples]
    told = _tells_answers(common)
    same = [(sample, row) for sample, row in common if _agree(suite, sample, row, told)]
    other, alone = len(common) - len(same), len(task.samples) - len(common)
    if other > OTHER * len(common):
        what = (
            f"{other} of {len(common)} have another answer or kind, so their numbers mean other questions: not joined"
        )
        return Paired(pd.DataFrame(columns=QUESTION_COLUMNS), [what])
    rows = [_question(suite, sample, row) for sample, row in same]
    scored = [row for row in rows if row["score"] is not None and 0 <= row["score"] <= 1]
    parts = [f"{len(scored)} of our {len(asked)} questions paired"]
    parts += [f"{alone} of theirs we did not ask"] if alone else []
    parts += [f"{other} with another answer or kind left out"] if other else []
    lacking = len(rows) - len(scored)
    parts += [f"{lacking} without a score of {suite.metric} from 0 to 1"] if lacking else []
    parts += [] if told else ["their samples do not tell the right answer: paired by number and kind alone"]
    return Paired(pd.DataFrame(scored, columns=QUESTION_COLUMNS), ["; ".join(parts)])


def _tells_answers(common: list[tuple[Sample, Any]]) -> bool:
    """Whether targets say what is right: TOMATO's are the name of a function, the same for each."""
    targets, answers = {str(sample["target"]) for sample, _ in common}, {str(row.answer) for _, row in common}
    (target, *others) = sorted(targets) or [""]
    return bool(others) or len(answers) < 2 or any(_same_answer(target, answer) for answer in answers)


def _agree(suite: Suite, sample: Sample, ours: Any, told: bool) -> bool:
    """Whether it is our question, as far as the sample tells."""
    value = sample.get(suite.metric)
    kind = suite.aggregate.kind_of(value) if isinstance(value, Mapping) else None
    known = kind is not None and isinstance(ours.kind, str)
    return (not told or _same_answer(str(sample["target"]), str(ours.answer))) and (not known or kind == ours.kind)


def _same_answer(target: str, answer: str) -> bool:
    """An option may be told by its number, and is by its letter in our records."""
    target, answer = target.strip(), answer.strip()
    return target == answer or (target.isdecimal() and len(target) < 3 and answer == chr(ord("A") + int(target)))


def _question(suite: Suite, sample: Sample, ours: Any) -> dict[str, Any]:
    said = sample.get("filtered_resps")
    about = {name: getattr(ours, name) for name in OF_OURS}
    score = suite.aggregate.question_score(sample.get(suite.metric))
    return {**about, "prediction": said if isinstance(said, str) else str(said), "score": score}


def _row(foreign: Foreign, suite: str, task: Task, questions: pd.DataFrame, alike: Any) -> dict[str, Any]:
    """The row of Results.cells."""
    kind = SUITES[suite]
    shares = kind.aggregate.shares({str(name) for name in questions["kind"].dropna()})
    cell = SimpleNamespace(shares=shares)
    known = alike.parts if isinstance(alike.parts, dict) else {}
    numbers = {name: number_of_part(cell, name, questions) for name in known}
    return {
        **{"id": f"{foreign.label} {suite}", "label": foreign.label, "variant": foreign.label, "suite": suite},
        **{"status": "done", "seed": alike.seed, "as_trained": False, "task": alike.task, "chance": alike.chance},
        **{"metric": kind.metric, "accuracy": number_of(cell, questions).mean, "shares": shares},
        **{"questions": len(questions), "errors": 0, "correct": None, "lmms_eval": _figure(kind, task)},
        "parts": {name: {"score": number.mean, "questions": number.n} for name, number in numbers.items() if number.n},
        **{"model": task.about, "source": foreign.source},
    }


def _alike(cells: pd.DataFrame, suite: str, reference: str | None) -> Any:
    """The cell of ours that the row stands beside: the reference's, with its first seed."""
    done = cells[(cells["suite"] == suite) & (cells["status"] == "done")]
    return next(each(done.iloc[(done["variant"] != reference).argsort(kind="stable")]))


def _figure(suite: Suite, task: Task) -> float | None:
    """What lmms-eval made of all questions of its run, 0 to 1."""
    for name, value in part(part(task.results, "results"), task.name).items():
        if name.partition(",")[0] == suite.metric:
            try:
                return float(suite.aggregate.figure(value))
            except (KeyError, TypeError, ValueError):
                return None
    return None


def _more(task: Task, first: Task) -> list[str]:
    """What else is to be known of a task's run: another one than the row's first line tells."""
    return [] if task.about == first.about else [f"of another run: {task.about}"]


def _why_nothing(cells: pd.DataFrame, foreign: Foreign, notes: list[str]) -> str:
    """One line."""
    if notes:
        return f"--join: nothing of {foreign.source} pairs: {line_of('; '.join(notes))}"
    wanted = ", ".join(dict.fromkeys(map(str, cells["task"].fillna(cells["suite"]))))
    has = ", ".join(foreign.tasks)
    return f"--join: {foreign.source} has samples of {has}; expected one of the sweep's benchmarks: {wanted}"
