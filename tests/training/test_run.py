"""Whole runs of a second: resuming, batching, what a run leaves, real videos."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal

import pytest
import torch
from transformers import AutoProcessor

from tests.training.conftest import NSA, metrics, quick
from tests.training.together import Stopped, stop_at
from videonsa.config import SettingsError, to_dict
from videonsa.counts import count_weights
from videonsa.identity import FIRST_FIELDS
from videonsa.limit import Limit
from videonsa.modeling import capture_attention, load_model
from videonsa.tiny import build_tiny
from videonsa.training.batch import answer_loss, encode
from videonsa.training.checkpoint import finished
from videonsa.training.loop import Diverged
from videonsa.training.measure import measure_gates
from videonsa.training.run import claim, main, train
from videonsa.training.skipped import in_words
from videonsa.training.sources import SyntheticSource
from videonsa.training.watch import Left


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
