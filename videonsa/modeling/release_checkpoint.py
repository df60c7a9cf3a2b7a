"""Recognise the public release's checkpoint, which calls itself Qwen2.5-VL; its settings: videonsa/weights.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from videonsa.config import NSASettings
from videonsa.weights import GATE, QWEN

HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


def hub_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `from_pretrained`'s arguments that say where a checkpoint's files are."""
    return {name: arguments[name] for name in HUB_ARGUMENTS if arguments.get(name) is not None}


def is_release(config: Mapping[str, Any], missing_weights: Iterable[str]) -> bool:
    """Whether a checkpoint of this config.json, that lacks these weights, is the release: Qwen by name, with gates."""
    return config.get("model_type") == QWEN and has_all_gates(missing_weights)


def has_all_gates(missing_weights: Iterable[str]) -> bool:
    """Whether a checkpoint that lacks these weights holds its gates; a model without gets fresh ones."""
    return not any(GATE in name for name in missing_weights)


def as_text(nsa: NSASettings) -> str:
    """The settings in force, for the log."""
    sizes = f"block_size={nsa.block_size} block_count={nsa.block_count} window={nsa.window}"
    return f"semantics={nsa.semantics} {sizes}"
