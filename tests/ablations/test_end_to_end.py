"""The real thing, small: train a few steps, evaluate two variants through lmms-eval, draw the table; then again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from ablations.snapshot import take_snapshot
from tests.ablations.conftest import records
from videonsa.arrays import read_arrays

COMMAND = [sys.executable, "ablations/run.py", "--grid", "smoke", "--set", "suites=synth_needle"]
COMMAND += ["--set", "train.steps=3", "--set", "suite.limit=3", "--workers", "1"]
OBSERVERS = ["gates", "recall", "gate_similarity", "gate_vectors", "gate_content"]
COMMAND += ["--set", f"probe.observers={'+'.join(OBSERVERS)}"]


def test_the_whole_loop_and_a_second_run(tmp_path: Path):
    """From a snapshot, as jobs on a cluster run it: whoever edits the checkout meanwhile changes nothing."""
    out, code = tmp_path / "runs", take_snapshot(tmp_path / "code")

    def run(**variables: str) -> subprocess.CompletedProcess[str]:
        command, environment = [*COMMAND, "--out", str(out)], os.environ | variables
        return subprocess.run(command, cwd=code, env=environment, capture_output=True, text=True, check=False)

    first = run()
    assert first.returncode == 0, first.stderr
    found = records(out)
    assert sorted(found) == ["dense synth_needle", "nsa synth_needle"]
    for record in found.values():
        assert record["status"] == "done"
        assert len(record["questions"]) == 3
        assert record["summary"]["prefill_ms_p50"] > 0
        assert 0 < record["summary"]["attention_fraction"] <= 1
        asked = json.loads((out / record["media"]).read_text())
        sheets = [(out / record["media"]).with_name(f"{name}.jpg") for one in asked.values() for name in one["sheets"]]
        assert [path.is_file() for path in sheets] == [True] * 3
        assert all(one["prompt"].startswith("what color had the ring") for one in asked.values())
    (training,) = records(out, "trainings").values()
    assert training["summary"]["steps"] == 3
    assert training["summary"]["final_loss"] > 0
    assert training["summary"]["gates"] == "fresh"
    assert training["summary"]["learning"] == training["summary"]["parameters"] > 300_000
    (probe,) = records(out, "probes").values()
    assert probe["observers"] == OBSERVERS
    assert all(set(layer) == {"layer", *OBSERVERS} - {"gate_vectors"} for layer in probe["layers"])
    arrays = read_arrays(out / "probes" / probe["id"], probe["arrays"])
    assert {name: list(array.shape) for name, array in arrays.items()} == {
        name: said["shape"] for name, said in probe["arrays"]["held"].items()
    }
    assert arrays["gate_vectors/cmp"].shape == (3, len(probe["layers"]), 4)
    (sweep,) = (out / "sweeps").iterdir()
    assert {"table.txt", "table.csv", "table.md"} <= {path.name for path in sweep.iterdir()}
    assert list((sweep / "figures").glob("*.png"))
    page = (sweep / "report.html").read_text()
    assert page.count('"jpg":"') == len({one["video"] for one in record["questions"]})
    assert "what color had the ring around it?" in page
    assert "[suites=synth_needle, train.steps=3, suite.limit=3, probe." in (out / "index.html").read_text()
    assert len(list((out / "wandb").glob("offline-run-*"))) == 2
    second = run(PYTHONPROFILEIMPORTTIME="1")
    assert second.returncode == 0
    assert second.stdout == first.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in second.stderr.splitlines()}
    assert "ablations.plan" in imported
    assert not imported & {"torch", "transformers", "pandas"}  # what is found again takes no more than a look
