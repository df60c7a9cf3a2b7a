"""Records of an older form of identities: which get their new names, which are listed, and that nothing runs again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ablations import evidence
from ablations.snapshot import PACKAGES
from tests.ablations import fakes
from tests.ablations.conftest import ROOT
from videonsa.identity import VERSION, part_of_version_2

Sweep = Callable[..., int]
OTHERS = {"torch": "2.13.0+cpu", "transformers": "5.23.0", "lmms-eval": "0.7.3"}
MAIN = """
import sys
from unittest.mock import patch
from ablations import results, run
from tests.ablations import fakes
with patch.object(results, "summary", fakes.summary):
    sys.exit(run.main(sys.argv[1:], fakes.STAGES))
"""


def age(out: Path, **provenance: Any) -> None:
    """Make all records those of version 1: other names, no inputs, no device; `provenance` goes over theirs."""
    names: dict[str, str] = {}
    for kind in ("trainings", "cells", "probes"):
        for path in sorted(out.glob(f"{kind}/*/record.json")):
            record = json.loads(path.read_text())
            names[record["id"]] = hashlib.sha256(record["id"].encode()).hexdigest()[:12]
            del record["identity"]
            record["id"] = names[record["id"]]
            record["identities"] = {key: names.get(value, value) for key, value in record["identities"].items()}
            kept = {key: record["provenance"][key] for key in ("commit", "dirty", "versions", "time")}
            record["provenance"] = kept | {"commit": "c0ffee" * 6 + "c0ff", "dirty": False} | provenance
            path.write_text(json.dumps(record))
            path.parent.rename(path.parent.with_name(record["id"]))
    for plan in out.glob("sweeps/*/plan.json"):
        plan.unlink()


@pytest.fixture
def at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit of the records is here, and has the code of now."""
    monkeypatch.setattr(evidence, "_files", lambda commit: list)
    monkeypatch.setattr(evidence, "_part_at", lambda commit, part: "code")
    monkeypatch.setattr(evidence, "_same_code", lambda commit, top: True)


def test_what_can_be_shown_stands_and_nothing_runs_again(
    sweep: Sweep, out: Path, at_hand: None, capsys: pytest.CaptureFixture[str]
):
    assert sweep() == 0
    done = len(fakes.calls(out))
    age(out)
    capsys.readouterr()
    assert sweep("--dry-run") == 0
    assert "its identity is of version 1: --adopt gives it its new name" in capsys.readouterr().out
    assert sweep("--adopt") == 0
    printed = capsys.readouterr().out
    assert "6 of 6 finished records stand under their new names" in printed
    assert sweep() == 0
    assert len(fakes.calls(out)) == done
    (record,) = [json.loads(path.read_text()) for path in out.glob("probes/*/record.json")]
    assert record["identity"]["version"] == VERSION
    assert record["adopted"]["version"] == 1
    assert sweep("--adopt") == 0
    assert "0 of 0 finished records" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("provenance", "lacks"),
    [
        ({"dirty": True}, "its code was not that of commit c0ffeec0 alone"),
        ({"versions": OTHERS | {"torch": "2.13.0"}}, "the device was not recorded"),
        ({"versions": {"torch": "2.13.0+cpu", "lmms-eval": "0.7.3"}}, "the version of transformers was not recorded"),
        ({"versions": OTHERS | {"transformers": "5.21.1"}}, "transformers 5.21 -> 5."),
        ({"device": "cuda"}, "device cuda -> cpu"),
    ],
)
def test_what_is_missing_or_other_is_listed_and_left(
    provenance: dict, lacks: str, sweep: Sweep, out: Path, at_hand: None, capsys: pytest.CaptureFixture[str]
):
    assert sweep() == 0
    age(out, **provenance)
    before = sorted(path.parent.name for path in out.glob("*/*/record.json"))
    capsys.readouterr()
    assert sweep("--adopt") == 0
    printed = capsys.readouterr().out
    assert "0 of 6 finished records" in printed
    assert all(lacks in line for line in printed.splitlines() if line.startswith("  not "))
    assert sorted(path.parent.name for path in out.glob("*/*/record.json")) == before
    assert sweep() == 0
    assert "6 finished records of an older form ask the same: --adopt says" in capsys.readouterr().out


@pytest.mark.parametrize("same", [True, False])
def test_digits_of_code_of_version_2_count_where_the_code_here_has_them(
    same: bool, sweep: Sweep, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(evidence, "part_version", lambda part: "code")  # as fakes have it
    assert sweep() == 0
    done = len(fakes.calls(out))
    for path in sorted(out.glob("*/*/record.json")):
        record = json.loads(path.read_text())
        inputs = record["identity"]["inputs"]
        for code in (inputs.get("code"), inputs.get("weights", {}).get("code")):
            if code:
                code.update({part: part_of_version_2(part) if same else "0" * 12 for part in code})
        record["identity"]["version"] = 2
        record["id"] = hashlib.sha256(record["id"].encode()).hexdigest()[:12]
        record["provenance"] |= {"dirty": True}
        old = record["identities"]
        record["identities"] = {key: hashlib.sha256(old[key].encode()).hexdigest()[:12] for key in old}
        path.write_text(json.dumps(record))
        path.parent.rename(path.parent.with_name(record["id"]))
    capsys.readouterr()
    assert sweep("--adopt") == 0
    printed = capsys.readouterr().out
    assert f"{6 if same else 0} of 6 finished records" in printed
    assert same or "its code was not that of commit" in printed
    assert sweep() == 0
    assert (len(fakes.calls(out)) == done) == same


def test_code_that_differs_at_the_commit_is_no_evidence(
    sweep: Sweep, out: Path, at_hand: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert sweep() == 0
    age(out)
    monkeypatch.setattr(evidence, "_part_at", lambda commit, part: "other" if part == "modeling" else "code")
    capsys.readouterr()
    assert sweep("--adopt") == 0
    printed = capsys.readouterr().out
    assert "0 of 6 finished records" in printed
    assert "code of modeling changed: other -> code" in printed


def test_a_dry_run_says_why(sweep: Sweep, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert sweep() == 0
    for changed, reason in (
        ({"torch": "1.0", "transformers": "5.23", "lmms-eval": "0.7.3"}, "torch 2."),
        ({"torch": "2.13", "transformers": "5.23", "lmms-eval": "0.8.0"}, "lmms-eval 0."),
    ):
        monkeypatch.setattr("ablations.facts.installed", lambda changed=changed: changed)
        capsys.readouterr()
        assert sweep("--dry-run") == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Again: ")]
        (line,) = [line for line in lines if "4 cells" in line]
        assert reason in line


def test_a_worker_with_other_versions_refuses(sweep: Sweep, out: Path, monkeypatch: pytest.MonkeyPatch):
    from ablations import facts

    here = facts.installed()
    answers = iter([here])  # planned so; what comes later is asked by workers
    monkeypatch.setattr(facts, "installed", lambda: next(answers, here | {"torch": "1.0"}))
    assert sweep() == 1
    (record,) = [json.loads(path.read_text()) for path in out.glob("trainings/*/record.json")]
    assert record["error"]["type"] == "PlannedOtherwise"
    assert record["error"]["message"] == (
        f"planned for torch {here['torch']}, here 1.0: make both alike, or plan where it is as here"
    )
    assert fakes.calls(out) == []


@pytest.mark.long
def test_a_sweep_of_a_commit_that_is_at_hand_stands(tmp_path: Path):
    """In a copy of the repository, with its own git: as a user has it who pulled nothing but prose."""
    for name in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    grid, out = tmp_path / "pair.yaml", tmp_path / "place" / "runs"
    out.parent.mkdir()
    grid.write_text("axes: {nsa.block_count: [1, 2]}\nsuites: [synth_needle]\n")

    def git(*words: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def run(*more: str) -> str:
        command = [sys.executable, "-c", MAIN, "--grid", str(grid), "--out", str(out), "--cluster", "debug", *more]
        environment = os.environ | {"PYTHONPATH": str(tmp_path), "WANDB_MODE": "disabled"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    git("init", "-q")
    git("add", "videonsa", "ablations", "evals", "slurm", "analysis", "tests")
    git("commit", "-qm", "then")
    run()
    done = len(fakes.calls(out))
    age(out, commit=git("rev-parse", "HEAD").strip())
    model = tmp_path / "videonsa" / "modeling" / "load.py"
    model.write_text("# prose\n" + model.read_text())
    assert "4 of 4 finished records" in run("--adopt")
    run()
    assert len(fakes.calls(out)) == done
    age(out, commit=git("rev-parse", "HEAD").strip())
    model.write_text(model.read_text() + "\nLATER = 1\n")
    assert "code of modeling changed" in run("--adopt")
