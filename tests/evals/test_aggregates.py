"""Each benchmark's number is lmms-eval's: our aggregates beside the shipped tasks' own functions."""

from __future__ import annotations

from pathlib import Path

import lmms_eval
import pandas as pd
import pytest
from lmms_eval.loggers.evaluation_tracker import EvaluationTracker
from lmms_eval.utils import load_yaml_config

from analysis.foreign import read_foreign
from analysis.joined import join
from analysis.load import Results
from analysis.rows import CELL_COLUMNS, QUESTION_COLUMNS
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


def cell_of_ours(name: str, task: dict) -> Results:
    """A finished cell that asked the stand-in's questions, as its record tells them, and answered all wrong."""
    suite, found = SUITES[name], parts(name)
    cell = {"id": "c", "label": "ours", "variant": "ours", "suite": name, "status": "done", "task": name, "seed": 0}
    rows = [
        {"cell": "c", "label": "ours", "suite": name, "doc_id": str(number), "video": suite.video_id(doc), "score": 0.0}
        | {"kind": suite.aggregate.kind_of(doc), "parts": suite.aggregate.parts_of(doc)}
        | {"answer": suite.right_answer(doc, doc.get(task["doc_to_target"]))}
        for number, doc in enumerate(STANDINS[name].docs)
    ]
    cells = pd.DataFrame([cell | {"parts": {part: {"score": 0.0} for part in found}}], columns=CELL_COLUMNS)
    none = pd.DataFrame()
    return Results(cells, pd.DataFrame(rows, columns=QUESTION_COLUMNS), none, none, none, ())


@pytest.mark.parametrize("name", NAMES)
def test_samples_that_lmms_eval_logs_join_our_questions(name: str, tmp_path: Path) -> None:
    """Scored by the shipped task's own functions, written by lmms-eval's own writer."""
    stand_in, suite = STANDINS[name], SUITES[name]
    results, rows, task = asked(name, stand_in, stand_in.says)
    samples = [
        {"doc_id": number, "doc": doc, "target": doc.get(task["doc_to_target"], task["doc_to_target"])}
        | {"arguments": ["What?"], "resps": [["A"]], "filtered_resps": ["A"], "doc_hash": "0", **result}
        for number, (doc, result) in enumerate(zip(stand_in.docs, results, strict=True))
    ]
    tracker = EvaluationTracker(output_path=str(tmp_path))
    tracker.general_config_tracker.log_experiment_args("m", "pretrained=M", "", "", False)
    tracker.date_id = "20251102_030405"
    tracker.save_results_samples(name, samples)
    joined = join(cell_of_ours(name, task), read_foreign(str(tmp_path)), "ours")
    _, row = joined.cells.itertuples()
    assert row.accuracy == pytest.approx(suite.aggregate.mean((row["kind"], row["score"]) for row in rows))
    assert 0 < row.accuracy < 1
    assert row.questions == len(stand_in.docs), joined.problems
    assert set(row.parts) == set(parts(name))
    assert ("do not tell the right answer" in str(joined.problems)) == (name == "tomato")
