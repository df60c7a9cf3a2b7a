"""A tiny checkpoint with random weights, and synthetic data written once a run of the tests."""

from __future__ import annotations

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
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder."""
    return tmp_path_factory.mktemp("data")
