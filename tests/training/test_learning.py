"""Parts that stay as they are, adapters that learn for the decoder, and gates that start elsewhere."""

from __future__ import annotations

import contextlib
import json

import pytest
import torch
import torch.distributed.checkpoint as dcp

from tests.training.conftest import NSA, quick, save_stock
from tests.training.together import Stopped, stop_at
from videonsa.config import SettingsError
from videonsa.modeling import load_model
from videonsa.tiny import build_tiny
from videonsa.training.batch import encode
from videonsa.training.learning import part_of
from videonsa.training.loop import Trainer
from videonsa.training.run import train
from videonsa.training.sources import SyntheticSource
from videonsa.training.start import start_model


def quiet(done: int, total: int) -> None:
    pass


def test_adapters_are_merged_and_what_stays_is_kept_to_the_bit(tmp_path, monkeypatch):
    settings, trainers = quick(lora_rank=4, lora_alpha=4, freeze="tower", steps=4), []
    resume = Trainer.resume
    monkeypatch.setattr(Trainer, "resume", lambda trainer, folder: trainers.append(trainer) or resume(trainer, folder))
    final = train(settings, tmp_path / "whole", quiet)
    loaded, (trainer,) = load_model(final), trainers
    start, processor = build_tiny(NSA, seed=0)
    before, after = start.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {part_of(name) for name in moved} == {"projector", "decoder", "gates"}
    assert all(name.endswith("_proj.weight") for name in moved if part_of(name) == "decoder")
    assert {id(weight) for weight in trainer.optimizer.state} == {
        id(weight) for weight in trainer.model.parameters() if weight.requires_grad
    }
    batch = encode(processor, [SyntheticSource(settings)[0]], settings.pixels_per_frame)
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    with torch.no_grad():
        assert torch.allclose(loaded(**inputs).logits, trainer.model.eval()(**inputs).logits, atol=1e-5)
    told = json.loads((tmp_path / "whole/start.json").read_text())
    assert told["gates"] == "fresh"
    assert told["learning"] < told["parameters"] / 2
    with contextlib.suppress(Stopped):
        train(settings, tmp_path / "stopped", stop_at(3))
    names = dcp.FileSystemReader(tmp_path / "stopped/checkpoints/000002").read_metadata().state_dict_metadata
    saved = {name.removeprefix("weights.") for name in names if name.startswith("weights.")}
    assert saved == {name for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    again = load_model(train(settings, tmp_path / "stopped", quiet)).state_dict()
    assert all(torch.equal(again[name], after[name]) for name in after)


def test_gates_start_where_they_are_told_to(tiny_folder, tmp_path):
    values = (0.1, 0.9, 0.5)
    model, _, gates = start_model(quick(gate_start=values))
    assert gates == "fresh"
    states = torch.randn(5, model.config.text_config.hidden_size) * 0.01
    opened = model.model.language_model.layers[0].self_attn.gates(states, 0.3)
    assert torch.allclose(opened, torch.tensor(values).expand_as(opened), atol=0.02)
    with pytest.raises(SettingsError, match=r"gate_start=\(0.1, 0.9, 0.5\) is not valid: 0.5 for .* holds gates"):
        start_model(quick(model=str(tiny_folder), gate_start=values))
    assert start_model(quick(model=str(tiny_folder)))[2] == "trained"


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_stock_weights_in_several_files_get_fresh_gates(tmp_path, tied):
    stock = save_stock(tmp_path, tied)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    model, _, gates = start_model(quick(model=str(tmp_path)))
    assert (gates, model.dtype, model.config.nsa) == ("fresh", torch.float32, NSA)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    assert torch.equal(model.lm_head.weight.bfloat16(), stock.lm_head.weight)
