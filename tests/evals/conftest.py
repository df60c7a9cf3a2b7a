"""A tiny checkpoint with random weights, and synthetic data written once a run of the tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from evals.checkpoint import Checkpoint, load
from videonsa.config import NSASettings
from videonsa.tiny import build_tiny

NSA = NSASettings(block_size=4, block_count=4, window=8)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder."""
    place = tmp_path_factory.mktemp("checkpoint")
    model, processor = build_tiny(NSA, seed=0)
    model.save_pretrained(place)
    processor.save_pretrained(place)
    return place


@pytest.fixture(scope="session")
def loaded(folder: Path) -> Checkpoint:
    torch.set_num_threads(1)
    return load(folder, device="cpu")


@pytest.fixture(scope="session")
def says(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A checkpoint that says these words, one token each, whatever it is asked."""

    def make(*words: str) -> Path:
        model, processor = build_tiny(NSA, seed=0)
        ids = [processor.tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
        assert all(len(tokens) == 1 for tokens in ids), ids
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "language_model" in name and name.endswith(("o_proj.weight", "down_proj.weight")):
                    weight.zero_()  # the last token's embedding alone decides
            table = model.get_input_embeddings().weight
            table.mul_(0.01)
            table[:, 0] = 1.0  # after any other word comes the first
            for place, (token,) in enumerate(ids):
                table[token, place] = 50.0 * 20**place
                table[token, place + 1] = 50.0 * 20**place  # after this word comes the next
        folder = tmp_path_factory.mktemp("says")
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder."""
    return tmp_path_factory.mktemp("data")
