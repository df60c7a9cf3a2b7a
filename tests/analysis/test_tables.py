"""The sweep table says what the records say: no failure becomes a number, no difference is called more than it is."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from analysis.cell_text import cost_text
from analysis.compared import compare
from analysis.load import Results, load, read_plan
from analysis.notes import notes
from analysis.tables import rich_table, to_csv, to_markdown, to_text
from tests.analysis import synthetic


def at(rows: pd.DataFrame, label: str, suite: str) -> pd.Series:
    return rows[(rows["label"] == label) & (rows["suite"] == suite)].iloc[0]


def test_accuracies_have_intervals_around_them(rows: pd.DataFrame) -> None:
    done = rows[rows["status"] == "done"]
    assert (done["low"] < done["accuracy"]).all()
    assert (done["high"] > done["accuracy"]).all()
    assert rows[rows["status"] != "done"][["low", "high", "difference", "p"]].isna().all().all()


def test_a_difference_is_over_the_questions_that_both_answered(rows: pd.DataFrame, results: Results) -> None:
    row = at(rows, "b=1 w=24", "synth_order")
    reference = at(rows, synthetic.REFERENCE, "synth_order")
    assert row["pairs"] == 197  # the reference left three questions unanswered
    scores = {name: results.questions[results.questions["cell"] == name] for name in (row["id"], reference["id"])}
    both = scores[row["id"]].merge(scores[reference["id"]], on="doc_id").dropna(subset=["score_x", "score_y"])
    assert row["difference"] == pytest.approx((both["score_x"] - both["score_y"]).mean())


def test_holm_counts_every_comparison_of_the_table(rows: pd.DataFrame) -> None:
    tested = rows[rows["p"].notna()]
    assert len(tested) == 22  # 8 variants x 3 suites, without a failed and a missing cell
    assert tested["p_holm"].min() == pytest.approx(min(1.0, 22 * tested["p"].min()))


def test_the_reference_is_not_compared_with_itself(rows: pd.DataFrame) -> None:
    assert rows[rows["is_reference"]]["p"].isna().all()


def test_other_questions_are_not_paired(results: Results) -> None:
    questions = results.questions.copy()
    moved = questions["label"] == "b=1 w=24"
    questions.loc[moved, "prompt_hash"] = "another"
    other = Results(results.cells, questions, results.gates, results.sinks, results.points, ())
    rows = compare(other, synthetic.REFERENCE)
    assert at(rows, "b=1 w=24", "synth_needle")["pairs"] == 0
    assert any("other questions than the reference: 3 cells" in line for line in notes(rows, {}))


@pytest.mark.parametrize("of_reference", ["0123456789ab", None])
def test_what_was_asked_of_a_training_that_was_made_again_is_not_compared(
    results: Results, of_reference: str | None
) -> None:
    """One training, whose weights were gone and came out as other bits: a difference would be of two weights."""
    cells = results.cells.assign(training="feedfacecafe", digest=of_reference)
    later = cells["variant"].isin(["b=1 w=24", "b=2 w=8"])
    cells.loc[later, "digest"] = "ba9876543210"
    rows = compare(replace(results, cells=cells), synthetic.REFERENCE)
    before = compare(results, synthetic.REFERENCE)
    assert rows.loc[rows["made_again"], ["difference", "p", "p_holm"]].isna().all(axis=None)
    assert set(rows.loc[rows["made_again"], "variant"]) == {"b=1 w=24", "b=2 w=8"}
    stands = ~rows["variant"].isin(["b=1 w=24", "b=2 w=8"])
    assert rows.loc[stands, "p"].equals(before.loc[stands, "p"])
    assert rows["p_holm"].notna().sum() < before["p_holm"].notna().sum()  # of fewer tests
    said = [line for line in notes(rows, {}) if "made again" in line]
    others = ", ".join(dict.fromkeys(results.cells.loc[~later & (results.cells["status"] == "done"), "label"]))
    assert said == [
        "training feedfacecafe was made again, and cells of other weights are not compared: "
        f"ba9876543210: b=1 w=24, b=2 w=8; {of_reference or 'not recorded'}: {others}"
    ]
    alone = compare(
        replace(results, cells=cells[later | (cells["variant"] == synthetic.REFERENCE)]), synthetic.REFERENCE
    )
    assert not any(line.startswith("no comparison") for line in notes(alone, {}))
    apart = compare(replace(results, cells=cells.assign(training=cells["id"])), synthetic.REFERENCE)
    assert not apart["made_again"].any(), "other trainings have other weights"


def test_weights_of_few_bits_are_named_as_their_times_are_of_another_kind(rows: pd.DataFrame) -> None:
    assert not any("bits" in line for line in notes(rows, {}))
    packed = rows.assign(packed_bits=np.where(rows["label"] == "b=1 w=24", 4, np.nan), weights_mib=6612.25)
    said = (
        "b=1 w=24: weights of 4 bits, 6,612 MiB in all, unpacked at each use: its times are not those of a fused kernel"
    )
    assert [line for line in notes(packed, {}) if "bits" in line] == [said]


def with_videos(results: Results, each: int, **aggregate: object) -> Results:
    """The same records, with so many questions a video in two kinds, and what `scores` says of the aggregate."""
    number = results.questions["doc_id"].astype(int)
    about = {"video": "v" + (number // each).astype(str), "kind": np.where(number % 2, "odd", "even")}
    cells = results.cells.copy()
    for name, value in aggregate.items():
        cells[name] = [value] * len(cells)
    return Results(cells, results.questions.assign(**about), results.gates, results.sinks, results.points, ())


def test_questions_of_one_video_widen_the_intervals(results: Results, rows: pd.DataFrame) -> None:
    clustered = compare(with_videos(results, each=10), synthetic.REFERENCE)
    row, before = at(clustered, "b=1 w=24", "synth_order"), at(rows, "b=1 w=24", "synth_order")
    assert (row["videos"], row["answered"], row["test"]) == (20, 200, "sign-flip")
    assert row["high"] - row["low"] >= before["high"] - before["low"]
    assert row["difference"] == pytest.approx(before["difference"])
    assert (before["test"], np.isnan(before["videos"])) == ("mcnemar", True)
    text = "\n".join(notes(clustered, {}))
    assert "intervals and tests by video: synth_needle 200 questions about 20 videos, " in text
    assert "not recorded" not in text
    assert "not recorded which questions share a video" in "\n".join(notes(rows, {}))


def test_one_question_a_video_changes_nothing(results: Results, rows: pd.DataFrame) -> None:
    alone = compare(with_videos(results, each=1), synthetic.REFERENCE)
    compared = ["low", "high", "difference_low", "difference_high", "p_holm", "test"]
    pd.testing.assert_frame_equal(alone[compared], rows[compared])
    assert not any("video" in line for line in notes(alone, {}))


def test_a_mean_over_kinds_is_compared_as_one(results: Results) -> None:
    shares = {"even": 0.9, "odd": 0.1}
    rows = compare(with_videos(results, each=1, shares=shares), synthetic.REFERENCE)
    row, reference = (at(rows, label, "synth_needle") for label in ("b=1 w=24", synthetic.REFERENCE))
    asked = results.questions.assign(odd=results.questions["doc_id"].astype(int) % 2)
    means = asked.groupby(["cell", "odd"])["score"].mean()
    number = {row["id"]: 0.9 * means[row["id"], 0] + 0.1 * means[row["id"], 1] for row in (row, reference)}
    assert row["low"] < number[row["id"]] < row["high"]
    assert row["difference"] == pytest.approx(number[row["id"]] - number[reference["id"]])
    assert "mean over kinds of questions, each with its share: synth_needle 2 kinds" in "\n".join(notes(rows, {}))


def test_lmms_evals_figure_and_what_records_note_stand_below(results: Results, plan: dict) -> None:
    said = ["an unreadable answer gets a random letter"]
    noted = with_videos(results, each=1, lmms_eval=0.5, notes=said)
    text = to_markdown(compare(noted, synthetic.REFERENCE), plan)
    assert "3 of 200 questions ended in an error, left out; lmms-eval's own figure is 50.0" in text
    assert "b=1 w=24, synth_order: lmms-eval's own figure is 50.0" in text
    assert text.count("synth_order: an unreadable answer gets a random letter") == 1
    noted.cells.at[1, "notes"] = [*said, "lmms-eval's figure is 50.00 %: it counts 3 errors as answers"]
    text = to_markdown(compare(noted, synthetic.REFERENCE), plan)
    assert "b=1 w=24, synth_order: lmms-eval's figure is 50.00 %: it counts 3 errors" in text
    assert "b=1 w=24, synth_order: lmms-eval's own" not in text
    cells = results.cells.assign(lmms_eval=results.cells["accuracy"])
    assert "lmms-eval" not in to_markdown(compare(Results(**{**vars(results), "cells": cells}), None), plan)


def test_text_shows_failures_gaps_and_errors(rows: pd.DataFrame, plan: dict) -> None:
    text = to_text(rows, plan, ["cells/x: not a whole record, left out"])
    lines = text.splitlines()
    (failed,) = [line for line in lines if line.startswith("b=12 w=4") and "OutOfMemory" not in line]
    assert failed.split()[-4] == "failed"
    (missing,) = [line for line in lines if line.startswith("b=10 w=16")]
    assert missing.split()[2] == "-"
    assert "(3 err)" in text
    assert "3 of 200 questions ended in an error" in text
    assert "failed on synth_layout: OutOfMemoryError: asked for 128 GiB" in text
    assert "1 of 27 cells have no record yet" in text
    assert "Holm-corrected over 22 comparisons" in text
    assert "chance: 25 %" in text
    assert "not a whole record" in text
    assert all(len(line) <= 140 for line in lines)


def test_stars_mark_only_sure_differences(rows: pd.DataFrame, plan: dict) -> None:
    marked = re.findall(r"[+-]\d+\.\d\*", to_markdown(rows, plan))
    assert len(marked) == (rows["p_holm"] < 0.05).sum() > 0


def test_csv_is_tidy_and_keeps_every_digit(rows: pd.DataFrame) -> None:
    back = pd.read_csv(io.StringIO(to_csv(rows)))
    assert len(back) == 27
    for name in ("accuracy", "low", "high", "p", "p_holm", "attention_fraction"):
        np.testing.assert_array_equal(back[name].to_numpy(), rows[name].to_numpy(dtype=float))
    assert back.loc[back["status"] == "failed", "accuracy"].isna().all()


def test_markdown_is_a_table(rows: pd.DataFrame, plan: dict) -> None:
    lines = [line for line in to_markdown(rows, plan).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 9
    assert len({line.count("|") for line in lines}) == 1
    assert "**b=5 w=4**" in to_markdown(rows, plan)


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_terminal_of_any_width_shows_every_accuracy(rows: pd.DataFrame, plan: dict, width: int) -> None:
    stream = io.StringIO()
    Console(file=stream, width=width).print(rich_table(rows, plan))
    for accuracy in rows["accuracy"].dropna():
        assert f"{100 * accuracy:.1f}" in stream.getvalue()


def test_many_suites_are_stacked(results: Results, plan: dict) -> None:
    cells = pd.concat([results.cells.assign(suite=results.cells["suite"] + str(i)) for i in range(3)])
    rows = compare(Results(cells, results.questions, *[results.gates] * 3, ()), None)
    assert to_text(rows, plan).count("variant ") == 3


def test_without_a_reference_nothing_is_compared(results: Results, plan: dict) -> None:
    rows = compare(results, None)
    assert rows["p"].isna().all()
    assert not any("Holm" in line or "no comparison" in line for line in notes(rows, plan))


def test_a_reference_that_failed_is_said(results: Results, plan: dict) -> None:
    rows = compare(results, "b=99")
    assert any("no comparison: b=99" in line for line in notes(rows, plan))


@pytest.mark.parametrize(
    ("values", "factor", "text"),
    [
        ([22.4, 22.4], 1, "22.4"),
        ([22.4, 31.02], 1, "22.4–31"),
        ([None], 1, "-"),
        ([0.036], 100, "3.6"),
        ([12345], 1, "12,345"),
    ],
)
def test_costs_are_one_number_or_a_range(values: list, factor: float, text: str) -> None:
    assert cost_text(pd.Series(values), factor) == text


def test_an_empty_sweep_is_a_table_of_gaps(tmp_path, plan: dict) -> None:
    results = load(tmp_path, plan)
    rows = compare(results, synthetic.REFERENCE)
    assert set(rows["status"]) == {"missing"}
    assert "27 of 27 cells have no record yet" in to_text(rows, plan)
    assert to_csv(rows)
    assert to_markdown(rows, plan)


def test_a_plan_without_cells_does_not_break(tmp_path) -> None:
    synthetic.write(tmp_path / "plan.json", {"cells": []})
    plan = read_plan(tmp_path)
    assert to_text(compare(load(tmp_path, plan), None), plan)
