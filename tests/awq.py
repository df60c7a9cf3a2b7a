"""AWQ for tests: what AutoAWQ's packer does, one number at a time, and a folder of a tiny model packed so."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # columns of a word, from its lowest bits on (AutoAWQ, gemm)
TENSORS = ("qweight", "qzeros", "scales")
# As in the config.json of Qwen/Qwen2.5-VL-7B-Instruct-AWQ, but for the size of a group.
CONFIG = {
    "bits": 4,
    "group_size": 32,
    "modules_to_not_convert": ["visual"],
    "quant_method": "awq",
    "version": "gemm",
    "zero_point": True,
}
DECODER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def pack_words(numbers: Tensor) -> Tensor:
    """Whole numbers of 0 to 15 [rows, columns] -> int32 [rows, columns / 8]."""
    rows = []
    for row in numbers.tolist():
        words = [row[start : start + 8] for start in range(0, len(row), 8)]
        unsigned = [sum(word[column] << 4 * place for place, column in enumerate(ORDER)) for word in words]
        rows.append([word - 2**32 if word >= 2**31 else word for word in unsigned])
    return torch.tensor(rows, dtype=torch.int32)


def quantise(weight: Tensor, group: int) -> tuple[dict[str, Tensor], Tensor]:
    """A linear layer's weight [out, in] -> (its packed tensors, the weight that they stand for, float32)."""
    grouped = weight.float().T.unflatten(0, (-1, group))  # [groups, group, out]
    low, high = grouped.amin(1).clamp(max=0), grouped.amax(1).clamp(min=0)
    scales = ((high - low) / 15).clamp(min=1e-4).half()
    zeros = (-low / scales.float()).round().clamp(0, 15)
    numbers = (grouped / scales.float()[:, None] + zeros[:, None]).round().clamp(0, 15)
    meant = ((numbers - zeros[:, None]) * scales.float()[:, None]).flatten(0, 1).T.contiguous()
    packed = {"qweight": pack_words(numbers.flatten(0, 1).int()), "qzeros": pack_words(zeros.int()), "scales": scales}
    return packed, meant


def awq_folder(stock: Path, folder: Path, shards: int = 1) -> tuple[Path, Path]:
    """(folder/"awq", folder/"meant"): a Qwen2.5-VL folder with its decoder packed, and with the weights this means.

    Names of weights and the form of config.json are those on the hub, not those of transformers 5.
    """
    awq, meant = folder / "awq", folder / "meant"
    weights = load_file(stock / "model.safetensors")
    packed, plain = {}, {}
    for ours, weight in weights.items():
        name = ours.replace("model.language_model.", "model.").replace("model.visual.", "visual.")
        layer = name.removesuffix(".weight")
        if ".layers." in name and layer.endswith(DECODER) and weight.dim() == 2:
            tensors, plain[name] = quantise(weight, CONFIG["group_size"])
            packed |= {f"{layer}.{kind}": tensor for kind, tensor in tensors.items()}
        else:
            packed[name] = plain[name] = weight
    settings = flat(json.loads((stock / "config.json").read_text()))
    for place, tensors in ((awq, packed), (meant, plain)):
        place.mkdir(parents=True)
        for path in stock.iterdir():
            if path.suffix != ".safetensors":
                (place / path.name).write_bytes(path.read_bytes())
        save(tensors, place, shards if place == awq else 1)
        (place / "config.json").write_text(json.dumps(settings))
    (awq / "config.json").write_text(json.dumps(settings | {"quantization_config": CONFIG}))
    return awq, meant


def flat(config: dict) -> dict:
    """As before transformers 5: the decoder's settings at the top level."""
    text = dict(config["text_config"])
    rope = text.pop("rope_parameters")
    rope = {"rope_theta": rope["rope_theta"], "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]}}
    rest = {name: value for name, value in config.items() if name != "text_config"}
    return {**text, **rope, **rest, "architectures": ["Qwen2_5_VLForConditionalGeneration"], "torch_dtype": "float16"}


def save(tensors: dict[str, Tensor], folder: Path, shards: int = 1) -> None:
    """As one file, or as several with an index."""
    if shards == 1:
        return save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    names = [f"model-{number + 1:05}-of-{shards:05}.safetensors" for number in range(shards)]
    place = {name: names[number % shards] for number, name in enumerate(sorted(tensors))}
    for file in names:
        part = {name: tensor for name, tensor in tensors.items() if place[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}))
