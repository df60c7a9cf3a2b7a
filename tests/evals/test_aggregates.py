"""Each benchmark's number is lmms-eval's: our aggregates beside the shipped tasks' own functions."""

from __future__ import annotations

from pathlib import Path

import lmms_eval
import pytest
from lmms_eval.utils import load_yaml_config

from evals import shipped
from evals.aggregates import VSIBENCH
from evals.scores import summarize_scores
from evals.suites import SUITES
from tests.evals.standins import STANDINS, StandIn

SHIPPED = Path(lmms_eval.__file__).parent / "tasks"
NAMES = sorted(STANDINS)


def load(name: str) -> dict:
    """The shipped task: its YAML with the functions that it names."""
    shipped.make_loadable()
    return load_yaml_config(str(SHIPPED / STANDINS[name].file))


def process(name: str, task: dict, doc: dict, said: str) -> dict:
    """One question through the task's own scoring; a judged one as if the judge had compared the words."""
    if not SUITES[name].judged:
        return task["process_results"](dict(doc), [said])
    row = {"task_type": doc["qa_type"], "judge_result": said == doc["answer_text"]}
    return {"videoevalpro_score": row}


def asked(name: str, stand_in: StandIn, says: tuple[str, ...]) -> tuple[list[dict], list[dict], dict]:
    """Documents, what the task makes of the answers, and our rows."""
    task, suite = load(name), SUITES[name]
    results = [process(name, task, doc, says[n % len(says)]) for n, doc in enumerate(stand_in.docs)]
    rows = [
        {
            "doc_id": number,
            "kind": suite.aggregate.kind_of(doc),
            "score": suite.aggregate.question_score(result[suite.metric]),
        }
        for number, (doc, result) in enumerate(zip(stand_in.docs, results, strict=True))
    ]
    return results, rows, task


def aggregations(task: dict) -> dict:
    return {metric["metric"]: metric["aggregation"] for metric in task["metric_list"]}


def parts(name: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for number, doc in enumerate(STANDINS[name].docs):
        for part in SUITES[name].aggregate.parts_of(doc):
            found.setdefault(part, []).append(number)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_accuracy_is_lmms_evals(name: str) -> None:
    suite = SUITES[name]
    results, rows, task = asked(name, STANDINS[name], STANDINS[name].says)
    theirs = suite.aggregate.figure(aggregations(task)[suite.metric]([result[suite.metric] for result in results]))
    scores = summarize_scores(rows, suite.aggregate, parts(name))
    assert scores["accuracy"] == pytest.approx(theirs, abs=1e-5)
    assert 0 < theirs < 1
    by_kind = {kind: [row["score"] for row in rows if row["kind"] == kind] for kind in {row["kind"] for row in rows}}
    if scores["shares"] is None:
        assert scores["accuracy"] == pytest.approx(sum(row["score"] for row in rows) / len(rows))
    else:
        assert sum(scores["shares"].values()) == pytest.approx(1)
        means = {kind: sum(values) / len(values) for kind, values in by_kind.items()}
        assert scores["accuracy"] == pytest.approx(sum(share * means[k] for k, share in scores["shares"].items()))
        plain = sum(row["score"] for row in rows) / len(rows)
        assert abs(plain - theirs) > 0.01, "the stand-in does not tell the mean over kinds from the plain one"


@pytest.mark.parametrize("name", NAMES)
def test_a_question_alone_counts_as_lmms_eval_counts_it(name: str) -> None:
    """Only plain means tell: the aggregate of one question is its score."""
    suite = SUITES[name]
    results, rows, task = asked(name, STANDINS[name], STANDINS[name].says)
    if suite.aggregate.mean_over is not None:
        pytest.skip("its aggregate of one question is another kind's too")
    for row, result in zip(rows, results, strict=True):
        theirs = aggregations(task)[suite.metric]([result[suite.metric]])
        assert row["score"] == pytest.approx(suite.aggregate.figure(theirs)), result


def test_vsibenchs_parts_are_its_metrics() -> None:
    results, rows, task = asked("vsibench", STANDINS["vsibench"], STANDINS["vsibench"].says)
    ours = summarize_scores(rows, VSIBENCH, parts("vsibench"))["parts"]
    theirs = {
        metric: aggregate([result[metric] for result in results]) for metric, aggregate in aggregations(task).items()
    }
    assert set(ours) == set(theirs) - {"vsibench_overall"}
    assert {name: part["score"] for name, part in ours.items()} == pytest.approx(
        {name: theirs[name] for name in ours}, abs=1e-6
    )


@pytest.mark.parametrize("name", ["vsibench", "mlvu_test"])
def test_kinds_without_an_answer_are_left_out(name: str) -> None:
    suite = SUITES[name]
    _, rows, _ = asked(name, STANDINS[name], STANDINS[name].says)
    gone = {rows[0]["kind"], rows[1]["kind"]}
    for row in rows:
        row["score"] = None if row["kind"] in gone else 1.0
    scores = summarize_scores(rows, suite.aggregate, parts(name))
    assert scores["accuracy"] == 1.0
    assert set(scores["shares"]) == {row["kind"] for row in rows} - gone
    assert sum(scores["shares"].values()) == pytest.approx(1)


def test_what_is_not_known_has_no_score() -> None:
    for name in NAMES:
        for value in ({"something": "else"}, float("nan"), None, "text"):
            if not SUITES[name].judged:
                assert SUITES[name].aggregate.question_score(value) is None
