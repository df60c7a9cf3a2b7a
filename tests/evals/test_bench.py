"""The benchmarks of evaluation, without a card: what they need is said; long: they go through on a CPU."""

from __future__ import annotations

import csv
import json
from importlib.metadata import PackageNotFoundError, version

import pytest
import torch

from videonsa.bench import busy, dealing, probe, sweep
from videonsa.bench.check import CheckFailed

TRY = [
    *("--model", "tiny", "--size", "360p", "--seconds", "20", "--videos", "2", "--frames", "8"),
    *("--tokens-per-frame", "4", "--answer", "2"),
]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("command", [busy, dealing, sweep, probe], ids=lambda each: each.NAME)
def test_without_a_device_it_says_so(command, capsys):
    assert command.main([]) == 2
    assert f"{command.NAME} measures on CUDA, and torch finds no CUDA device" in capsys.readouterr().err


def test_a_probe_has_a_row_for_each_observer_and_beside_them(tmp_path, capsys):
    out, asked = tmp_path / "probe.csv", ["--observers", "gate_content", "gates", "--model", "tiny", "--layers", "1"]
    assert probe.main([*asked, "--tokens", "128", "--out", str(out)]) == 0
    found = list(csv.DictReader(out.open()))
    assert [row["observer"] for row in found] == ["none", "gates", "gate_content", "all"]
    assert all(float(row["seconds"]) > 0 and row["tokens"] == "128" for row in found)
    with pytest.raises(SystemExit):
        probe.main(["--tokens", "100"])
    assert "--tokens 100: give whole temporal patches of 64 tokens" in capsys.readouterr().err


def test_a_cell_dealt_over_gpus_counts_from_when_each_has_answered():
    seen = {"a.jsonl": [10.0, 12.0, 14.0, 16.0], "b.jsonl": [11.0, 13.0, 15.0], "c.jsonl": []}
    assert dealing.times(seen, 2) == {"loading_s": 11.0, "asking_s": 5.0, "answers": 5, "questions_per_s": 1.0}
    with pytest.raises(CheckFailed, match="2 processes answered on 3 GPUs"):
        dealing.times(seen, 3)
    with pytest.raises(CheckFailed, match="ask more questions"):
        dealing.times({"a.jsonl": [10.0], "b.jsonl": [11.0]}, 2)


def test_a_cell_with_an_error_or_a_question_missing_is_no_measurement(tmp_path):
    record = tmp_path / "cells" / "one" / "record.json"
    record.parent.mkdir(parents=True)
    questions = [{"doc_id": str(number), "prediction": "red", "error": None} for number in range(3)]
    record.write_text(json.dumps({"questions": questions}))
    assert dealing.answers(tmp_path, 3)["said"] == dict.fromkeys("012", "red")
    with pytest.raises(CheckFailed, match="3 of 4 questions were asked"):
        dealing.answers(tmp_path, 4)
    record.write_text(json.dumps({"questions": [*questions[:2], {**questions[2], "error": "out of memory"}]}))
    with pytest.raises(CheckFailed, match="1 questions ended in an error: out of memory"):
        dealing.answers(tmp_path, 3)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--tokens", "100"], "--tokens 100: give whole temporal patches of 64 tokens"),
        (["--questions", "95", "--gpus", "1", "8"], "--questions 95: 8 GPUs want 96 to 192"),
        (["--questions", "193"], "--questions 193: 2 GPUs want 24 to 192"),
        (["--gpus", "2", "1", "2"], "--gpus 2 1 2: give each number once"),
        (["--model", "tiny", "--layers", "2"], "the tiny model has its own"),
    ],
    ids=["tokens", "few", "many", "twice", "tiny"],
)
def test_a_cell_that_cannot_be_dealt_is_refused(asked, said, capsys):
    with pytest.raises(SystemExit):
        dealing.main(asked)
    assert said in capsys.readouterr().err


@pytest.mark.long
def test_a_cell_is_dealt_over_processes_that_answer_alike(tmp_path):
    out, asked = tmp_path / "dealing.csv", ["--model", "tiny", "--tokens", "128", "--questions", "24"]
    assert dealing.main([*asked, "--gpus", "1", "2", "--out", str(out)]) == 0
    one, two = csv.DictReader(out.open())
    assert (one["gpus"], two["gpus"], one["answers"], one["speedup"]) == ("1", "2", "23", "1.0")
    assert float(two["questions_per_s"]) > 0
    assert int(two["answers"]) < 23
    assert float(two["loading_s"]) + float(two["asking_s"]) < float(two["command_s"])


@pytest.mark.long
def test_a_suite_says_how_busy_the_model_was(tmp_path):
    out = tmp_path / "busy.csv"
    assert busy.main([*TRY, "--out", str(out)]) == 0
    (row,) = csv.DictReader(out.open())
    assert row["videos"] == "2"  # the one that warms up is another file
    assert 0 < float(row["busy"]) < 1
    assert 0 < float(row["waited_s"]) < float(row["wall_s"])


@pytest.mark.long
def test_variants_stand_beside_as_many_runs_of_lmms_evals_class(tmp_path):
    try:
        version("decord")  # not by its module: for lmms-eval's tasks an earlier test may have put an empty one there
    except PackageNotFoundError:
        pytest.skip("needs decord: pip install -e '.[bench]'")
    out = tmp_path / "sweep.csv"
    assert sweep.main([*TRY, "--variants", "2", "--out", str(out)]) == 0
    (row,) = csv.DictReader(out.open())
    assert row["tokens"] == row["their_tokens"]
    times = {name: float(row[name]) for name in sweep.COLUMNS if name.endswith("_s")}
    parts = times["theirs_reading_s"] + times["theirs_model_s"] + times["theirs_rest_s"]
    assert parts == pytest.approx(times["theirs_s"], abs=0.01)
    assert float(row["ratio"]) == pytest.approx(2 * times["theirs_s"] / times["ours_s"], rel=1e-2)
