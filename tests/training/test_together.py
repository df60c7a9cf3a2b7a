"""Trainings by several processes: what they learn is what one process learns; how they begin, end and go on."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training.conftest import metrics, quick
from tests.training.together import GATE, LORA, MOVES, all_cases, four_heads, gradients
from videonsa.modeling import load_model
from videonsa.small import SMALL
from videonsa.training.run import train


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> Path:
    """What together.py leaves when two processes run it."""
    return run_together(tmp_path_factory.mktemp("together"), 2)


def run_together(folder: Path, processes: int, *more: str) -> Path:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, "-m", "tests.training.together", str(folder), *more],
        env={**environment, "WANDB_MODE": "disabled"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("run", ["run", "run sharded"])
def test_two_processes_train_as_one(whole_run, two_processes, run):
    for ours, theirs in zip(metrics(two_processes / run), metrics(whole_run), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert ours["tokens"] == theirs["tokens"]
    ours, theirs = (load_model(place / "final").config.static_gates for place in (two_processes / run, whole_run))
    assert torch.allclose(torch.tensor(ours), torch.tensor(theirs), atol=1e-3)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        return all_cases(tmp_path_factory.mktemp("alone"))


def test_one_process_goes_on_where_two_that_shared_the_weights_were_stopped(whole_run, two_processes, tmp_path):
    assert metrics(two_processes / "stopped") == metrics(two_processes / "run sharded")[:3]  # it was offloaded
    shutil.copytree(two_processes / "stopped", tmp_path / "run")
    train(quick(), tmp_path / "run", on_progress=lambda done, total: None)
    for ours, theirs in zip(metrics(tmp_path / "run"), metrics(whole_run), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    ours, theirs = (load_model(place / "final").state_dict() for place in (tmp_path / "run", whole_run))
    assert all(torch.allclose(ours[name], theirs[name], rtol=1e-2, atol=1e-5) for name in theirs)


def test_two_processes_end_at_the_same_step_when_one_is_told_to_leave_or_diverges(whole_run, two_processes, tmp_path):
    left, diverged = (
        [(two_processes / name / f"end {rank}").read_text() for rank in (0, 1)] for name in ("left", "diverged")
    )
    assert left == ["Left: told to leave: step 3 of 6 is saved"] * 2
    assert diverged[0].startswith("Diverged: step 3: loss nan")
    assert diverged[1] == diverged[0]
    shutil.copytree(two_processes / "left", tmp_path / "run")
    steps = []
    train(quick(), tmp_path / "run", on_progress=lambda done, total: steps.append(done))
    assert steps == [4, 5, 6]
    assert [line["loss"] for line in metrics(tmp_path / "run")] == pytest.approx(
        [line["loss"] for line in metrics(whole_run)], rel=1e-4
    )


HEADS, PARTS = {"exchange", "gather", "scatter"}, {"gather", "scatter"}  # what processes that share a sample call
SPOKEN = {"": set(), " sharded": set(), " over": HEADS, " in parts": PARTS}


@pytest.mark.parametrize(
    ("case", "sharded"),
    [*itertools.product(("nsa", "dense"), ("", " over")), ("nsa", " sharded"), ("nsa", " in parts")],
)
def test_text_and_unused_gates_change_no_gradient_between_processes(case, sharded, one_process, two_processes):
    alone, together = one_process[case], torch.load(two_processes / "found.pt")[case + sharded]
    assert set(together["calls"]) == SPOKEN[sharded]
    for gates in together["by rank"]:  # each has a gate's whole gradient, also if its own tokens are all text
        for ours, theirs in zip(gates, together["steps"], strict=True):
            assert (ours is None and theirs[GATE] is None) or torch.equal(ours, theirs[GATE])
    assert together["skipped"] == alone["skipped"]
    assert [line.count("it is lost") for line in alone["skipped"].splitlines()] == [1] * 4
    for ours, theirs in zip(together["steps"], alone["steps"], strict=True):
        # AdamW leaves a weight without a gradient as it is, but would let one whose gradient is 0 decay.
        assert {name for name in ours if ours[name] is None} == {name for name in theirs if theirs[name] is None}
        for name in ours:
            if ours[name] is not None:
                assert torch.allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-6), name
    unused = [sum(gradient is None for gradient in step.values()) for step in alone["steps"]]
    gates = sum("g_proj" in name for name in alone["weights"])
    tower = sum("visual" in name for name in alone["weights"])
    assert unused == [gates * (case == "dense"), gates * (case == "dense"), gates + tower, gates * (case == "dense")]
    if case == "dense":
        assert together["gates"] is None
    else:  # the second process has seen no vision
        assert torch.allclose(torch.tensor(together["gates"]), torch.tensor(alone["gates"]), atol=1e-4)


@pytest.mark.parametrize(
    ("run", "case"), [("two_processes", "lora sharded"), pytest.param("moved", "lora", marks=pytest.mark.long)]
)
def test_adapters_learn_alike_in_two_processes(run, case, request, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    alone, together = gradients(tmp_path, **LORA), torch.load(request.getfixturevalue(run) / "found.pt")[case]
    for ours, theirs in zip(together["steps"], alone["steps"], strict=True):
        learning = {name for name in theirs if theirs[name] is not None}
        assert {name for name in ours if ours[name] is not None} == learning
        assert all(".lora_" in name or "g_proj" in name or "merger" in name for name in learning)
        assert all(torch.allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-6) for name in learning)
    frozen = [
        name for name in alone["weights"] if ".lora_" not in name and "g_proj" not in name and "merger" not in name
    ]
    assert all(torch.equal(together["weights"][name], alone["weights"][name]) for name in frozen)


@pytest.fixture(scope="module")
def moved(tmp_path_factory) -> Path:
    """What runs leave that were stopped in two processes and went on in two, perhaps under another placement."""
    return run_together(tmp_path_factory.mktemp("moved"), 2, "moved")


@pytest.mark.long
@pytest.mark.parametrize("name", MOVES)
def test_a_run_goes_on_under_another_placement(whole_run, moved, name):
    ours, one = metrics(moved / name), metrics(whole_run)
    assert [line["tokens"] for line in ours] == [line["tokens"] for line in one]
    assert [line["loss"] for line in ours] == pytest.approx([line["loss"] for line in one], rel=1e-4)
    if MOVES[name][0] == MOVES[name][1]:  # to the bit
        assert ours == metrics(moved / f"{name}, calm")
        mine, calm = (load_model(moved / run / "final").state_dict() for run in (name, f"{name}, calm"))
        assert all(torch.equal(mine[key], calm[key]) for key in calm)


@pytest.mark.long
def test_weights_are_float32_and_used_in_bf16(whole_run, moved):
    found = torch.load(moved / "found.pt")
    assert found["weights"] == found["gradients"] == found["adamw"] == {torch.float32}
    assert found["used"] == {torch.bfloat16}
    losses = [[line["loss"] for line in metrics(place)] for place in (moved / "bf16", whole_run)]
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)
    assert losses[0] != losses[1]


@pytest.mark.parametrize("case", ["drawn", "tied", "untied"])
def test_only_the_first_process_ever_holds_all_weights(case, two_processes):
    found = torch.load(two_processes / "found.pt")["starts"][case]
    assert found["unlike"] == [[], []]  # of what each process has of a model that was whole in it
    few = found["whole"] / 100  # buffers
    assert found["started"][0] >= found["whole"]
    assert found["started"][1] < few
    assert found["beside"][0] > found["whole"] / 4  # what is not yet dealt out
    assert found["beside"][1] < few


def test_dealt_weights_train_to_the_bit_as_weights_that_each_process_read(two_processes):
    assert metrics(two_processes / "run sharded") == metrics(two_processes / "run from whole")
    ours, theirs = (load_model(two_processes / run / "final").state_dict() for run in ("run sharded", "run from whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_all_processes_are_told_why_the_first_one_cannot_start(two_processes):
    said = torch.load(two_processes / "found.pt")["starts"]["refused"]
    assert said[0] == said[1]
    assert said[0].endswith("there is no such folder")


@pytest.mark.parametrize(("way", "ways"), [("heads", (2, 1)), ("parts", (1, 2))])
def test_a_sample_over_two_processes_is_as_in_one(way, ways, two_processes):
    check_laid_over(torch.load(two_processes / "found.pt")[way], ways)


@pytest.mark.parametrize("case", ["nsa over", "dense over"])
def test_a_process_is_given_the_pixels_that_it_encodes(case, two_processes):
    first, second = torch.load(two_processes / "found.pt")[case]["pixels"]
    assert first
    for (ours, held, whole), (theirs, also, _) in zip(first, second, strict=True):
        assert ours + theirs == whole
        assert (held, also) == (ours, theirs)


def check_laid_over(found, ways):
    assert found.pop("ways") == ways
    for batch in found.values():
        assert batch["loss"] < 1e-5
        assert batch["worst"] < 1e-4  # of the gradients
        assert batch["unlike"] == 0  # a weight is used in all processes or in none
        assert set(batch["calls"]) == (PARTS if ways[0] == 1 else HEADS)
        if ways[0] > 1:  # in and out of a layer's attention, forward and backward
            assert batch["calls"]["exchange"] == 4 * SMALL["tiny"].layers
        assert batch["leaks"] == []


@pytest.mark.long
@pytest.mark.timeout(600)
def test_four_processes_lie_over_heads_and_parts(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    found = torch.load(run_together(tmp_path, 4) / "found.pt")
    for name, alone in (("four", four_heads(tmp_path / "alone")), ("two", gradients(tmp_path / "other"))):
        together = found[name]
        assert set(together["calls"]) == HEADS
        assert torch.allclose(torch.tensor(together["gates"]), torch.tensor(alone["gates"]), atol=1e-4)
        for ours, theirs in zip(together["steps"], alone["steps"], strict=True):
            assert {name for name in ours if ours[name] is None} == {name for name in theirs if theirs[name] is None}
            assert all(torch.allclose(ours[n], theirs[n], rtol=1e-3, atol=1e-6) for n in ours if ours[n] is not None)
    for kv_heads, dense in itertools.product((4, 2, 1), (False, True)):
        check_laid_over(found[kv_heads, dense], (kv_heads, 4 // kv_heads))
