"""AWQ checkpoints: which are served, and what a folder of one must hold. Imports no torch.

AutoAWQ's GEMM layout keeps a linear layer as three tensors beside its bias: `qweight` int32 [in, out / 8] and `qzeros`
int32 [in / group, out / 8], eight numbers of 4 bits a word, and `scales` float16 [in / group, out]. What the numbers
mean: videonsa/modeling/packed.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from videonsa.config import SettingsError

SERVED = {"quant_method": "awq", "bits": 4, "version": "gemm", "zero_point": True}
NAMES = "quant_method awq, bits 4, version gemm, zero_point true, a group_size of at least 1"
# The layers that are packed, in each layer of the decoder; all else of the model is as in any checkpoint.
PROJECTIONS = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)
TENSORS = (".qweight", ".qzeros", ".scales")
SIZES = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
WORD = 8  # numbers of 4 bits in an int32
ONLY_ASKED = "its weights are packed (AWQ, 4 bits): such a model is asked, not trained and not saved"

_LAYER = re.compile(r"(?:.*\.)?layers\.(\d+)\.(.+)\.qweight")


def read_awq(quantization: Any) -> dict[str, Any]:
    """The `quantization_config` of a config.json as the model's configuration keeps it: {group_size, skipped}.

    `skipped`: parts of names of layers that are not packed. Raises SettingsError for any other quantization.
    """
    given = dict(quantization) if isinstance(quantization, Mapping) else {"quant_method": quantization}
    found = {name: given.get(name) for name in SERVED}
    found["version"] = str(given.get("version") or given.get("format") or "gemm").lower()
    group = given.get("group_size")
    wrong = [f"{name} {found[name]!r}" for name, value in SERVED.items() if found[name] != value]
    wrong += [] if isinstance(group, int) and group > 0 else [f"group_size {group!r}"]
    wrong += ["backend 'llm-awq'"] if given.get("backend") == "llm-awq" else []
    skipped = given.get("modules_to_not_convert") or []
    wrong += [] if isinstance(skipped, list) else [f"modules_to_not_convert {skipped!r}, which is no list"]
    if wrong:
        raise SettingsError(f"its weights are quantized with {', '.join(wrong)}; served: {NAMES}, or none at all")
    return {"group_size": group, "skipped": [str(part) for part in skipped]}


def is_packed(layer: str, awq: Mapping[str, Any]) -> bool:
    """Whether a linear layer, 'model.layers.0.mlp.up_proj' or any end of such a name, is packed."""
    return layer.endswith(PROJECTIONS) and not any(part in layer for part in awq["skipped"])


def check_tensors(tensors: Mapping[str, Mapping[str, Any]], awq: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raise SettingsError where these are not the tensors of an AWQ model of this config.json.

    tensors: {name: {"dtype", "shape"}} of all weight files, as safetensors has them.
    """
    text = {**config, **(config.get("text_config") or {})}
    if unknown := [name for name in SIZES if not isinstance(text.get(name), int)]:
        raise SettingsError(f"its config.json has no {unknown[0]} of the decoder")
    sizes = layer_sizes(text)
    every = [f"model.layers.{layer}.{name}" for layer in range(text["num_hidden_layers"]) for name in PROJECTIONS]
    due = [name for name in every if is_packed(name, awq)]
    packed = {f"model.layers.{match[1]}.{match[2]}": name for name in tensors if (match := _LAYER.fullmatch(name))}
    if missing := [name for name in due if name not in packed]:
        raise SettingsError(f"{missing[0]} has no qweight, though config.json says that its weights are packed")
    known = {packed[layer] for layer in due}
    if extra := [name for name in tensors if name.endswith(".qweight") and name not in known]:
        raise SettingsError(f"{extra[0]} is not served packed, only {', '.join(PROJECTIONS)} of the decoder's layers")
    for layer in due:
        here = packed[layer].removesuffix(".qweight")
        _check_layer(here, sizes[layer.split(".", 3)[3]], tensors, awq["group_size"])


def layer_sizes(text: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of each of PROJECTIONS in a decoder with these settings."""
    _, hidden, inner, heads, key_heads = (text[name] for name in SIZES)
    size = text.get("head_dim") or hidden // heads
    queries, keys = heads * size, key_heads * size
    outputs = (queries, keys, keys, hidden, inner, inner, hidden)
    inputs = (hidden, hidden, hidden, queries, hidden, hidden, inner)
    return dict(zip(PROJECTIONS, zip(inputs, outputs, strict=True), strict=True))


def check_loaded(missing: Iterable[str], checkpoint: Any) -> None:
    """Raise SettingsError where a checkpoint that says AWQ lacked a packed layer's tensor when it was loaded."""
    if lacking := sorted(name for name in missing if name.endswith(TENSORS)):
        raise SettingsError(f"checkpoint {str(checkpoint)!r}: its weights lack {lacking[0]}")


def _check_layer(layer: str, sizes: tuple[int, int], tensors: Mapping[str, Mapping[str, Any]], group: int) -> None:
    """Raise SettingsError where the three tensors of a layer are not those of a layer of these sizes."""
    inputs, outputs = sizes
    if inputs % group or outputs % WORD:
        whole = f"whole groups of {group} inputs and words of {WORD} outputs"
        raise SettingsError(f"{layer} has {inputs} inputs and {outputs} outputs, which are not {whole}")
    due = {
        "qweight": ("I32", [inputs, outputs // WORD]),
        "qzeros": ("I32", [inputs // group, outputs // WORD]),
        "scales": ("F16", [inputs // group, outputs]),
    }
    for name, (dtype, shape) in due.items():
        about = tensors.get(f"{layer}.{name}")
        if about is None:
            raise SettingsError(f"{layer} has no {name}")
        if (about["dtype"], about["shape"]) != (dtype, shape):
            found = f"{about['dtype']} {about['shape']}"
            raise SettingsError(f"{layer}.{name} is {found}, not {dtype} {shape} (group_size {group})")
