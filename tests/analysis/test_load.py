"""Records become rows; what is not a record is named, not fatal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.compared import compare
from analysis.load import NotAPlan, Results, axes_of, find_reference, load, read_plan
from analysis.notes import notes
from analysis.page.sweep import write_report
from analysis.run import main
from analysis.tables import to_markdown
from tests.analysis import synthetic


def test_every_planned_cell_is_a_row_in_the_plans_order(results: Results, plan: dict) -> None:
    assert list(results.cells["id"]) == [cell["id"] for cell in plan["cells"]]
    assert results.cells["status"].value_counts().to_dict() == {"done": 25, "failed": 1, "missing": 1}
    assert results.problems == ()


def test_two_variants_that_ask_the_same_are_two_rows(out: Path, plan: dict) -> None:
    first = next(cell for cell in plan["cells"] if cell["label"] == plan["reference"])
    other = next(cell for cell in plan["cells"] if cell["label"] != plan["reference"])
    more = [other | {"label": "another, too"}, first | {"label": "in other words"}]
    twice = plan | {"cells": [*plan["cells"], *more]}
    results = load(out, twice)
    assert len(results.cells) == len(plan["cells"]) + 2
    assert len(results.questions) == len(load(out, plan).questions)
    rows = compare(results, find_reference(twice, results.cells))
    once = compare(load(out, plan), plan["reference"])
    assert rows["difference"].iloc[-1] == 0
    # They share the number, and its test: what is asked once is corrected for once.
    assert list(rows["p_holm"].iloc[:-2].dropna()) == list(once["p_holm"].dropna())
    assert rows["p_holm"].iloc[-2] == rows["p_holm"][rows["id"] == other["id"]].iloc[0]
    assert notes(rows, twice)[1] == notes(once, plan)[1]


def test_a_failure_keeps_its_traceback_and_has_no_score(results: Results) -> None:
    lost = results.cells[results.cells["status"] == "failed"].iloc[0]
    assert lost["accuracy"] is None or lost["accuracy"] != lost["accuracy"]
    assert lost["error_type"] == "OutOfMemoryError"
    assert "line 1" in lost["traceback"]
    assert lost["id"] not in set(results.questions["cell"])


def test_settings_are_those_of_the_cell_over_those_of_its_training(results: Results) -> None:
    row = results.cells[results.cells["label"] == "b=2 w=8"].iloc[0]
    assert (row["block_count"], row["window"], row["block_size"]) == (2, 8, 4)
    assert (row["train_block_count"], row["train_window"]) == (5, 4)
    assert row["budget"] == 16
    assert row["local_share"] == 0.5
    assert row["branches"] == "cmp+slc+swa"


def test_an_errored_question_has_no_score(results: Results) -> None:
    errored = results.questions[results.questions["error"].notna()]
    assert len(errored) == 3
    assert errored["score"].isna().all()


def test_probes_become_rows_by_layer_and_branch(results: Results) -> None:
    assert len(results.gates) == 9 * 6 * 3
    assert set(results.sinks["branch"]) == {"cmp", "slc", "swa", "gated", "dense"}
    assert len(results.points) == 9 * 400
    assert len(results.recall) == 9 * 6 * (4 + 2)
    assert results.losses.empty  # its plan tells of no training
    assert set(results.recall["part"]) == {"vision", "text", "slc", "swa"}


def test_without_a_plan_all_records_are_read(out: Path) -> None:
    everything = load(out)
    assert len(everything.cells) == 26 + 21 + 33
    assert "missing" not in set(everything.cells["status"])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "not a whole record"),
        ("", "not a whole record"),
        ("[1, 2]", "not a whole record"),
        (json.dumps({"schema": 1, "kind": "training", "status": "done"}), "kind 'training'"),
        (json.dumps({"schema": 9, "kind": "evaluation", "status": "done"}), "schema 9"),
        (json.dumps({"schema": 1, "kind": "evaluation", "status": "started"}), "status 'started'"),
        (
            json.dumps({"schema": 1, "kind": "evaluation", "status": "done", "scores": {"accuracy": None}}),
            "no accuracy",
        ),
        (
            json.dumps({"schema": 1, "kind": "evaluation", "status": "done", "scores": {"accuracy": 7e300}}),
            "no accuracy",
        ),
        ('{"schema": 1, "kind": "evaluation", "status": "done", "scores": {"accuracy": NaN}}', "no accuracy"),
        (json.dumps({"schema": 1, "kind": "evaluation", "status": "failed", "settings": 3, "questions": 5}), None),
    ],
)
def test_damaged_and_foreign_files_are_named_and_skipped(tmp_path: Path, content: str, complaint: str | None) -> None:
    sweep = synthetic.branch_sweep(tmp_path)
    plan = read_plan(sweep)
    damaged = plan["cells"][0]["id"]
    (tmp_path / "cells" / damaged / "record.json").write_text(content)
    results = load(tmp_path, plan)
    assert len(results.cells) == 21
    assert (results.cells["status"] == "done").sum() == 20
    if complaint is None:
        assert results.problems == ()
    else:
        (problem,) = results.problems
        assert complaint in problem
        assert damaged in problem


def test_what_is_no_number_is_left_out_and_named(tmp_path: Path) -> None:
    sweep = synthetic.branch_sweep(tmp_path)
    plan = read_plan(sweep)
    paths = [tmp_path / "cells" / cell["id"] / "record.json" for cell in plan["cells"][:3]]
    records = [json.loads(path.read_text()) for path in paths]
    records[0]["scores"] |= {"chance": "a quarter", "parts": {"first": 3}}
    records[0]["summary"] = {**records[0].get("summary", {}), "prefill_ms_p50": "fast"}
    records[1]["scores"]["accuracy"] = True
    records[2]["scores"]["accuracy"] = 1.5
    for path, record in zip(paths, records, strict=True):
        path.write_text(json.dumps(record))
    assert main(["table", "--out", str(tmp_path)]) == 0
    assert main(["parts", "--out", str(tmp_path)]) == 1, "there are no others"
    results = load(tmp_path, plan)
    assert "chance, prefill_ms, parts cannot be read, left out" in results.problems[0]
    assert list(results.cells["status"][:4]) == ["done", "failed", "failed", "done"]
    table = pd.read_csv(sweep / "table.csv")
    assert table[table["status"] == "failed"]["accuracy"].isna().all()


def test_a_record_without_its_questions_has_its_number_and_no_interval(tmp_path: Path) -> None:
    sweep = synthetic.pair_sweep(tmp_path)
    plan = read_plan(sweep)
    path = tmp_path / "cells" / plan["cells"][1]["id"] / "record.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in record.items() if name != "questions"}))
    results = load(tmp_path, plan)
    rows = compare(results, plan["reference"])
    assert f"| {100 * record['scores']['accuracy']:.1f} |" in to_markdown(rows, plan)
    assert "its questions are not recorded" in write_report(plan, results, rows, sweep, False).read_text()


def test_a_probe_of_another_layout_is_named(tmp_path: Path) -> None:
    sweep = synthetic.budget_sweep(tmp_path)
    plan = read_plan(sweep)
    path = tmp_path / "probes" / plan["cells"][0]["probe"] / "record.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "layers": [{"gates": {"cmp": {"mean": 0.5}}}]}))
    results = load(tmp_path, plan)
    assert results.gates["probe"].nunique() == 8
    assert "as a probe writes them" in results.problems[0]


@pytest.mark.parametrize(
    ("looked_at", "asked", "said"),
    [
        ("later", ["first"], "later; cells were asked of first"),
        ("first", ["first", "later"], "first; cells were asked of later"),
        ("first", ["first"], None),
        (None, ["first"], None),
        ("first", [["odd"], {"a": 1}, None], None),
        (["odd"], ["first", "later"], None),
    ],
    ids=["others", "some", "the same", "not known", "odd cells", "odd probe"],
)
def test_a_probe_of_other_weights_than_the_cells_is_named(
    tmp_path: Path, looked_at: Any, asked: list[Any], said: str | None
) -> None:
    plan = read_plan(synthetic.budget_sweep(tmp_path))
    probe = plan["cells"][0]["probe"]
    own = [cell["id"] for cell in plan["cells"] if cell["probe"] == probe]
    digests = {f"cells/{cell}": asked[place % len(asked)] for place, cell in enumerate(own)}
    for place, digest in {**digests, f"probes/{probe}": looked_at}.items():
        path = tmp_path / place / "record.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "weights": {"digest": digest}}))
    results = load(tmp_path, plan)
    compare(results, plan["reference"])
    assert [line for line in results.problems if "looked at weights" in line] == (
        [f"probe {probe} looked at weights {said}"] if said else []
    )


def test_an_accuracy_that_its_own_questions_deny_is_named(tmp_path: Path) -> None:
    sweep = synthetic.branch_sweep(tmp_path)
    plan = read_plan(sweep)
    path = tmp_path / "cells" / plan["cells"][0]["id"] / "record.json"
    record = json.loads(path.read_text())
    record["scores"]["accuracy"] = 0.999
    path.write_text(json.dumps(record))
    assert "0.9990" in load(tmp_path, plan).problems[0]


def test_the_accuracy_of_a_record_is_its_aggregate(tmp_path: Path) -> None:
    sweep = synthetic.branch_sweep(tmp_path)
    plan = read_plan(sweep)
    path = tmp_path / "cells" / plan["cells"][0]["id"] / "record.json"
    record = json.loads(path.read_text())
    for question in record["questions"]:
        question["kind"] = "first" if question["doc_id"] < 50 else "rest"
    means = [
        sum(row["score"] for row in rows) / len(rows) for rows in (record["questions"][:50], record["questions"][50:])
    ]
    record["scores"] |= {"shares": {"first": 0.8, "rest": 0.2}, "accuracy": 0.8 * means[0] + 0.2 * means[1]}
    path.write_text(json.dumps(record))
    assert load(tmp_path, plan).problems == ()
    record["scores"]["shares"] = {"first": 0.2, "rest": 0.8}
    path.write_text(json.dumps(record))
    (problem,) = load(tmp_path, plan).problems
    assert f"come to {0.2 * means[0] + 0.8 * means[1]:.4f}" in problem
    record["scores"]["shares"] = {"others": 1.0}
    path.write_text(json.dumps(record))
    assert "come to nan" in load(tmp_path, plan).problems[0]


def test_seeds_are_variants_of_their_own(tmp_path: Path) -> None:
    sweep = synthetic.branch_sweep(tmp_path)
    plan = read_plan(sweep)
    twin = {**plan["cells"][0], "id": "0" * 12}
    record = json.loads((tmp_path / "cells" / plan["cells"][0]["id"] / "record.json").read_text())
    record["settings"]["seed"] = 1
    synthetic.write(tmp_path / "cells" / twin["id"] / "record.json", record)
    results = load(tmp_path, {**plan, "cells": [*plan["cells"], twin]})
    assert {"cmp seed 0", "cmp seed 1"} <= set(results.cells["label"])
    rows = compare(results, "cmp+slc+swa")
    assert any("deviation over training seeds, in points: synth_needle 0.0" in line for line in notes(rows, plan))


def test_the_reference_is_the_plans_or_what_was_trained(out: Path, plan: dict, results: Results) -> None:
    assert find_reference(plan, results.cells) == synthetic.REFERENCE
    bare = {key: value for key, value in plan.items() if key != "reference"}
    assert find_reference(bare, results.cells) == synthetic.REFERENCE
    assert find_reference({**bare, "asks": "train"}, results.cells) is None
    assert find_reference({**plan, "reference": None}, results.cells) is None


def test_of_several_lengths_the_reference_is_the_longest_trained(out: Path) -> None:
    plan = read_plan(out / "sweeps" / "tiny-tokens")
    del plan["reference"]
    cells = load(out, plan).cells
    assert find_reference(plan, cells) == "frames=32 tokens_per_frame=4"


def test_of_several_models_the_reference_is_the_shared_one(out: Path, plan: dict) -> None:
    bare = {key: value for key, value in plan.items() if key != "reference"}
    cells = load(out, plan).cells
    cells.loc[cells["label"] == "b=2 w=4", ["as_trained", "training"]] = [True, "other"]
    assert find_reference(bare, cells) == synthetic.REFERENCE


def test_a_given_checkpoint_counts_as_trained_with_the_papers_settings(tmp_path: Path) -> None:
    cells = [
        synthetic.cell(f"b={b} w={w}", "tomato", {"block_count": b, "window": w}) for b, w in ((36, 32), (32, 256))
    ]
    plan = {"axes": ["nsa.window"], "cells": cells, "trainings": {"a" * 12: {"checkpoint": "Enxin/VideoNSA"}}}
    assert find_reference(plan, load(tmp_path, plan).cells) == "b=32 w=256"


def test_axes_lose_their_group() -> None:
    assert axes_of({"axes": ["nsa.block_count", "window"]}) == {"block_count", "window"}


@pytest.mark.parametrize("content", [None, "{", "[]", '{"cells": 3}', '{"cells": [{}]}'])
def test_a_folder_without_a_plan_says_so(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "plan.json").write_text(content)
    with pytest.raises(NotAPlan, match=r"plan\.json"):
        read_plan(tmp_path)


def test_losses_of_trainings_that_began_with_another(out: Path):
    plan = read_plan(out / "sweeps" / "tiny-branches")
    losses = load(out, plan).losses
    assert len(losses) == 3 * 30
    first = losses[losses["step"] == 1].set_index("training")
    assert first["label"].to_dict() == {"a" * 12: "cmp", "b" * 12: "b" * 12, "d" * 12: "d" * 12}
    assert first["variant"].equals(first["label"])
    assert first["start"].dropna().to_dict() == {"a" * 12: "d" * 12, "b" * 12: "d" * 12}
    assert first["loss"].tolist() == [1.5, 0.7, 4.0]


def test_a_probe_is_called_by_what_the_variants_share_that_it_looks_at(tmp_path: Path) -> None:
    sweep = synthetic.budget_sweep(tmp_path)
    plan = read_plan(sweep)
    (first, *_), last = plan["cells"], plan["cells"][-1]
    planned = [
        {**cell, "label": f"{name} {size}"}
        for name, cell in (("paper", first), ("wide", last))
        for size in ("8K", "32K")
    ]
    results = load(tmp_path, {**plan, "cells": planned})
    assert results.gates.groupby("probe", sort=False)["label"].first().tolist() == ["paper", "wide"]
    assert set(results.recall.loc[results.recall["method"] == "nsa", "variant"]) == {"paper", "wide"}
