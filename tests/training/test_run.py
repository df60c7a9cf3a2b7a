"""Whole runs of a second: resuming, batching, what a run leaves, real videos, several processes."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor

from tests.training.conftest import NSA, metrics, quick
from tests.training.together import GATE, LORA, MOVES, Stopped, all_cases, four_heads, gradients, stop_at
from videonsa.bench.packing import report
from videonsa.config import SettingsError, to_dict
from videonsa.counts import count_weights
from videonsa.identity import FIRST_FIELDS
from videonsa.limit import Limit
from videonsa.modeling import capture_attention, load_model
from videonsa.small import SMALL
from videonsa.tiny import build_tiny
from videonsa.training.batch import answer_loss, encode
from videonsa.training.checkpoint import finished
from videonsa.training.loop import Diverged
from videonsa.training.measure import measure_gates
from videonsa.training.run import claim, main, train
from videonsa.training.skipped import in_words
from videonsa.training.sources import SyntheticSource
from videonsa.training.watch import Left


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory) -> Path:
    """A run from start to end."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        train(quick(), folder, on_progress=lambda done, total: None)
    return folder


@pytest.mark.parametrize("step", [1, 3, "told", pytest.param("time", marks=pytest.mark.long), 5])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(whole_run, tmp_path, step):
    if step == "told":
        with pytest.raises(Left, match="told to leave: step 5 of 6 is saved"):
            train(quick(), tmp_path, lambda done, total: done == 4 and signal.raise_signal(signal.SIGTERM))
        step = 6
    elif step == "time":
        limit = Limit()
        with pytest.raises(Left, match="time is up: step 5 of 6 is saved"):
            train(
                quick(),
                tmp_path,
                lambda done, total: setattr(limit, "ends", 0 if done == 4 else limit.ends),
                limit=limit,
            )
        step = 6
    else:
        with pytest.raises(Stopped):
            train(quick(), tmp_path, on_progress=stop_at(step))
    assert not (tmp_path / "final").exists()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": ')  # a kill cuts a line short
    steps = []
    train(quick(), tmp_path, on_progress=lambda done, total: steps.append((done, total)))
    assert steps[0] == (6 if step == 6 else (step - 1) // 2 * 2 + 1, 6)  # a checkpoint after 2 steps, once told
    assert metrics(tmp_path) == metrics(whole_run)
    ours, theirs = (load_model(folder / "final").state_dict() for folder in (tmp_path, whole_run))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.long
def test_a_stopped_run_in_packed_rows_goes_on_as_if_it_had_not_been(tmp_path):
    packed = quick(packing=True, row_tokens=120)
    train(packed, tmp_path / "whole", on_progress=lambda done, total: None)
    with pytest.raises(Stopped):
        train(packed, tmp_path / "stopped", on_progress=stop_at(3))
    train(packed, tmp_path / "stopped", on_progress=lambda done, total: None)
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")


def test_a_half_written_checkpoint_is_not_taken(tmp_path):
    with pytest.raises(Stopped):
        train(quick(), tmp_path, on_progress=stop_at(3))
    checkpoints = tmp_path / "checkpoints"
    assert [place.name for place in finished(checkpoints)] == ["000002"]
    (checkpoints / ".000004").mkdir()
    (checkpoints / "000005").mkdir()
    assert [place.name for place in finished(checkpoints)] == ["000002"]
    train(quick(), tmp_path, on_progress=lambda done, total: None)


def test_old_checkpoints_are_pruned(tmp_path):
    with pytest.raises(Stopped):
        train(quick(save_every=1), tmp_path, on_progress=stop_at(4))
    assert [place.name for place in finished(tmp_path / "checkpoints")] == ["000003"]
    with pytest.raises(Stopped):
        train(quick(save_every=1, keep_checkpoints=2), tmp_path, on_progress=stop_at(5))
    assert [place.name for place in finished(tmp_path / "checkpoints")] == ["000003", "000004"]


def test_a_finished_run_is_left_alone(whole_run):
    before = (whole_run / "metrics.jsonl").read_bytes()
    train(quick(), whole_run, on_progress=stop_at(1))
    assert (whole_run / "metrics.jsonl").read_bytes() == before
    assert not (whole_run / "checkpoints").exists()
    assert count_weights(str(whole_run / "final")) == count_weights("tiny")


def test_a_kill_between_final_and_the_end_leaves_no_checkpoints(whole_run, tmp_path):
    shutil.copytree(whole_run, tmp_path / "run")
    for left in ("checkpoints/000006", ".checkpoints/000004"):
        (tmp_path / "run" / left).mkdir(parents=True)
    train(quick(), tmp_path / "run", on_progress=stop_at(1))
    assert not list((tmp_path / "run").glob("*checkpoints"))


def test_metrics_tell_the_run(whole_run):
    lines = metrics(whole_run)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "learning_rate", "grad_norm", "tokens"} <= set(lines[0])
    assert lines[-1]["tokens"] > lines[0]["tokens"] > 0
    (last,) = [json.loads(line) for line in (whole_run / "metrics.jsonl").read_text().splitlines()][-1:]
    assert 0 <= last["data_s"] <= last["step_s"] <= last["seconds"]
    assert last["tokens_per_s"] == pytest.approx((last["tokens"] - lines[-2]["tokens"]) / last["step_s"], rel=0.01)
    assert 0.01 < last["peak_gib"] < 100


def test_the_seed_decides(whole_run, tmp_path):
    train(quick(seed=1), tmp_path, on_progress=lambda done, total: None)
    assert metrics(tmp_path)[0]["loss"] != metrics(whole_run)[0]["loss"]


@pytest.mark.parametrize("changes", [{"micro_batch_size": 4}, {"packing": True, "row_tokens": 120}], ids=str)
def test_what_a_device_holds_at_once_does_not_change_the_step(changes, whole_run, tmp_path):
    train(quick(**changes), tmp_path, on_progress=lambda done, total: None)
    for ours, theirs in zip(metrics(tmp_path), metrics(whole_run), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)
        assert ours["tokens"] == theirs["tokens"]
    ours, theirs = ([line | {"seconds": 2.0 * line["step"]} for line in metrics(at)] for at in (tmp_path, whole_run))
    rate = (theirs[-1]["tokens"] - theirs[1]["tokens"]) / 8
    assert report(theirs, ours).startswith(f"{rate:,.0f} tokens/s packed, {rate:,.0f} without (1.00 x), 4 steps of ")


def test_static_gates_are_the_mean_of_the_dynamic_ones(whole_run):
    model = load_model(whole_run / "final")
    gates = torch.tensor(model.config.static_gates)
    assert gates.shape == (3, 4, 3)
    assert 0 < gates.min() <= gates.max() < 1
    batch = encode(
        AutoProcessor.from_pretrained(whole_run / "final"), [SyntheticSource(quick())[0]], quick().pixels_per_frame
    )
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    dynamic = model(**inputs).logits
    model.set_nsa(gate_mode="static")
    static = model(**inputs).logits
    assert not torch.equal(static, dynamic)
    assert (static - dynamic).abs().max() < 0.5  # six steps from gates of 0.5


def test_gates_of_a_checkpoint_are_measured_over_samples_spread_over_a_training(tiny_folder):
    settings = quick(steps=3, batch_size=2, micro_batch_size=1)
    seen = []
    found = measure_gates(tiny_folder, {}, settings, 3, on_progress=lambda *done: seen.append(done))
    model, processor = load_model(tiny_folder), AutoProcessor.from_pretrained(tiny_folder)
    source = SyntheticSource(settings)
    gates = []
    for index in (0, 2, 4):
        batch = encode(processor, [source[index]], settings.pixels_per_frame)
        with torch.no_grad(), capture_attention(model) as captured:
            model(**{name: tensor for name, tensor in batch.items() if name != "labels"})
        gates.append(torch.stack([inputs.gates[0] for inputs in captured], dim=1))
    expected = torch.cat(gates).mean(dim=0)
    assert torch.allclose(torch.tensor(found["static_gates"]), expected, atol=1e-6)
    assert (found["samples"], found["tokens"]) == (3, len(torch.cat(gates)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert measure_gates(tiny_folder, {}, settings, 1000)["samples"] == 6  # no more than the training has


def test_gates_need_vision(tiny_folder, tmp_path):
    entry = {"conversations": [{"from": "human", "value": "how many"}, {"from": "gpt", "value": "one"}]}
    (tmp_path / "data.json").write_text(json.dumps([entry, entry | {"video": "lost.mp4"}]))
    settings = quick(data=str(tmp_path / "data.json"), video_folder=str(tmp_path), steps=1)
    with pytest.raises(SettingsError, match="no vision token in 4 samples"):
        measure_gates(tiny_folder, {}, settings, 10)


def test_training_lowers_the_loss(tmp_path):
    settings = quick(families=("layout",), frames=(2,), steps=60, batch_size=8, micro_batch_size=8, learning_rate=3e-3)
    train(settings, tmp_path, on_progress=lambda done, total: None)
    losses = [line["loss"] for line in metrics(tmp_path)]
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 2  # from about ln 558 to the choice among the options


def test_from_a_folder_on_real_videos(tiny_folder, video_data, tmp_path):
    settings = quick(
        model=str(tiny_folder),
        data=str(video_data / "data.jsonl"),
        video_folder=str(video_data),
        steps=2,
        micro_batch_size=1,
        precision="bf16",
        activation_checkpointing=True,
        save_every=1,
        max_skipped=0.3,
    )
    with pytest.raises(SettingsError, match=r"max_skipped=0.3: 1 of 3 samples .*, such as 2, 2.mp4: .*skipped.jsonl"):
        train(settings, tmp_path, on_progress=lambda done, total: None)
    assert len((tmp_path / "skipped.jsonl").read_text().splitlines()) == 1
    final = train(dataclasses.replace(settings, max_skipped=0.4), tmp_path, on_progress=lambda done, total: None)
    assert "sample 2, 2.mp4 skipped" in (tmp_path / "log.txt").read_text()
    (line,) = (tmp_path / "skipped.jsonl").read_text().splitlines()
    found = json.loads(line)
    assert (found["step"], found["entry"], found["sample"]) == (1, 3, "2, 2.mp4")
    assert in_words(tmp_path) == f"1 sample could not be shown (1 {found['why']}): {tmp_path / 'skipped.jsonl'}"
    model = load_model(final)
    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    assert model.config.nsa == NSA
    start = load_model(tiny_folder).state_dict()
    trained = model.state_dict()
    moved = {name for name in start if not torch.equal(start[name].bfloat16(), trained[name])}
    for part in ("visual.patch_embed", "visual.merger", "embed_tokens", "g_proj_2"):  # tower, projector, LLM, gates
        assert any(part in name for name in moved), part


def test_bf16_reaches_the_attention_kernels():
    """In float32 a GPU would have no fast path, and the Triton kernels refuse mixed inputs."""
    model, processor = build_tiny(NSA, seed=0)
    batch = encode(processor, [SyntheticSource(quick())[0]], quick().pixels_per_frame)
    with torch.autocast("cpu", torch.bfloat16), capture_attention(model) as captured:
        answer_loss(model, batch).mean().backward()
    assert {tensor.dtype for each in captured for tensor in (each.query, each.key, each.value)} == {torch.bfloat16}
    assert model.model.language_model.layers[0].self_attn.g_proj_2.weight.grad.dtype == torch.float32


def test_activation_checkpointing_changes_no_loss(whole_run, tmp_path):
    told = []
    settings = quick(activation_checkpointing=True, deterministic=True)
    train(settings, tmp_path, on_progress=lambda *_: told.append(torch.are_deterministic_algorithms_enabled()))
    assert [line["loss"] for line in metrics(tmp_path)] == pytest.approx([line["loss"] for line in metrics(whole_run)])
    assert (told, torch.are_deterministic_algorithms_enabled()) == ([True] * 6, False)
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


def test_a_dense_twin_is_trained_without_gates(tmp_path):
    settings = quick(nsa=dataclasses.replace(NSA, attention="dense"), steps=2)
    final = train(settings, tmp_path, on_progress=lambda done, total: None)
    model = load_model(final)
    assert model.config.attention == "dense"
    assert model.config.static_gates is None
    fresh, _ = build_tiny(NSA, seed=0)
    name = "model.language_model.layers.0.self_attn.g_proj_1.weight"
    assert torch.equal(model.state_dict()[name], fresh.state_dict()[name])


def test_a_run_whose_loss_is_no_number_ends_and_says_so(tmp_path):
    with pytest.raises(Diverged, match="step 2: loss nan"):
        train(quick(learning_rate=1e30, warmup_fraction=0, max_grad_norm=1e30), tmp_path, lambda done, total: None)
    assert not (tmp_path / "final").exists()


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="a multiple of micro_batch_size"):
        train(quick(micro_batch_size=3), tmp_path)


def test_a_folder_serves_one_run(tmp_path):
    with pytest.raises(Stopped):
        train(quick(), tmp_path, on_progress=stop_at(1))
    with pytest.raises(SettingsError, match="other frames, learning_rate"):
        train(quick(learning_rate=2e-3, frames=(8,)), tmp_path)
    assert json.loads((tmp_path / "settings.json").read_text()) == to_dict(quick())


def test_a_folder_serves_one_run_by_fields_that_are_new_too(tmp_path, monkeypatch):
    """Such a field is left out of the inputs where it does what was done before it."""
    known = tuple(name for name in FIRST_FIELDS["TrainSettings"] if name != "max_grad_norm")
    monkeypatch.setitem(FIRST_FIELDS, "TrainSettings", known)
    claim(tmp_path, quick(max_grad_norm=2.0))
    claim(tmp_path, quick(max_grad_norm=2.0))
    with pytest.raises(SettingsError, match="other max_grad_norm"):
        claim(tmp_path, quick(max_grad_norm=1.0))


def test_the_command_line_names_what_is_wrong(tmp_path, capsys):
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"model": "tiny", "stepz": 3}))
    assert main([str(file), str(tmp_path / "run")]) == 2
    assert "unknown key 'stepz'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main([str(file), ""])  # no folder was meant: not the current one
    assert end.value.code == 2
    assert "the value is empty" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sequence_parallel": 3}, "sequence_parallel=3 is not valid: a divisor of the 1 processes"),
        ({"sharding": "half"}, "sharding='half' is not valid: .*none, full"),
        ({"offload": True}, "offload=True is not valid: false, or with sharding: full"),
        ({"offload": True, "sharding": "full"}, "offload=True is not valid: false for one process"),
    ],
)
def test_placements_that_cannot_be_are_refused(changes, said, tmp_path):
    with pytest.raises(SettingsError, match=said):
        train(quick(**changes), tmp_path)
