"""Recall as a table: means over layers, the lowest layer beside them, and nothing where no probe has any."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from analysis.load import load, read_plan
from analysis.recall import write_recall
from analysis.run import main
from tests.analysis import synthetic


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of one probe with two layers, whose numbers are even."""
    sweep = synthetic.budget_sweep(tmp_path_factory.mktemp("runs"))
    plan = json.loads((sweep / "plan.json").read_text())
    probe = plan["cells"][0]["probe"]
    (nsa, *_) = plan["cells"]
    plan["cells"] = [
        nsa,
        nsa | {"label": "tri", "method": "tri_shape"},
        nsa | {"label": "bound", "method": "oracle keys=8"},
    ]
    (sweep / "plan.json").write_text(json.dumps(plan))
    path = sweep.parent.parent / "probes" / probe / "record.json"
    record = json.loads(path.read_text())
    record["layers"] = record["layers"][:2]
    for layer, mass in zip(record["layers"], (0.5, 0.75), strict=True):
        about = {"density": 0.25, "queries": 512}
        layer["recall"] = {"oracle keys=8": {"vision": {"mass": mass, "best": mass, "keys": 1.0, **about}}}
        layer["recall"]["nsa"] = {"text": {"mass": mass, "best": mass, "keys": 1.0, **about}}
        layer["recall"]["tri_shape"] = {"text": {"mass": mass / 2, "best": mass, "keys": 0.5, **about}}
    path.write_text(json.dumps(record))
    return sweep


def test_the_table_has_means_and_the_lowest_layer(sweep: Path):
    plan = read_plan(sweep)
    results = load(sweep.parent.parent, plan)
    paths = write_recall(plan, results, sweep)
    assert [path.name for path in paths] == ["recall.md", "recall.csv"]
    lines = paths[0].read_text().splitlines()
    assert "| bound | vision | 25.0 [25.0] | 62.5 [50.0] | 62.5 [50.0] | 100.0 [100.0] |" in lines
    assert "| tri | text | 25.0 [25.0] | 31.2 [25.0] | 62.5 [50.0] | 50.0 [50.0] |" in lines
    rows = pd.read_csv(paths[1])
    assert dict(zip(rows["method"], rows["variant"], strict=True)) == {
        **{"oracle keys=8": "bound", "tri_shape": "tri"},
        "nsa": "b=1 w=24",
    }
    assert rows["layer"].tolist() == [0, 0, 0, 1, 1, 1]


def test_a_probe_of_other_methods_alone_is_called_after_its_weights(sweep: Path):
    plan = read_plan(sweep)
    probe, weights = plan["cells"][0]["probe"], plan["cells"][0] | {"label": "twin", "probe": None}
    others = {**plan, "cells": [weights, *plan["cells"][1:]]}
    assert set(load(sweep.parent.parent, plan).recall["label"]) == {"b=1 w=24"}
    found = load(sweep.parent.parent, others).recall
    assert (set(found["probe"]), set(found["label"])) == ({probe}, {"twin"})


@pytest.mark.filterwarnings("error")
def test_it_is_one_command(sweep: Path, capsys: pytest.CaptureFixture):
    assert main(["recall_table", "recall", "--out", str(sweep.parent.parent), "--sweep", sweep.name]) == 0
    assert "| bound | vision |" in capsys.readouterr().out
    assert (sweep / "figures" / "recall.svg").is_file()


def test_without_a_probe_it_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture):
    sweep = synthetic.branch_sweep(tmp_path)
    (sweep / "recall.md").write_text("of a probe that is gone")
    assert main(["recall_table", "--out", str(tmp_path), "--sweep", sweep.name]) == 1
    assert "it needs a finished probe" in capsys.readouterr().err
    assert not (sweep / "recall.md").exists()
