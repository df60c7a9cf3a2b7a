"""A training does what its settings say, whatever accelerate's variables say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.conftest import metrics, quick
from videonsa.training.run import train

OTHERS = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_DYNAMO_BACKEND": "EAGER",
    "ACCELERATE_USE_FSDP": "true",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_TORCH_DEVICE": "meta",
}


def test_variables_of_accelerate_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = quick(steps=1, frames=(4,))
    train(settings, tmp_path / "plain", on_progress=lambda done, total: None)
    for name, value in OTHERS.items():
        monkeypatch.setenv(name, value)
    train(settings, tmp_path / "other", on_progress=lambda done, total: None)
    assert metrics(tmp_path / "other") == metrics(tmp_path / "plain")
    log = (tmp_path / "other" / "log.txt").read_text()
    assert all(name in log for name in OTHERS)  # and says that it did not listen
