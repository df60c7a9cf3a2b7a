"""The public release's checkpoint loads by name or folder, in any of the layouts it may be written in."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.modeling.conftest import STOCK, sample
from videonsa.modeling import VideoNSAConfig, VideoNSAForConditionalGeneration, load_model

HEADS, LAYERS = STOCK["text_config"]["num_attention_heads"], STOCK["text_config"]["num_hidden_layers"]
HIDDEN = STOCK["text_config"]["hidden_size"]
NAMES = {  # prefixes of the decoder and the vision tower: of transformers up to 4.51, and from 4.52 on
    "4.49": ("model.", "visual."),
    "4.52": ("model.language_model.", "model.visual."),
}


@pytest.fixture(scope="module")
def source():
    """A model whose weights the written checkpoints hold."""
    torch.manual_seed(3)
    config = VideoNSAConfig(**STOCK, block_size=64, block_count=32, window=256, semantics="release")
    return VideoNSAForConditionalGeneration(config).eval().requires_grad_(False)


def release_weights(source: VideoNSAForConditionalGeneration, layout: str) -> dict[str, torch.Tensor]:
    """The model's weights under the release's names."""
    decoder, tower = NAMES[layout]
    weights = {}
    for name, weight in source.state_dict().items():
        name = name.replace("model.language_model.", decoder).replace("model.visual.", tower)
        weights[name] = weight.clone()
    for layer in range(LAYERS):
        assert weights[f"{decoder}layers.{layer}.self_attn.g_proj_1.weight"].shape == (HIDDEN, HIDDEN)
        assert weights[f"{decoder}layers.{layer}.self_attn.g_proj_2.bias"].shape == (3 * HEADS,)
    return weights


def release_config(layout: str) -> dict:
    """config.json as the release's code writes it: flat with transformers 4.49, a text part later."""
    text = {name: value for name, value in STOCK["text_config"].items() if name != "rope_parameters"}
    text |= {"rope_theta": 1e4, "rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]}, "rms_norm_eps": 1e-5}
    text |= {"use_sliding_window": False, "sliding_window": 32768, "max_window_layers": 28, "hidden_act": "silu"}
    common = {name: value for name, value in STOCK.items() if name not in ("text_config", "vision_config")}
    common |= {"architectures": ["VideoNSAForConditionalGeneration"], "model_type": "qwen2_5_vl"}
    vision = {**STOCK["vision_config"], "in_chans": 3, "spatial_patch_size": 14}
    if layout == "flat, 4.49":
        vision |= {"model_type": "qwen2_5_vl"}
        return {**text, **common, "vision_config": vision, "torch_dtype": "float32", "transformers_version": "4.49.0"}
    if layout == "text part, 4.52":
        text |= {
            "model_type": "qwen2_5_vl_text",
            "torch_dtype": "float32",
            "rope_scaling": {"mrope_section": [2, 1, 1], "rope_type": "default", "type": "default"},
        }
        return {
            **text,
            **common,
            "text_config": text,
            "vision_config": vision | {"model_type": "qwen2_5_vl"},
            "torch_dtype": "float32",
            "transformers_version": "4.52.4",
        }
    text = {**STOCK["text_config"], "model_type": "qwen2_5_vl_text", "dtype": "float32"}
    vision |= {"model_type": "qwen2_5_vl_vision"}
    return {**common, "text_config": text, "vision_config": vision, "dtype": "float32", "transformers_version": "5.1.0"}


CONFIGS = ("flat, 4.49", "text part, 4.52", "text part, 5.1")


def write_release(folder: Path, weights: dict[str, torch.Tensor], config: dict, shards: int) -> None:
    """A folder as on the hub: config.json, and safetensors in `shards` files with their index."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        return save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    where = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = dict(list(weights.items())[shard::shards])
        save_file(part, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return None


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("config", CONFIGS)
def test_every_layout_loads_with_release_semantics(source, tmp_path, caplog, names, config, shards):
    folder = tmp_path / "VideoNSA"
    write_release(folder, release_weights(source, names), release_config(config), shards)
    with caplog.at_level(logging.INFO):
        model, info = VideoNSAForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.config.nsa == source.config.nsa
    lines = [record.getMessage() for record in caplog.records if "release" in record.getMessage()]
    assert len(lines) == 1
    assert "semantics=release" in lines[0]
    inputs = sample(("text", 70), ("video", 40), ("text", 5))
    with torch.no_grad():
        assert torch.equal(model.eval()(**inputs).logits, source(**inputs).logits)


def test_it_loads_by_its_hub_name(source, tmp_path):
    cached = tmp_path / "models--Enxin--VideoNSA"
    write_release(cached / "snapshots" / "0" / "", release_weights(source, "4.49"), release_config("flat, 4.49"), 2)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0")
    model = load_model("Enxin/VideoNSA", cache_dir=tmp_path, local_files_only=True)
    assert model.config.nsa.semantics == "release"


def test_its_own_sizes_are_taken_over_and_the_callers_go_first(source, tmp_path):
    config = release_config("text part, 4.52")
    config["text_config"] |= {"block_counts": 16, "window_size": 128}
    write_release(tmp_path / "r", release_weights(source, "4.52"), config, 1)
    assert load_model(tmp_path / "r").config.nsa.block_count == 16
    nsa = load_model(tmp_path / "r", window=99, nsa={"semantics": "paper", "backend": "reference"}).config.nsa
    assert (nsa.semantics, nsa.block_count, nsa.window, nsa.backend) == ("paper", 16, 99, "reference")


def test_semantics_survive_saving(source, tmp_path):
    write_release(tmp_path / "r", release_weights(source, "4.49"), release_config("flat, 4.49"), 1)
    model = load_model(tmp_path / "r", nsa={"semantics": "release-cmp_mask"})
    model.save_pretrained(tmp_path / "ours")
    assert load_model(tmp_path / "ours").config.nsa == model.config.nsa


def test_stock_qwen_is_no_release(source, tmp_path, caplog):
    weights = {name: w for name, w in release_weights(source, "4.49").items() if ".g_proj_" not in name}
    write_release(tmp_path / "stock", weights, release_config("flat, 4.49"), 1)
    assert load_model(tmp_path / "stock").config.nsa.semantics == "paper"
