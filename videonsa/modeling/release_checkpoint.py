"""Recognise the public release's checkpoint, which calls itself Qwen2.5-VL, and read its settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from videonsa.config import NSASettings

# The release's names of its settings; its code reads them from the text part of config.json, where transformers 4.5x
# and 5.x write them, or from its top level. Absent ones have its code's defaults, which are NSASettings'.
RELEASE_NAMES = {"block_counts": "block_count", "window_size": "window"}
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


def hub_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `from_pretrained`'s arguments that say where a checkpoint's files are."""
    return {name: arguments[name] for name in HUB_ARGUMENTS if arguments.get(name) is not None}


def is_release(config: Mapping[str, Any], missing_weights: Iterable[str]) -> bool:
    """Whether a checkpoint of this config.json, that lacks these weights, is the release: Qwen by name, with gates."""
    has_gates = not any(".g_proj_" in name for name in missing_weights)
    return config.get("model_type") == "qwen2_5_vl" and has_gates


def release_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of NSASettings for the release's config.json."""
    written = {**config, **(config.get("text_config") or {})}
    sizes = {ours: written[theirs] for theirs, ours in RELEASE_NAMES.items() if written.get(theirs) is not None}
    return {"semantics": "release", **sizes}


def as_text(nsa: NSASettings) -> str:
    """The settings in force, for the log."""
    sizes = f"block_size={nsa.block_size} block_count={nsa.block_count} window={nsa.window}"
    return f"semantics={nsa.semantics} {sizes}"
