"""What jobs call may be given by name."""

from __future__ import annotations

from dataclasses import replace

from ablations import run
from tests.ablations import fakes
from tests.ablations.conftest import records


def test_cells_are_evaluated_by_a_function_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    stages = replace(fakes.STAGES, evaluate="tests.ablations.fakes:evaluate")
    assert run.main(["--grid", "smoke", "--cluster", "debug", "--out", str(tmp_path / "runs")], stages) == 0
    found = records(tmp_path / "runs")
    assert len(found) > 1
    assert all(record["scores"]["accuracy"] == 0.75 for record in found.values())
