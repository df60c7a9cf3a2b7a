"""The benchmark of training, without a card: what it counts is what runs, and a row says what was measured."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from videonsa.bench import count, packing, resuming, shapes, training
from videonsa.bench.steps import Plan, RandomVideos, conversation
from videonsa.training.batch import answer_loss, encode

ROOT = Path(__file__).parents[2]


def plan(**changes) -> Plan:
    return Plan(**{"model": "tiny", "attention": "nsa", "tokens": (64, 128), "repeats": 1, **changes})


@pytest.mark.parametrize("attention", ["nsa", "dense"])
def test_operations_are_those_that_torch_counts(attention):
    asked = plan(attention=attention)
    model, processor = shapes.build("tiny", asked.nsa, torch.float32, torch.device("cpu"))
    sample = asked.sample(128, processor)
    batch = encode(processor, [conversation(64, 2, 0)], asked.settings.pixels_per_frame)
    assert batch["input_ids"].shape[1] == sample.tokens
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        answer_loss(model.train(), batch)
    found = {str(name): flops for name, flops in counter.get_flop_counts()["Global"].items()}
    counted, length = count.work(model, sample, asked.settings), sample.tokens
    products = counted.layers + counted.gates + counted.head + counted.tower
    assert found["aten.mm"] + found["aten.addmm"] == products
    if attention == "dense":  # torch computes all pairs, of which a causal method needs half, and the diagonal
        whole = found["aten.bmm"] - counted.tower_attention
        assert counted.attention == whole * (length + 1) / (2 * length)


def test_pairs_are_those_of_each_token():
    asked = plan()
    text, vision = 7, 32
    pairs = sum(range(1, text // 2 + 1)) + sum(range(text // 2 + vision + 1, text + vision + 1))
    for place in range(vision):  # blocks of 4, two of them, a window of 6; and the means of the blocks that have ended
        selected = place % 4 + 1 + 4 * (place >= 4)
        pairs += min(place + 1, selected + min(place + 1, 6)) + (place + 1) // 4
    assert count.pairs_of(count.Sample(text, 1, 8, 4, 4), asked.settings) == pairs


def test_memory_that_is_counted_is_what_trainings_held():
    """Rows of a card: the decoder alone, weights and gradients in bfloat16, no optimizer."""
    model = training.empty(plan(model="7b"))
    weights = count.weights_of(model)
    with (ROOT / "benchmarks" / "model_h200.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["mode"] == "train"]
    assert len(rows) == 4
    for row in rows:
        kind = {"videonsa": "nsa"}.get(row["provider"], row["provider"])
        asked = plan(model="7b", attention=kind, sequence_parallel=2)  # so that what is kept is in bfloat16
        sample = count.Sample(0, 0, 2 * int(row["length"]) // 64, 16, 16)
        parts = count.memory(model, sample, asked.settings, asked.gpus)
        state = (4 * weights.layers + (4 if kind == "nsa" else 2) * weights.gates) / 2**30
        counted = state + parts["layers"] + parts["working"]
        assert counted == pytest.approx(float(row["peak_gib"]), rel=0.04)


def test_state_is_what_adamw_keeps():
    asked = plan()
    model, _ = shapes.build("tiny", asked.nsa, torch.float32, torch.device("cpu"))
    optimizer = torch.optim.AdamW(model.parameters())
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    moments = [value for kept in optimizer.state.values() for name, value in kept.items() if name != "step"]
    held = [*model.parameters(), *(weight.grad for weight in model.parameters()), *moments]
    parts = count.memory(model, count.Sample(0, 0, 16, 4, 4), asked.settings, 1)
    assert parts["state"] * 2**30 == sum(tensor.nbytes for tensor in held)


def test_a_row_follows_from_what_the_processes_say():
    asked = plan(data_parallel=2)
    model = training.empty(asked)
    said = {"data_s": [0.5], "first_s": 9.0, "step_s": [2.0], "losses": [7.0, 6.0], "peak_gib": 1.5}
    said |= {"attention_forward_s": 0.01, "attention_backward_s": 0.03}
    row = training.row(asked, model, 64, [said, {**said, "step_s": [4.0], "peak_gib": 2.0}])
    sample = training.sample_of(asked, 64)
    work = count.work(model, sample, asked.settings)
    assert set(row) | {"gpu", "torch", "triton", "transformers", "commit"} == set(training.COLUMNS)
    assert (row["step_s"], row["peak_gib"], row["first_s"], row["loss"]) == (4.0, 2.0, 9.0, 6.0)
    assert row["tokens_per_s"] == pytest.approx(2 * sample.tokens / 4, rel=1e-4)
    assert row["mfu"] == pytest.approx(3 * work.forward * 2 / (989e12 * 2 * 4), rel=1e-4)
    assert row["attention_s"] == pytest.approx(3 * (2 * 0.01 + 0.03))
    again = work.layers + work.gates + work.tower + work.tower_attention
    products = 3 * (work.forward - work.attention) + again
    assert row["bound_step_s"] == pytest.approx(row["attention_s"] + products / 650e12, rel=1e-4)
    assert row["bound_tokens_per_s"] == pytest.approx(2 * sample.tokens / row["bound_step_s"], rel=1e-4)
    missing = training.row(asked, model, 64, None, "out of memory")
    assert missing["status"] == "out of memory"
    assert "step_s" not in missing
    assert training.line(missing).endswith("GiB a GPU are counted")


def test_what_cannot_run_is_said(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert training.main(["--model", "3b"]) == 2
    assert "torch finds no CUDA device" in capsys.readouterr().err
    for bench in (training, resuming):
        assert bench.main(["--model", "3b", "--tokens", "100"]) == 2
        assert "tokens=100 is not valid: a multiple of 64" in capsys.readouterr().err
    assert training.main(["--model", "tiny", "--tokens", "64", "--attention", "nsa", "--count"]) == 0
    assert "tiny   nsa      64 on 1: forward 0.00 TFLOP" in capsys.readouterr().out


def test_each_step_of_uneven_samples_has_all_lengths():
    plans = packing.planned(packing.parse(["--model", "tiny", "--tokens", "8", "32", "--repeats", "1"]))
    laid_out = [(plan.micro_batch_size, plan.settings.packing, plan.settings.row_tokens) for plan in plans.values()]
    assert laid_out == [(1, False, None), (2, False, None), (1, True, 32768)]
    for plan in plans.values():
        assert (plan.settings.batch_size, plan.settings.steps) == (4, 2)
        videos = RandomVideos(plan)
        assert [2 * videos[index].video.frames.shape[0] for index in range(8)] == [8, 32] * 4


def test_a_row_of_packing_counts_what_is_no_padding():
    plan = packing.planned(packing.parse(["--model", "tiny", "--tokens", "8", "32"]))["padded"]
    said = {"step_s": [1.0, 2.0, 9.0], "data_s": [0.0], "peak_gib": 1, "losses": [5.0, 4.0]}
    made = packing.row("padded", plan, said)
    tokens = 2 * sum(training.sample_of(plan, length).tokens for length in (8, 32))
    assert (made["tokens_per_s"], made["samples"], made["loss"]) == (tokens / 2, 4, 4.0)
    assert set(made) | {"gpu", "torch", "triton", "transformers", "commit"} == set(packing.COLUMNS)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--tokens", "10"], "tokens=10 is not valid: a multiple of 4"),
        (["--tokens", "8", "--times", "3"], "micro_batch_size=2 is not valid: 2 or more that divide 3 samples"),
        (["--tokens", "8", "--micro-batch-size", "1"], "micro_batch_size=1 is not valid"),
        (["--tokens", "64", "8", "16", "--row-tokens", "50"], "or more, so that a row holds two neighbours"),
    ],
)
def test_packing_of_what_cannot_be_laid_out_is_refused(given, said, capsys):
    assert packing.main(["--model", "tiny", *given]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.long
def test_samples_of_uneven_lengths_give_equal_losses_in_each_layout(tmp_path, capsys):
    out = tmp_path / "packing.csv"
    given = ["--model", "tiny", "--tokens", "16", "64", "--row-tokens", "300", "--repeats", "1", "--out", str(out)]
    assert packing.main(given) == 0
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["layout"], row["micro_batch_size"], row["row_tokens"]) for row in rows] == [
        ("alone", "1", ""), ("padded", "2", ""), ("packed", "", "300")
    ]  # fmt: skip
    assert float(capsys.readouterr().out.splitlines()[-1].split(": ")[1]) < 1e-3


@pytest.mark.long
def test_lengths_are_measured_until_one_fails(tmp_path):
    out = tmp_path / "training.csv"
    given = ["--model", "tiny", "--attention", "nsa", "--tokens", "128", "64", "--repeats", "1", "--out", str(out)]
    assert training.main([*given, "--sequence-parallel", "2"]) == 0
    assert training.main([*given, "--minutes", "0.001"]) == 1
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["tokens"] for row in rows] == ["64", "128"] * 2
    assert [bool(row["step_s"]) for row in rows] == [True, True, False, False]
    assert rows[2]["status"] == "stopped after 0.001 minutes"
    assert rows[3]["status"] == "not run: 64 did not"


@pytest.mark.long
def test_no_process_outlives_a_benchmark_that_is_told_to_end():
    given = ["--model", "tiny", "--attention", "nsa", "--tokens", "64", "--repeats", "100000"]
    bench = subprocess.Popen(
        [sys.executable, "-m", "videonsa.bench.training", *given], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    end, started = time.monotonic() + 120, []
    while len(started) < 2:  # the launcher and its process
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)
        started = psutil.Process(bench.pid).children(recursive=True)
    bench.terminate()
    assert bench.wait(90) != 0
    assert not any(process.is_running() for process in started)


@pytest.mark.long
def test_losses_of_a_stopped_training_stand_beside_those_of_one_that_was_not(tmp_path):
    out = tmp_path / "resumed.csv"
    assert resuming.main(["--model", "tiny", "--tokens", "64", "--steps", "4", "--gpus", "2", "--out", str(out)]) == 0
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert len({row["loss"] for row in rows}) == 4
    for row in rows:  # on a CPU, and as many processes: to the last bit
        assert row["loss"] == row["again"] == row["resumed"]
