"""A checkpoint's identity: what in its folder acts on answers, and its revision on the hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from videonsa.fingerprint import SAMPLE, fingerprint
from videonsa.hub import cached_revision, hub_revision, loading_arguments, split_revision

CONFIG = {"model_type": "videonsa", "hidden_size": 64, "window": 8, "whole_seconds": False}


def checkpoint(folder: Path, weights: bytes = b"w" * 100, **files: object) -> Path:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(weights)
    for name, content in {"config": CONFIG, "generation_config": {"eos_token_id": 2}, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    "files",
    [
        {"config": CONFIG | {"hidden_size": 65}},
        {"config": CONFIG | {"static_gates": [1.0]}},
        {"generation_config": {"eos_token_id": [2, 3]}},
        {"tokenizer": {"a": 1}},
        {"video_preprocessor_config": {"size": 1}},
        {"chat_template": {"chat_template": "{{ x }}"}},
    ],
)
def test_what_acts_counts(files: dict, tmp_path: Path):
    assert fingerprint(checkpoint(tmp_path / "a")) != fingerprint(checkpoint(tmp_path / "b", **files))


@pytest.mark.parametrize(
    "files",
    [
        {"config": CONFIG | {"window": 9, "transformers_version": "5.1", "_name_or_path": "/home/x"}},
        {"generation_config": {"eos_token_id": 2, "repetition_penalty": 1.05, "temperature": 0.1}},
        {"trainer_state": {"step": 3}},
    ],
)
def test_what_is_asked_anew_or_never_acts_does_not(files: dict, tmp_path: Path):
    assert fingerprint(checkpoint(tmp_path / "a")) == fingerprint(checkpoint(tmp_path / "b", **files))


@pytest.mark.parametrize("place", [0, 2 * SAMPLE, 4 * SAMPLE - 1])
def test_weights_are_sampled_at_begin_middle_and_end(place: int, tmp_path: Path):
    weights = bytearray(4 * SAMPLE)
    one = fingerprint(checkpoint(tmp_path / "a", bytes(weights)))
    weights[place] = 1
    assert one != fingerprint(checkpoint(tmp_path / "b", bytes(weights)))


def test_a_file_that_changes_is_read_again(tmp_path: Path):
    folder = checkpoint(tmp_path / "a")
    before = fingerprint(folder)
    (folder / "model.safetensors").write_bytes(b"v" * 101)
    assert fingerprint(folder) != before


def test_revisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert split_revision("org/model@1a2b") == ("org/model", "1a2b")
    assert split_revision("org/model") == ("org/model", None)
    assert loading_arguments("org/model@1a2b") == ("org/model", {"revision": "1a2b"})
    assert loading_arguments(tmp_path) == (str(tmp_path), {})
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert cached_revision("org/model") is None
    assert hub_revision("org/model") is None
    refs = tmp_path / "hub" / "models--org--model" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("1a2b\n")
    assert cached_revision("org/model") == "1a2b"
