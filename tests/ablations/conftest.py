"""A sweep of fake stages in a folder of its own, run in this process or as the command that a user types."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.ablations import fakes

ROOT = Path(__file__).parent.parent.parent
GRID = """
question: Two budgets, two suites
asks: test
axes: {nsa.block_count: [1, 2]}
suites: [synth_needle, synth_order]
"""


@pytest.fixture
def grid_file(tmp_path: Path) -> Path:
    path = tmp_path / "pair.yaml"
    path.write_text(GRID)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch, grid_file: Path, out: Path) -> Callable[..., int]:
    """Run the pair grid here, in the debug cluster unless told otherwise; returns the exit code."""
    monkeypatch.setenv("WANDB_MODE", "disabled")

    def run(*more: str, cluster: str = "debug") -> int:
        return fakes.main(["--grid", str(grid_file), "--out", str(out), "--cluster", cluster, *more])

    return run


def hears_signals() -> None:
    """As in a terminal. A job in the background has SIGINT ignored, under nohup SIGHUP too, and hands that on."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def start_command(*arguments: str, module: str = "tests.ablations.fakes", **options: object) -> subprocess.Popen[str]:
    """The command in a process of its own, with fake stages."""
    environment = os.environ | {"WANDB_MODE": "disabled"}
    command = [sys.executable, "-m", module, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "preexec_fn": hears_signals}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **(pipes | options))  # type: ignore[call-overload]


def records(out: Path, kind: str = "cells") -> dict[str, dict]:
    """Records by '<label> <suite>' for cells, by id for the rest."""
    found = [json.loads(path.read_text()) for path in sorted((out / kind).glob("*/record.json"))]
    if kind != "cells":
        return {record["id"]: record for record in found}
    return {f"{record['label']} {record['settings']['suite']['name']}": record for record in found}


# What two equal runs may differ in.
TIMES = ("latency_ms", "prefill_ms", "tower_ms", "decoder_ms", "decode_ms", "peak_memory_mib", "spent", "read_ms")


def results(out: Path) -> dict[str, Any]:
    """All that a sweep found, by the path of its file: records without times and places, questions, losses."""
    found: dict[str, Any] = {}
    for path in sorted(out.glob("cells/*/record.json")):
        record = json.loads(path.read_text())
        kept = {key: record[key] for key in ("status", "id", "label", "settings", "identities", "scores", "error")}
        questions = [{key: row[key] for key in row if key not in TIMES} for row in record["questions"]]
        found[str(path.relative_to(out))] = kept | {"questions": questions}
    for folder in sorted(out.glob("answers/*")):  # answered once each
        texts = [path.read_text().split("\n")[1:-1] for path in folder.glob("*.jsonl")]  # but a line cut short
        rows = [json.loads(line) for text in texts for line in text]
        found[str(folder.relative_to(out))] = sorted((row["key"], row["question"], row["prediction"]) for row in rows)
    for path in sorted(out.glob("probes/*/record.json")):
        found[str(path.relative_to(out))] = json.loads(path.read_text())["layers"]
    for path in sorted(out.glob("trainings/*/metrics.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        found[str(path.relative_to(out))] = [(row["step"], row["loss"], row["tokens"]) for row in rows]
    return found


def set_faults(out: Path, **faults: object) -> None:
    """What goes wrong from now on, by suite, 'train' or 'probe': raise, die, or seconds."""
    (out.parent / "FAULTS").write_text(json.dumps(faults))
