"""What a checkpoint's folder says about itself, read without torch: planning and loading go by these rules.

Which folders can be loaded, which attention their model was made with, and what may be asked of it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from videonsa.awq import ONLY_ASKED, check_tensors, read_awq
from videonsa.config import NSASettings, SettingsError, from_dict
from videonsa.identity import before
from videonsa.small import SMALL

OURS, QWEN = "videonsa", "qwen2_5_vl"
MODEL_TYPES = (OURS, QWEN)
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
GATE = ".g_proj_"  # in the names of gate weights: two layers with weight and bias in each layer of the decoder
GATES_A_LAYER = 4
LFS_POINTER = b"version https://git-lfs"

# The release's names of its settings; its code reads them from the text part of config.json, where transformers 4.5x
# and 5.x write them, or from its top level. Absent ones have its code's defaults, which are NSASettings'.
RELEASE_NAMES = {"block_counts": "block_count", "window_size": "window"}


def check_folder(folder: Path) -> dict[str, Any]:
    """The folder's config.json. Raises SettingsError, in one line, for a folder that cannot be loaded, and says why."""
    where = f"checkpoint {str(folder)!r}"
    config = _read_json(folder / "config.json")
    if config is None:
        raise SettingsError(f"{where}: no readable config.json in it; give a model's folder")
    if config.get("model_type") not in MODEL_TYPES:
        raise SettingsError(f"{where}: its model_type is {config.get('model_type')!r}, not {' or '.join(MODEL_TYPES)}")
    awq = _awq(config, where)
    files = _weight_files(folder, where)
    for file in files:
        if not file.is_file():
            raise SettingsError(f"{where}: {file.name}, which {INDEX} names, is not there")
        with open(file, "rb") as stream:
            if stream.read(len(LFS_POINTER)) == LFS_POINTER:
                raise SettingsError(f"{where}: {file.name} is a pointer of Git LFS, not weights; run git lfs pull")
        if _is_cut(file):
            raise SettingsError(f"{where}: {file.name} is no safetensors file, or only a part of one")
    if awq is not None:
        try:
            check_tensors(_tensors(files), awq, config)
        except SettingsError as error:
            raise SettingsError(f"{where}: {error}") from None
    return config


def check_trainable(folder: Path) -> None:
    """Raises SettingsError as `check_folder`, and for packed weights: they are not trained."""
    if check_folder(folder).get("quantization_config"):
        raise SettingsError(f"checkpoint {str(folder)!r}: {ONLY_ASKED}")


def saved_settings(folder: Path) -> NSASettings:
    """The attention that a folder's model was made with. Raises SettingsError as `check_folder`."""
    config = check_folder(folder)
    try:
        if config["model_type"] == OURS:
            fields = dataclasses.fields(NSASettings)
            return from_dict(NSASettings, {field.name: config.get(field.name, before(field)) for field in fields})
        names = _tensor_names(folder)
        return NSASettings() if names is None else qwen_settings(config, _has_all_gates(config, names))
    except SettingsError as error:
        raise SettingsError(f"checkpoint {str(folder)!r}: {error}") from None


def decoder_shape(model: str) -> tuple[int, int] | None:
    """(layers, query heads) of a small model made here or of a folder's; None where not known, as of a hub name."""
    if model in SMALL:
        return SMALL[model].layers, SMALL[model].heads
    config = _read_json(Path(os.path.expanduser(model)) / "config.json") or {}
    text = {**config, **(config.get("text_config") or {})}
    layers, heads = text.get("num_hidden_layers"), text.get("num_attention_heads")
    return (layers, heads) if isinstance(layers, int) and isinstance(heads, int) else None


def read_config(folder: Path) -> dict[str, Any]:
    """What config.json says, with the decoder's fields on top; empty where it cannot be read."""
    config = _read_json(folder / "config.json") or {}
    return {**config, **(config.get("text_config") or {})}


def read_tensors(folder: Path) -> dict[str, dict[str, Any]]:
    """{name: {"dtype", "shape", ...}} of a folder's weights. Raises SettingsError where there are none; OSError."""
    return _tensors(_weight_files(folder, f"checkpoint {str(folder)!r}"))


def stated_gates(checkpoint: str) -> bool:
    """A folder whose config.json holds static gates. Of a hub name it is not known, and so not taken for granted."""
    config = _read_json(Path(os.path.expanduser(checkpoint)) / "config.json")
    return bool(config and config.get("static_gates"))


def qwen_settings(config: Mapping[str, Any], has_gates: bool) -> NSASettings:
    """Of a checkpoint that calls itself Qwen2.5-VL: with gates it is the public release, without it is made densely."""
    return NSASettings(**release_settings(config)) if has_gates else NSASettings(attention="dense")


def release_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of NSASettings for the release's config.json."""
    written = {**config, **(config.get("text_config") or {})}
    sizes = {ours: written[theirs] for theirs, ours in RELEASE_NAMES.items() if written.get(theirs) is not None}
    return {"semantics": "release", **sizes}


def over(made: NSASettings, changes: Mapping[str, Any], where: str = "") -> NSASettings:
    """The settings with some changed. Raises SettingsError for a field that is not valid."""
    fields = {field.name: getattr(made, field.name) for field in dataclasses.fields(NSASettings)}
    if changes.get("gate_mode", made.gate_mode) != "fixed":
        fields["gate_values"] = None  # they belong to the mode that is left
    return from_dict(NSASettings, {**fields, **changes}, where)


def ask(made: NSASettings, changes: Mapping[str, Any], where: str = "") -> NSASettings:
    """The attention that is asked: as the model was made, but for the given fields.

    Raises SettingsError for a field that is not valid, and for NSA with gates that the model does not have.
    """
    asked = over(made, changes, where)
    if made.attention == "dense" and asked.attention == "nsa" and asked.gate_mode != "fixed":
        prefix = f"{where}: " if where else ""
        raise SettingsError(
            f"{prefix}attention='nsa' is not valid: the weights were made for dense attention and have no gates; "
            "ask attention=dense, or nsa with gate_mode=fixed and gate_values"
        )
    return asked


def _awq(config: Mapping[str, Any], where: str) -> dict[str, Any] | None:
    """How the weights are packed; None: they are not. Raises SettingsError for what is not served."""
    try:
        return read_awq(config["quantization_config"]) if config.get("quantization_config") else None
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from None


def _weight_files(folder: Path, where: str) -> list[Path]:
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    index = _read_json(folder / INDEX)
    names = index.get("weight_map") if index else None
    if isinstance(names, dict) and names:
        return [folder / str(name) for name in sorted(set(names.values()))]
    others = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".gguf", ".h5"))
    others += sorted(path.name for path in folder.glob("*.safetensors"))
    found = f", only {', '.join(others[:3])}" if others else ""
    raise SettingsError(f"{where}: the folder has no weights ({WHOLE}, or {INDEX} with its files){found}")


def _has_all_gates(config: Mapping[str, Any], names: Collection[str]) -> bool:
    return sum(GATE in name for name in names) >= GATES_A_LAYER * _decoder_layers(config)


def _decoder_layers(config: Mapping[str, Any]) -> int:
    text = config.get("text_config") or {}
    return text.get("num_hidden_layers") or config.get("num_hidden_layers") or 1


def _tensor_names(folder: Path) -> list[str] | None:
    """Names of the weights: from the header of the one file, which comes first in it, or from the index of several.

    None of a file that has no header at all: it says nothing of how it was made, and loading refuses it.
    """
    if not (folder / WHOLE).is_file():
        return list((_read_json(folder / INDEX) or {}).get("weight_map") or {})
    header = _header(folder / WHOLE)[0]
    return None if header is None else [name for name in header if name != "__metadata__"]


def _tensors(files: Collection[Path]) -> dict[str, dict[str, Any]]:
    """{name: {"dtype", "shape", ...}} of all tensors of these files, from their headers."""
    headers = [_header(file)[0] or {} for file in files]
    return {name: about for header in headers for name, about in header.items() if name != "__metadata__"}


def _is_cut(file: Path) -> bool:
    """It begins as a safetensors file does, and ends before its header does, or the last tensor that this names."""
    header, start = _header(file)
    if header is None:
        return start > 0
    ends = [about["data_offsets"][1] for about in header.values() if "data_offsets" in about]
    return file.stat().st_size < start + max(ends, default=0)


def _header(file: Path) -> tuple[dict[str, Any] | None, int]:
    """(header of a safetensors file, byte at which its tensors start); (None, 0) where the file begins otherwise.

    (None, the byte) of one that is not whole.
    """
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        text = stream.read(min(length, file.stat().st_size))
    if not text.startswith(b"{"):
        return None, 0
    try:
        header = json.loads(text)
    except ValueError:
        return None, 8 + length
    return header, 8 + length


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
