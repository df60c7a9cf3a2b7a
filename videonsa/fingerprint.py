"""The identity of a checkpoint's folder: its content, wherever it lies. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from videonsa.config import NSASettings
from videonsa.identity import identity

SAMPLE = 1 << 20  # bytes that are read at the begin, in the middle and at the end of a weights file
# Beside configuration and weights: what turns a question into tokens and patches.
PROCESSOR = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "added_tokens.json"),
    *("special_tokens_map.json", "chat_template.json", "chat_template.jinja"),
)
# Of config.json: what a caller states anew (the fields of NSASettings, another method), what the rest says too (awq),
# and who wrote it.
NOT_WEIGHTS = ("_name_or_path", "transformers_version", "method", "awq", *(field.name for field in fields(NSASettings)))
# Of generation_config.json: the tokens that end an answer. What else stands there does not act: answers are greedy.
GENERATION = ("bos_token_id", "eos_token_id", "pad_token_id")


def fingerprint(folder: Path) -> str:
    """12 digits for all in a checkpoint's folder that acts on answers; of weights files samples are read."""
    return _fingerprint(folder.resolve(), _stamp(folder))


@lru_cache
def _fingerprint(folder: Path, stamp: tuple) -> str:
    config, generation = (_read(folder / f"{name}config.json") for name in ("", "generation_"))
    if "whole_seconds" not in config:  # then the version that wrote it decides (videonsa/modeling/configuration.py)
        config["whole_seconds"] = config.get("transformers_version")
    config = {key: value for key, value in config.items() if key not in NOT_WEIGHTS}
    generation = {key: value for key, value in generation.items() if key in GENERATION}
    digest = hashlib.sha256(identity({"config": config, "generation": generation}).encode())
    for path in _weight_files(folder):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with open(path, "rb") as file:
            for start in (0, max(0, size // 2 - SAMPLE // 2), max(0, size - SAMPLE)):
                file.seek(start)
                digest.update(file.read(SAMPLE))
    for name in (*PROCESSOR, *TOKENIZER):
        path = folder / name
        if path.is_file():
            digest.update(name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _stamp(folder: Path) -> tuple:
    """Changes when a file of the folder does: a fingerprint is kept so long."""
    found = ((path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file())
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in found)


def _weight_files(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.glob("*.safetensors"))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
