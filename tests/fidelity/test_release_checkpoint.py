"""The public release's checkpoint loads by name or folder, in any of the layouts it may be written in."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.modeling.conftest import STOCK, sample
from videonsa.modeling import VideoNSAConfig, VideoNSAForConditionalGeneration, load_model

TEXT, VISION = STOCK["text_config"], STOCK["vision_config"]
HEADS, KV_HEADS, LAYERS = (TEXT[f"num_{name}"] for name in ("attention_heads", "key_value_heads", "hidden_layers"))
HIDDEN, INNER, HEAD_SIZE = TEXT["hidden_size"], TEXT["intermediate_size"], TEXT["hidden_size"] // HEADS
TOWER, TOWER_INNER, MERGED = VISION["hidden_size"], VISION["intermediate_size"], 4 * VISION["hidden_size"]
# The release's parameters and their shapes, written down from its modeling file; {} stands for the prefixes below.
LAYER = {
    "self_attn.q_proj.weight": (HEADS * HEAD_SIZE, HIDDEN),
    "self_attn.q_proj.bias": (HEADS * HEAD_SIZE,),
    "self_attn.k_proj.weight": (KV_HEADS * HEAD_SIZE, HIDDEN),
    "self_attn.k_proj.bias": (KV_HEADS * HEAD_SIZE,),
    "self_attn.v_proj.weight": (KV_HEADS * HEAD_SIZE, HIDDEN),
    "self_attn.v_proj.bias": (KV_HEADS * HEAD_SIZE,),
    "self_attn.o_proj.weight": (HIDDEN, HEADS * HEAD_SIZE),
    "self_attn.g_proj_1.weight": (HIDDEN, HIDDEN),
    "self_attn.g_proj_1.bias": (HIDDEN,),
    "self_attn.g_proj_2.weight": (3 * HEADS, HIDDEN),
    "self_attn.g_proj_2.bias": (3 * HEADS,),
    "mlp.gate_proj.weight": (INNER, HIDDEN),
    "mlp.up_proj.weight": (INNER, HIDDEN),
    "mlp.down_proj.weight": (HIDDEN, INNER),
    "input_layernorm.weight": (HIDDEN,),
    "post_attention_layernorm.weight": (HIDDEN,),
}
BLOCK = {
    "norm1.weight": (TOWER,),
    "norm2.weight": (TOWER,),
    "attn.qkv.weight": (3 * TOWER, TOWER),
    "attn.qkv.bias": (3 * TOWER,),
    "attn.proj.weight": (TOWER, TOWER),
    "attn.proj.bias": (TOWER,),
    "mlp.gate_proj.weight": (TOWER_INNER, TOWER),
    "mlp.gate_proj.bias": (TOWER_INNER,),
    "mlp.up_proj.weight": (TOWER_INNER, TOWER),
    "mlp.up_proj.bias": (TOWER_INNER,),
    "mlp.down_proj.weight": (TOWER, TOWER_INNER),
    "mlp.down_proj.bias": (TOWER,),
}
PARAMETERS = {
    "visual.patch_embed.proj.weight": (TOWER, 3, 2, 14, 14),
    **{f"visual.blocks.{i}.{name}": shape for i in range(VISION["depth"]) for name, shape in BLOCK.items()},
    "visual.merger.ln_q.weight": (TOWER,),
    "visual.merger.mlp.0.weight": (MERGED, MERGED),
    "visual.merger.mlp.0.bias": (MERGED,),
    "visual.merger.mlp.2.weight": (HIDDEN, MERGED),
    "visual.merger.mlp.2.bias": (HIDDEN,),
    "model.embed_tokens.weight": (TEXT["vocab_size"], HIDDEN),
    **{f"model.layers.{i}.{name}": shape for i in range(LAYERS) for name, shape in LAYER.items()},
    "model.norm.weight": (HIDDEN,),
    "lm_head.weight": (TEXT["vocab_size"], HIDDEN),
}
NAMES = {  # prefixes of the decoder and the vision tower: as save_pretrained writes them, and as a state_dict has them
    "4.49": ("model.", "visual."),
    "4.52": ("model.language_model.", "model.visual."),
}


def renamed(name: str, layout: str) -> str:
    """A parameter's name in one of the layouts."""
    decoder, tower = NAMES[layout]
    if name.startswith("visual."):
        return tower + name.removeprefix("visual.")
    return decoder + name.removeprefix("model.") if name.startswith("model.") else name


@pytest.fixture(scope="module")
def weights():
    """Random weights of every parameter of the release."""
    generator = torch.Generator().manual_seed(3)
    drawn = {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in PARAMETERS.items()}
    return {name: w + 1 if "norm" in name or "ln_q" in name else w for name, w in drawn.items()}


@pytest.fixture(scope="module")
def source(weights):
    """A model that holds these weights, with release semantics."""
    config = VideoNSAConfig(**STOCK, block_size=64, block_count=32, window=256, semantics="release")
    model = VideoNSAForConditionalGeneration(config).eval().requires_grad_(False)
    model.load_state_dict({renamed(name, "4.52"): w for name, w in weights.items()})  # strict: none is missing or over
    return model


def release_weights(weights: dict[str, torch.Tensor], layout: str) -> dict[str, torch.Tensor]:
    """The weights under the names of a layout."""
    return {renamed(name, layout): weight.clone() for name, weight in weights.items()}


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
def test_every_layout_loads_with_release_semantics(source, weights, tmp_path, caplog, names, config, shards):
    folder = tmp_path / "VideoNSA"
    write_release(folder, release_weights(weights, names), release_config(config), shards)
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


def test_it_loads_by_its_hub_name_without_a_network(weights, tmp_path):
    """In a process of its own, because the hub's cache folder is read from the environment at import."""
    cached = tmp_path / "hub" / "models--Enxin--VideoNSA"
    write_release(cached / "snapshots" / "0", release_weights(weights, "4.49"), release_config("flat, 4.49"), 2)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0")
    code = (
        "from videonsa.modeling import VideoNSAForConditionalGeneration as Model\n"
        "model, info = Model.from_pretrained('Enxin/VideoNSA', output_loading_info=True)\n"
        "print(model.config.nsa.semantics, len(info['missing_keys']), len(info['unexpected_keys']))"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"} | {
        "HF_HUB_CACHE": str(tmp_path / "hub")
    }
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["release", "0", "0"]
    assert run.stderr.count("Enxin/VideoNSA is the public release: semantics=release") == 1


@pytest.mark.parametrize("layout", NAMES)
def test_a_checkpoint_in_half_precision_whose_head_is_the_embedding(weights, tmp_path, layout):
    """As Qwen2.5-VL-3B's: bf16, tie_word_embeddings and no lm_head.weight."""
    tied = {name: w.bfloat16() for name, w in release_weights(weights, layout).items() if name != "lm_head.weight"}
    config = {**release_config("flat, 4.49"), "tie_word_embeddings": True, "torch_dtype": "bfloat16"}
    write_release(tmp_path / "r", tied, config, 2)
    model, info = VideoNSAForConditionalGeneration.from_pretrained(
        tmp_path / "r", dtype="auto", device_map="cpu", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.config.nsa.semantics == "release"
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    loaded = model.state_dict()
    for name in PARAMETERS:
        found = loaded[renamed(name, "4.52")]
        expected = tied[renamed("model.embed_tokens.weight" if name == "lm_head.weight" else name, layout)]
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, expected), name


@pytest.mark.parametrize(
    ("dtype", "expected"), [(None, torch.float32), (torch.bfloat16, torch.bfloat16), ("auto", torch.float32)]
)
def test_dtype_and_device_map_reach_the_weights(weights, tmp_path, dtype, expected):
    write_release(tmp_path / "r", release_weights(weights, "4.52"), release_config("text part, 5.1"), 1)
    arguments = {} if dtype is None else {"dtype": dtype}
    model = load_model(tmp_path / "r", device_map="auto", **arguments)
    assert {weight.dtype for weight in model.parameters()} == {expected}
    assert model.config.nsa.semantics == "release"


def test_its_own_sizes_are_taken_over_and_the_callers_go_first(weights, tmp_path):
    config = release_config("text part, 4.52")
    config["text_config"] |= {"block_counts": 16, "window_size": 128}
    write_release(tmp_path / "r", release_weights(weights, "4.52"), config, 1)
    assert load_model(tmp_path / "r").config.nsa.block_count == 16
    nsa = load_model(tmp_path / "r", window=99, nsa={"semantics": "paper", "backend": "reference"}).config.nsa
    assert (nsa.semantics, nsa.block_count, nsa.window, nsa.backend) == ("paper", 16, 99, "reference")


def test_semantics_survive_saving(weights, tmp_path):
    write_release(tmp_path / "r", release_weights(weights, "4.49"), release_config("flat, 4.49"), 1)
    model = load_model(tmp_path / "r", nsa={"semantics": "release-cmp_mask"})
    model.save_pretrained(tmp_path / "ours")
    assert load_model(tmp_path / "ours").config.nsa == model.config.nsa


def test_stock_qwen_is_no_release(weights, tmp_path):
    weights = {name: w for name, w in release_weights(weights, "4.49").items() if ".g_proj_" not in name}
    write_release(tmp_path / "stock", weights, release_config("flat, 4.49"), 1)
    assert load_model(tmp_path / "stock").config.nsa.semantics == "paper"
