"""An AWQ checkpoint from its folder to the answers of a cell: as the model of the weights that its numbers mean."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from analysis.rows import cell_row
from evals.checkpoint import load
from evals.run import evaluate
from evals.suites import suite_settings
from tests.awq import CONFIG, awq_folder, save
from tests.test_weights import as_qwen
from videonsa.config import SettingsError, TrainSettings
from videonsa.modeling import load_model
from videonsa.training.start import start_model
from videonsa.weights import check_folder, check_trainable, saved_settings

NEEDLE = suite_settings("synth_needle", limit=3, frames=8)
LAYER = "model.layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def stock(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return as_qwen(folder, tmp_path_factory.mktemp("stock") / "qwen", lacking=".g_proj_")


@pytest.fixture(scope="module")
def pair(stock: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return awq_folder(stock, tmp_path_factory.mktemp("one"))


def test_it_answers_as_the_weights_that_it_means(pair: tuple[Path, Path], data: Path, tmp_path: Path):
    packed, meant = (evaluate(place, {}, NEEDLE, tmp_path / place.name, data=data) for place in pair)
    said = [
        [(row["prompt_hash"], row["prediction"], row["error"]) for row in of["questions"]] for of in (packed, meant)
    ]
    assert said[0] == said[1]
    assert len(said[0]) == 3
    assert all(error is None for _, _, error in said[0])
    assert (packed["weights"]["packed"]["bits"], meant["weights"]["packed"]) == (4, None)
    row = cell_row("a", {"status": "done", **packed}, {}, {})
    assert (row["packed_bits"], row["weights_mib"]) == (4, packed["weights"]["mib"])


@pytest.mark.parametrize("shards", [1, 3])
def test_the_logits_are_equal_and_the_memory_is_that_of_four_bits(stock: Path, tmp_path: Path, shards: int):
    packed, meant = (load(place) for place in awq_folder(stock, tmp_path, shards))
    ids = torch.arange(30)[None]
    with torch.no_grad():
        assert torch.equal(packed.model(input_ids=ids).logits, meant.model(input_ids=ids).logits)
    assert packed.saved == meant.saved
    assert packed.saved.attention == "dense"
    # A layer of the decoder: 64 x 64 twice, 64 x 32 twice, 64 x 128 three times; 0.5 bytes a weight, 2.5 a group of 32.
    weights = 3 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)
    biases = 3 * (64 + 32 + 32)
    assert packed.weights["packed"] == {
        **{"method": "awq", "bits": 4, "group_size": 32, "layers": 21},
        "mib": round((weights * (0.5 + 2.5 / 32) + 4 * biases) / 2**20, 3),
    }
    spared = weights * (4 - 0.5 - 2.5 / 32) / 2**20
    assert meant.weights["mib"] - packed.weights["mib"] == pytest.approx(spared, abs=0.002)
    assert meant.weights["packed"] is None
    assert packed.weights["dtype"] == "float32"


def test_scales_are_not_rounded_where_the_model_computes_in_bfloat16(pair: tuple[Path, Path]):
    loaded = load(pair[0], dtype="bfloat16")
    exact = load_file(pair[0] / "model.safetensors")[f"{LAYER}.scales"]
    layer = loaded.model.model.language_model.layers[1].mlp.down_proj
    assert loaded.model.dtype == torch.bfloat16
    assert layer.scales.dtype == torch.float16
    assert torch.equal(layer.scales, exact)


def test_it_is_made_densely_and_stays_so(pair: tuple[Path, Path]):
    assert saved_settings(pair[0]).attention == "dense"
    with pytest.raises(SettingsError, match="have no gates"):
        load(pair[0]).use({"attention": "nsa"})


def test_it_is_not_saved_and_not_trained(pair: tuple[Path, Path], tmp_path: Path):
    tries = (
        lambda: load_model(pair[0]).save_pretrained(tmp_path),
        lambda: start_model(TrainSettings(model=str(pair[0]), steps=1)),
        lambda: check_trainable(pair[0]),
    )
    for attempt in tries:
        with pytest.raises(SettingsError, match="is asked, not trained and not saved") as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def rename(tensors: dict, old: str, new: str) -> None:
    tensors[new] = tensors.pop(old)


CONFIGS = {
    "bits": ({"bits": 8}, r"quantized with bits 8; served: quant_method awq, bits 4"),
    "method": ({"quant_method": "gptq"}, "quantized with quant_method 'gptq'"),
    "version": ({"version": "gemv"}, "quantized with version 'gemv'"),
    "zero_point": ({"zero_point": False}, "quantized with zero_point False"),
    "group": ({"group_size": -1}, "quantized with group_size -1"),
    "backend": ({"backend": "llm-awq"}, "quantized with backend 'llm-awq'"),
    "other group": ({"group_size": 16}, r"qzeros is I32 \[2, 8\], not I32 \[4, 8\] \(group_size 16\)"),
    "odd group": (
        {"group_size": 24},
        "self_attn.q_proj has 64 inputs and 64 outputs, which are not whole groups of 24",
    ),
    "a text": ({"modules_to_not_convert": "visual"}, "modules_to_not_convert 'visual', which is no list"),
    "skipped": ({"modules_to_not_convert": ["mlp"]}, "mlp.down_proj.qweight is not served packed"),
}
TENSORS = {
    "no zeros": (lambda t: t.pop(f"{LAYER}.qzeros"), f"{LAYER} has no qzeros"),
    "no scales": (lambda t: t.pop(f"{LAYER}.scales"), f"{LAYER} has no scales"),
    "no weight": (lambda t: t.pop(f"{LAYER}.qweight"), f"{LAYER} has no qweight"),
    "odd shape": (
        lambda t: t.update({f"{LAYER}.scales": t[f"{LAYER}.scales"][:, 1:].clone()}),
        r"down_proj.scales is F16 \[4, 63\], not F16 \[4, 64\]",
    ),
    "one axis": (
        lambda t: t.update({f"{LAYER}.qweight": t[f"{LAYER}.qweight"][0].clone()}),
        r"qweight is I32 \[8\], not I32 \[128, 8\]",
    ),
    "other sizes": (
        lambda t: t.update({name: t[name][: len(t[name]) // 2].clone() for name in list(t) if name.startswith(LAYER)}),
        r"down_proj.qweight is I32 \[64, 8\], not I32 \[128, 8\]",
    ),
    "wide scales": (
        lambda t: t.update({f"{LAYER}.scales": t[f"{LAYER}.scales"].float()}),
        r"down_proj.scales is F32 \[4, 64\], not F16 \[4, 64\]",
    ),
    "the tower": (
        lambda t: rename(t, f"{LAYER}.qweight", "visual.blocks.0.mlp.down_proj.qweight"),
        f"{LAYER} has no qweight",
    ),
    "a head": (lambda t: t.update({"lm_head.qweight": t[f"{LAYER}.qweight"].clone()}), "lm_head.qweight is not served"),
}


def refused(folder: Path, message: str) -> None:
    for refuse in (check_folder, saved_settings, load_model):
        with pytest.raises(SettingsError, match=message) as caught:
            refuse(folder)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("change", "message"), CONFIGS.values(), ids=CONFIGS)
def test_another_quantization_is_refused(stock: Path, tmp_path: Path, change: dict, message: str):
    folder, _ = awq_folder(stock, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": CONFIG | change}))
    refused(folder, message)


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize(("spoil", "message"), TENSORS.values(), ids=TENSORS)
def test_a_spoilt_folder_is_refused(stock: Path, tmp_path: Path, spoil, message: str, shards: int):
    folder, _ = awq_folder(stock, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    spoil(tensors)
    save(tensors, folder, shards)
    refused(folder, message)


def test_a_config_without_sizes_is_refused(stock: Path, tmp_path: Path):
    folder, _ = awq_folder(stock, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    del config["intermediate_size"]
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, "its config.json has no intermediate_size of the decoder")


def test_a_hub_name_that_lacks_a_tensor_is_found_when_it_is_loaded(stock: Path, tmp_path: Path):
    """Of a hub name no folder is looked at first."""
    from videonsa.modeling import VideoNSAForConditionalGeneration

    folder, _ = awq_folder(stock, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors[f"{LAYER}.qzeros"]
    save(tensors, folder)
    with pytest.raises(SettingsError, match=r"its weights lack .*layers.1.mlp.down_proj.qzeros"):
        VideoNSAForConditionalGeneration.from_pretrained(folder)
