"""Saving and loading: bit-exact, by the Auto classes, from stock weights, settings changed at load, refusals."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.auto import modeling_auto

from tests.modeling.conftest import STOCK, sample
from videonsa.config import NSASettings, SettingsError
from videonsa.modeling import VideoNSAConfig, VideoNSAForConditionalGeneration, VideoNSAModel, load_model
from videonsa.tiny import build_tiny

SAMPLE = (("text", 3), ("video", 8), ("text", 5))


@pytest.fixture(scope="module")
def folder(shared_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint")
    shared_model.save_pretrained(path)
    return path


def test_round_trip_is_bit_exact(shared_model, folder):
    again = AutoModelForImageTextToText.from_pretrained(folder).eval()
    assert isinstance(again, VideoNSAForConditionalGeneration)
    assert again.config.nsa == shared_model.config.nsa == AutoConfig.from_pretrained(folder).nsa
    for (name, before), (_, after) in zip(shared_model.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(before, after), name
    inputs = sample(*SAMPLE)
    with torch.no_grad():
        assert torch.equal(shared_model(**inputs).logits, again(**inputs).logits)


def test_each_auto_class_that_knows_qwen_knows_ours(folder):
    stock = [auto for auto in vars(modeling_auto).values() if isinstance(auto, type) and has(auto, Qwen2_5_VLConfig)]
    assert AutoModel in stock
    for auto in stock:
        theirs, ours = (auto._model_mapping[config].__name__ for config in (Qwen2_5_VLConfig, VideoNSAConfig))
        assert ours == theirs.replace("Qwen2_5_VL", "VideoNSA")
    model = AutoModel.from_pretrained(folder)
    assert isinstance(model, VideoNSAModel)
    loaded, saved = (
        owner.language_model.layers[0].self_attn.g_proj_1.weight for owner in (model, load_model(folder).model)
    )
    assert torch.equal(loaded, saved)


def has(auto, config):
    mapping = getattr(auto, "_model_mapping", None)
    return mapping is not None and config in mapping


def test_auto_classes_give_the_stock_processors(tmp_path):
    """Also where the folder does not name the processor's class."""
    model, processor = build_tiny(NSASettings(block_size=4, block_count=4, window=8), 0)
    model.config.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    for file in tmp_path.glob("*.json"):
        written = json.loads(file.read_text())
        if file.name != "tokenizer.json" and written.pop("processor_class", None):
            file.write_text(json.dumps(written))
    assert type(AutoProcessor.from_pretrained(tmp_path)) is type(processor)
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is type(processor.tokenizer)


def test_settings_can_be_changed_at_load(folder):
    for loaded in (
        VideoNSAForConditionalGeneration.from_pretrained(folder, block_count=1, branches="swa+cmp", window=9),
        load_model(folder, nsa={"block_count": 1, "branches": "cmp+swa", "window": 9}),
    ):
        nsa = loaded.config.nsa
        assert (nsa.block_count, nsa.branches, nsa.window, nsa.block_size) == (1, ("cmp", "swa"), 9, 4)


def test_a_bad_setting_at_load_is_refused(folder):
    with pytest.raises(SettingsError, match="window=0"):
        VideoNSAForConditionalGeneration.from_pretrained(folder, window=0)
    with pytest.raises(SettingsError, match="known settings"):
        load_model(folder, nsa={"blocks": 1})


def test_stock_weights_load_with_fresh_gates_and_back(folder, tmp_path):
    torch.manual_seed(1)
    stock = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**STOCK)).eval()
    stock.save_pretrained(tmp_path)
    ours = load_model(tmp_path, nsa={"attention": "dense"})
    inputs = sample(*SAMPLE)
    with torch.no_grad():
        positions, _ = ours.model.get_rope_index(**inputs)
        assert torch.equal(ours(**inputs).logits, stock(**inputs, position_ids=positions).logits)
    gate = ours.model.language_model.layers[0].self_attn
    assert gate.g_proj_1.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not gate.g_proj_1.bias.any()
    assert not gate.g_proj_2.bias.any()
    back = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
    assert torch.equal(back.lm_head.weight, VideoNSAForConditionalGeneration.from_pretrained(folder).lm_head.weight)


def test_weights_are_named_as_in_qwen(folder):
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as weights:
        names = set(weights.keys())
    assert "model.layers.0.self_attn.g_proj_1.weight" in names
    assert "visual.blocks.0.attn.qkv.weight" in names


def test_folders_that_hold_no_such_model_are_refused_in_one_line(folder, tmp_path):
    cases = {"no such folder": tmp_path / "absent"}
    (tmp_path / "empty").mkdir()
    cases["no readable config.json"] = tmp_path / "empty"
    for name, model_type in (("llama", "llama"), ("bare", "videonsa")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": model_type}))
    cases["its model_type is 'llama'"] = tmp_path / "llama"
    cases["the folder has no weights"] = tmp_path / "bare"
    for message, path in cases.items():
        with pytest.raises(SettingsError, match=message) as caught:
            load_model(path)
        assert "\n" not in str(caught.value)
