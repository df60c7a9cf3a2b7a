"""What lmms-eval wrote elsewhere as a row of a sweep's table: what pairs, what is left out, what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.compared import compare
from analysis.foreign import NotForeign, read_foreign
from analysis.joined import join
from analysis.load import Results
from analysis.numbers import difference_of
from analysis.run import main
from tests.analysis.synthetic import QUESTIONS, REFERENCE, budget_sweep

MODEL = "Qwen__Qwen2.5-VL-7B"
DATE = "20251102_030405"


def line(number: int, score: float = 1.0, target: str = "red") -> dict[str, Any]:
    return {"doc_id": number, "target": target, "filtered_resps": "red", "exact_match": score, "input": "which?"}


def write(folder: Path, lines: list[Any], task: str = "synth_needle", date: str = DATE) -> Path:
    """Samples as lmms-eval lays them out; text stands as it is given."""
    folder.mkdir(parents=True, exist_ok=True)
    text = [one if isinstance(one, str) else json.dumps(one) for one in lines]
    (folder / f"{date}_samples_{task}.jsonl").write_text("\n".join(text) + "\n")
    return folder


def write_results(folder: Path, date: str = DATE) -> None:
    config = {"model": "qwen2_5_vl", "model_args": "pretrained=/home/me/Qwen/Qwen2.5-VL-7B,api_key=sk-1;x"}
    about = {"model_name": "Qwen/Qwen2.5-VL-7B", "lmms_eval_version": "v0.7.3", "config": config}
    results = {"synth_needle": {"exact_match,none": 0.25}}
    (folder / f"{date}_results.json").write_text(json.dumps({"results": results, **about}))


def joined(results: Results, given: object) -> tuple[pd.DataFrame, Results]:
    """Its rows, compared, and all."""
    foreign = read_foreign(str(given))
    both = join(results, foreign, REFERENCE)
    rows = compare(both, REFERENCE)
    return rows[rows["label"] == foreign.label], both


def test_a_row_is_paired_question_by_question(results: Results, tmp_path: Path) -> None:
    right = np.random.default_rng(0).uniform(size=QUESTIONS) < 0.6
    folder = write(tmp_path / MODEL, [line(n, float(score)) for n, score in enumerate(right)])
    write_results(folder)
    rows, both = joined(results, tmp_path)
    (row,) = rows.itertuples()
    assert (row.label, row.suite, row.accuracy) == ("foreign: Qwen2.5-VL-7B", "synth_needle", right.mean())
    assert row.lmms_eval == 0.25
    reference = results.cells[(results.cells["variant"] == REFERENCE) & (results.cells["suite"] == "synth_needle")]
    own, other = (both.questions[both.questions["cell"] == cell] for cell in (row.id, reference["id"].iloc[0]))
    expected = difference_of(reference.iloc[0], (own, other))
    assert (row.pairs, row.difference, row.p) == (QUESTIONS, expected.difference, expected.p)
    assert row.p < 1e-6
    about, pairs = both.problems[:2]
    assert "Qwen__Qwen2.5-VL-7B (qwen2_5_vl pretrained=Qwen2.5-VL-7B,api_key=...;x; 2025-11-02 03:04; lmms" in about
    assert pairs == "foreign: Qwen2.5-VL-7B, synth_needle: 200 of our 200 questions paired"


def test_what_does_not_pair_is_left_out_and_said(results: Results, tmp_path: Path) -> None:
    lines: list[Any] = [line(n) for n in range(100)] + [line(900)]
    lines[7] = line(7, target="blue")
    lines += [line(8), line(9, score=0.0), '{"doc_id": 99, "tar', '["no", "sample"]', "[" * 10**5]
    lines += [line(150) | {"exact_match": None}]
    rows, both = joined(results, f"{write(tmp_path / 'a=b', lines)}=mine")
    (row,) = rows.itertuples()
    assert (row.label, row.answered, row.accuracy) == ("foreign: mine", 98, 1.0)
    assert [note.partition("synth_needle: ")[2] for note in both.problems[1:4]] == [
        "98 of our 200 questions paired; 1 of theirs we did not ask; 1 with another answer or kind left out; "
        "1 without a score of exact_match from 0 to 1",
        "damaged lines, left out: 3",
        "questions that stand there twice with different answers, left out: 1",
    ]


def test_the_latest_run_of_each_task_counts(results: Results, tmp_path: Path) -> None:
    folder = write(tmp_path, [line(n, 0.0) for n in range(50)], date="20240101_000000")
    write(folder, [line(n, 0.0) for n in range(50)], "synth_order", date="20240101_000000")
    write(folder, [line(n, 1.0) for n in range(30)])
    rows, both = joined(results, folder)
    assert list(zip(rows["suite"], rows["accuracy"], rows["answered"], strict=True)) == [
        ("synth_needle", 1.0, 30),
        ("synth_order", 0.0, 50),
    ]
    assert "of 20251102_030405, the latest run; passed over: 20240101_000000" in both.problems[2]
    assert "synth_order: of another run: a model that no results file names; 2024-01-01 00:00" in both.problems[4]


def test_what_cannot_be_a_row_is_refused(results: Results, tmp_path: Path) -> None:
    def refused(given: object) -> str:
        with pytest.raises(NotForeign) as told:
            joined(results, given)
        assert "\n" not in str(told.value)
        return str(told.value)

    assert f"no folder {tmp_path / 'none'};" in refused(tmp_path / "none")
    assert f"no folder {tmp_path / 'none'};" in refused(f"{tmp_path / 'none'}=b=4 w=8")
    assert "no folder ~nobody-of-this-name" in refused("~nobody-of-this-name")
    assert "expected <date>_samples_<task>.jsonl" in refused(tmp_path)
    (tmp_path / "only").mkdir()
    write_results(tmp_path / "only")
    assert "has results, but no samples" in refused(tmp_path / "only")
    one = write(tmp_path / "two" / "a", [line(0)], "mmmu_val")
    write(tmp_path / "two" / "b", [line(0)])
    assert "samples of several models, a row is one: give one of its folders a, b" in refused(tmp_path / "two")
    assert "a has samples of mmmu_val; expected one of the sweep's benchmarks: synth_needle" in refused(one)
    shuffled = write(tmp_path / "other", [line(n, target="red" if n % 2 else "blue") for n in range(20)])
    assert "10 of 20 have another answer or kind, so their numbers mean other questions" in refused(shuffled)
    percent = write(tmp_path / "percent", [line(n, score=100.0) for n in range(20)])
    assert "0 of our 200 questions paired; 20 without a score of exact_match from 0 to 1" in refused(percent)
    taken = join(results, read_foreign(f"{tmp_path / 'two' / 'b'}=x"), REFERENCE)
    with pytest.raises(NotForeign, match="'foreign: x' is taken; give another one: --join FOLDER=LABEL"):
        join(taken, read_foreign(f"{tmp_path / 'two' / 'b'}=x"), REFERENCE)


def test_one_target_for_all_is_an_answer_where_it_is_one_of_ours(results: Results, tmp_path: Path) -> None:
    answers = ["red" if int(number) % 2 else "blue" for number in results.questions["doc_id"]]
    ours = dataclasses.replace(results, questions=results.questions.assign(answer=answers))
    with pytest.raises(NotForeign, match="10 of 20 have another answer or kind"):
        joined(ours, write(tmp_path / "red", [line(n) for n in range(20)]))
    _, both = joined(ours, write(tmp_path / "function", [line(n, target="gpt_eval") for n in range(20)]))
    assert "their samples do not tell the right answer" in both.problems[1]


def test_labels_may_hold_any_letters_and_be_long(tmp_path: Path) -> None:
    budget_sweep(tmp_path)
    theirs = write(tmp_path / "a=b", [line(n) for n in range(40)])
    long = "x" * 300
    for label in ("b=4 w=8", f"{long}1", f"{long}2", "\u65b9" * 100):
        assert main(["table", "--out", str(tmp_path), "--join", f"{theirs}={label}"]) == 0
    tables = [path.read_text() for path in (tmp_path / "joined").glob("*/table.csv")]
    assert len(tables) == 4
    assert sum("foreign: b=4 w=8," in table for table in tables) == 1
    several = [part for number in range(5) for part in ("--join", f"{theirs}={long}{number}")]
    assert main(["table", "--out", str(tmp_path), *several]) == 0


def test_the_command_leaves_the_sweeps_own_files_alone(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    sweep = budget_sweep(tmp_path)
    theirs = write(tmp_path / "theirs", [line(n) for n in range(40)])
    command = ["--out", str(tmp_path), "--join"]
    assert main(["table", *command, f"{theirs}=a b"]) == 0
    told = capsys.readouterr().out
    assert "foreign: a b, synth_needle: 40 of our 200 questions paired" in told.replace("\n", " ")
    made = tmp_path / "joined" / "tiny-budget+a-b"
    assert "| foreign: a b | 100.0 [91.2–100.0]" in (made / "table.md").read_text()
    assert [path.name for path in sweep.iterdir()] == ["plan.json"]
    assert main(["table", "published", *command, str(theirs)]) == 2
    assert "published takes no --join; these do: table, parts, report" in capsys.readouterr().err
    assert main(["table", *command, str(tmp_path / "none")]) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert "give FOLDER or FOLDER=LABEL" in message
