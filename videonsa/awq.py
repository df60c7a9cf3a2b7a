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
    if wrong:
        raise SettingsError(f"its weights are quantized with {', '.join(wrong)}; served: {NAMES}, or none at all")
    return {"group_size": group, "skipped": list(given.get("modules_to_not_convert") or ())}


def is_packed(layer: str, awq: Mapping[str, Any]) -> bool:
    """Whether a linear layer, 'model.layers.0.mlp.up_proj' or any end of such a name, is packed."""
    return layer.endswith(PROJECTIONS) and not any(part in layer for part in awq["skipped"])


def check_tensors(tensors: Mapping[str, Mapping[str, Any]], awq: Mapping[str, Any], layers: int) -> None:
    """Raise SettingsError where these are not the tensors of an AWQ model with so many decoder layers.

    tensors: {name: {"dtype", "shape"}} of all weight files, as safetensors has them.
    """
    every = [f"model.layers.{layer}.{name}" for layer in range(layers) for name in PROJECTIONS]
    due = [name for name in every if is_packed(name, awq)]
    packed = {f"model.layers.{match[1]}.{match[2]}": name for name in tensors if (match := _LAYER.fullmatch(name))}
    if missing := [name for name in due if name not in packed]:
        raise SettingsError(f"{missing[0]} has no qweight, though config.json says that its weights are packed")
    known = {packed[layer] for layer in due}
    if extra := [name for name in tensors if name.endswith(".qweight") and name not in known]:
        raise SettingsError(f"{extra[0]} is not served packed, only {', '.join(PROJECTIONS)} of the decoder's layers")
    for layer in due:
        _check_layer(packed[layer].removesuffix(".qweight"), tensors, awq["group_size"])


def check_loaded(missing: Iterable[str], checkpoint: Any) -> None:
    """Raise SettingsError where a checkpoint that says AWQ lacked a packed layer's tensor when it was loaded."""
    if lacking := sorted(name for name in missing if name.endswith(TENSORS)):
        raise SettingsError(f"checkpoint {str(checkpoint)!r}: its weights lack {lacking[0]}")


def _check_layer(layer: str, tensors: Mapping[str, Mapping[str, Any]], group: int) -> None:
    """Raise SettingsError where the three tensors of a layer do not go together."""
    packed = tensors[f"{layer}.qweight"]["shape"]
    if len(packed) != 2 or packed[0] % group:
        raise SettingsError(f"{layer}.qweight is {packed}, not [inputs, outputs / 8] in whole groups of {group} inputs")
    inputs, words = packed
    due = {
        "qweight": ("I32", [inputs, words]),
        "qzeros": ("I32", [inputs // group, words]),
        "scales": ("F16", [inputs // group, WORD * words]),
    }
    for name, (dtype, shape) in due.items():
        about = tensors.get(f"{layer}.{name}")
        if about is None:
            raise SettingsError(f"{layer} has no {name}")
        if (about["dtype"], about["shape"]) != (dtype, shape):
            found = f"{about['dtype']} {about['shape']}"
            raise SettingsError(f"{layer}.{name} is {found}, not {dtype} {shape} (group_size {group})")
