"""One made-up out folder for all tests of analysis: reading it changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.compared import compare
from analysis.load import Results, find_reference, load, read_plan
from tests.analysis import synthetic


@pytest.fixture(scope="session")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    synthetic.budget_sweep(folder)
    synthetic.branch_sweep(folder)
    synthetic.token_sweep(folder)
    return folder


@pytest.fixture(scope="session")
def plan(out: Path) -> dict:
    return read_plan(out / "sweeps" / "tiny-budget")


@pytest.fixture(scope="session")
def results(out: Path, plan: dict) -> Results:
    return load(out, plan)


@pytest.fixture(scope="session")
def rows(results: Results, plan: dict):
    return compare(results, find_reference(plan, results.cells))
