"""What a folder says of its model without torch is what loading it gives; what cannot be loaded is refused first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evals.checkpoint import from_memory, load
from videonsa.config import NSASettings, SettingsError
from videonsa.modeling import load_model
from videonsa.tiny import build_tiny
from videonsa.weights import ask, check_folder, decoder_shape, saved_settings

SAVED = NSASettings(block_size=4, block_count=2, window=4, semantics="cmp_mask")
OURS = "attention backend block_count block_size branches gate_mode gate_temperature gate_values semantics static_gates"


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ours")
    model, processor = build_tiny(SAVED, seed=0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def as_qwen(ours: Path, folder: Path, lacking: str = "nothing", **release: int) -> Path:
    """The same model calling itself Qwen2.5-VL, as the public release does, without weights whose name holds a text."""
    from safetensors.torch import load_file, save_file

    folder.mkdir()
    for path in ours.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((ours / "config.json").read_text())
    config = {key: value for key, value in config.items() if key not in [*OURS.split(), "window"]}
    config |= {"model_type": "qwen2_5_vl", "text_config": config["text_config"] | release}
    (folder / "config.json").write_text(json.dumps(config))
    weights = {name: w for name, w in load_file(ours / "model.safetensors").items() if lacking not in name}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_ours_says_its_own_settings(ours: Path):
    assert saved_settings(ours) == load(ours).saved == SAVED


def test_the_shape_of_the_decoder(ours: Path, tmp_path: Path):
    text = load(ours).model.config.text_config
    shape = (text.num_hidden_layers, text.num_attention_heads)
    assert decoder_shape("tiny") == decoder_shape(str(ours)) == shape
    assert decoder_shape("Qwen/Qwen2.5-VL-7B-Instruct") is decoder_shape(str(tmp_path)) is None


def test_with_gates_it_is_the_release_with_its_own_sizes(ours: Path, tmp_path: Path):
    folder = as_qwen(ours, tmp_path / "release", block_counts=3, window_size=5)
    assert saved_settings(folder) == load(folder).saved == NSASettings(block_count=3, window=5, semantics="release")


@pytest.mark.parametrize("lacking", [".g_proj_", "layers.1.self_attn.g_proj_2.bias"])
def test_without_all_gates_it_was_made_for_dense_attention(ours: Path, tmp_path: Path, lacking: str):
    folder = as_qwen(ours, tmp_path / "stock", lacking=lacking)
    loaded = load(folder)
    assert saved_settings(folder).attention == loaded.saved.attention == loaded.use({}).attention == "dense"
    with pytest.raises(SettingsError, match="made for dense attention and have no gates"):
        loaded.use({"attention": "nsa"})
    assert loaded.use({"attention": "nsa", "gate_mode": "fixed", "gate_values": [1, 1, 1]}).attention == "nsa"


def test_a_model_that_learned_densely_is_not_asked_by_its_untrained_gates():
    loaded = from_memory(*build_tiny(NSASettings(attention="dense"), seed=0))
    with pytest.raises(SettingsError, match="have no gates"):
        loaded.use({"attention": "nsa"})


def test_what_is_not_named_stays_but_for_the_values_of_another_gate_mode():
    made = NSASettings(window=5, gate_mode="fixed", gate_values=(1, 0, 1))
    assert ask(made, {}) == made
    assert ask(made, {"block_count": 3}).gate_values == (1, 0, 1)
    assert ask(made, {"gate_mode": "dynamic"}) == NSASettings(window=5)


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").touch()


def pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')


def adapter(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")


def quantized(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "awq"}}))


def cut(folder: Path, keep: int = -1) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:keep])


def cut_in_the_header(folder: Path) -> None:
    cut(folder, keep=100)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_weights, "no weights .*, only pytorch_model.bin"),
        (adapter, "no weights .*, only adapter_model.safetensors"),
        (pointer, "a pointer of Git LFS"),
        (missing_shard, "model-00001-of-00002.safetensors, which .* names, is not there"),
        (quantized, "its weights are quantized"),
        (cut, "no safetensors file, or only a part of one"),
        (cut_in_the_header, "no safetensors file, or only a part of one"),
    ],
)
def test_what_cannot_be_loaded_is_refused_by_planning_and_loading_alike(ours: Path, tmp_path: Path, spoil, message):
    folder = as_qwen(ours, tmp_path / "spoilt")
    spoil(folder)
    for refuse in (check_folder, saved_settings, load_model):
        with pytest.raises(SettingsError, match=message) as caught:
            refuse(folder)
        assert "\n" not in str(caught.value)
