"""The benchmark of observers, without a card: each one of the registry can look, rows come, a failure costs its own."""

from __future__ import annotations

import csv

import pytest
import torch

from evals.observers import registry
from videonsa.bench import observers


@pytest.mark.parametrize("name", registry.names())
@torch.inference_mode()
def test_every_observer_looks_at_the_made_layer(name):
    found = observers.look(name, 128, torch.device("cpu"), (2, 1, 128))
    assert found["ms"] > 0
    assert found["peak_gib"] == 0


def test_one_that_memory_does_not_hold_costs_its_own_row(monkeypatch, tmp_path, capsys):
    def look(name, length, device):
        if name == "recall":
            raise torch.OutOfMemoryError
        return {"ms": 1234.5, "peak_gib": 2.0}

    monkeypatch.setattr(observers, "look", look)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    about = {"gpu": "X", "torch": "1", "triton": "1", "commit": "c"}
    monkeypatch.setattr(observers.command, "software", lambda commit: about)
    out = tmp_path / "observers.csv"
    assert observers.main(["--observers", "recall", "gates", "--lengths", "64", "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "gates at 64 tokens: 1,234 ms, 2.0 GiB a layer",
        "recall at 64 tokens: out of memory",
    ]
    rows = list(csv.DictReader(out.open()))
    assert [(row["observer"], row["ms"]) for row in rows] == [("gates", "1234.5"), ("recall", "")]
    with pytest.raises(SystemExit):
        observers.main(["--lengths", "100"])
    assert "--lengths 100: give whole frames of 64 tokens" in capsys.readouterr().err
