"""Sweeps of fake stages on a real disk that fills up, fails or goes: what is complete stays, and all goes on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ablations import fakes
from tests.ablations.conftest import records, set_faults, start_command
from tests.ablations.test_sweep import wait_for
from tests.disks import fill, remount, small_disk
from videonsa import lock

DONE = dict.fromkeys(("b=1 synth_needle", "b=1 synth_order", "b=2 synth_needle", "b=2 synth_order"), "done")
Sweep = Callable[..., int]


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """The out folder fills a disk of its own: FAULTS and CALLS lie on another."""
    with small_disk(tmp_path / "runs", "size=2m,nr_inodes=400") as disk:
        yield disk


def statuses(out: Path) -> dict[str, str]:
    return {name: record["status"] for name, record in records(out).items()}


def finished(out: Path) -> dict[Path, bytes]:
    found = {path: path.read_bytes() for path in out.rglob("record.json")}
    return {path: content for path, content in found.items() if json.loads(content)["status"] == "done"}


@pytest.mark.parametrize("moment", ["train", "synth_needle", "synth_order", "probe"])
def test_a_disk_that_fills_up_loses_nothing_and_is_named(
    moment: str, sweep: Sweep, out: Path, capsys: pytest.CaptureFixture[str]
):
    set_faults(out, **{moment: "fill"})
    assert sweep() == 1
    said = capsys.readouterr()
    assert f"No space left on device; disk {out}: 0 B free" in said.out + said.err
    assert "Traceback" not in said.out + said.err
    before = finished(out)
    set_faults(out)
    (out / ".filling").unlink()
    assert sweep() == 0
    assert statuses(out) == DONE
    assert {path: path.read_bytes() for path in before} == before
    assert fakes.calls(out).count("train") == (2 if moment == "train" else 1)
    assert "b=2 · synth_order: done" in capsys.readouterr().out


@pytest.mark.long
def test_worker_processes_on_a_full_disk(sweep: Sweep, out: Path, grid_file: Path):
    set_faults(out, synth_order="fill")
    command = ["--grid", str(grid_file), "--out", str(out), "--cluster", "local", "--workers", "1"]
    process = start_command(*command)
    printed, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f"No space left on device; disk {out}: 0 B free" in printed + said
    assert "Traceback" not in printed + said
    before = finished(out)
    kinds = sorted(json.loads(content)["kind"] for content in before.values())
    assert kinds == ["evaluation", "evaluation", "probe", "training"]  # what was asked before the disk was full
    set_faults(out)
    (out / ".filling").unlink()
    assert sweep() == 0
    assert statuses(out) == DONE
    assert {path: path.read_bytes() for path in before} == before


def test_a_disk_without_inodes(sweep: Sweep, out: Path, capsys: pytest.CaptureFixture[str]):
    assert sweep("--only", "b=1") == 0
    for number in range(400):
        try:
            (out / f"many-{number}").touch()
        except OSError:
            break
    capsys.readouterr()
    assert sweep() == 1
    assert f"disk {out}: 0 inodes (files) free" in capsys.readouterr().err
    for file in out.glob("many-*"):
        file.unlink()
    assert sweep() == 0
    assert statuses(out) == DONE


def test_a_disk_that_becomes_read_only(sweep: Sweep, out: Path, capsys: pytest.CaptureFixture[str]):
    assert sweep("--only", "b=1") == 0
    remount(out, "ro")
    capsys.readouterr()
    assert sweep() == 1
    assert f"Read-only file system; disk {out}" in capsys.readouterr().err
    assert sweep("--status") == 0
    assert "4 cells: 2 done, 2 waiting" in capsys.readouterr().out
    remount(out, "rw")
    assert sweep() == 0


def test_a_table_that_does_not_fit(sweep: Sweep, out: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """Records are done; the table is made once there is room."""
    from ablations import results

    made = fakes.summary

    def full(of: object) -> list[Path]:
        fill(out)
        (out / "sweeps" / "tiny-pair" / "table.md").write_text("x" * 1000)
        return made(of)

    monkeypatch.setattr(fakes, "summary", full)
    assert sweep() == 1
    said = capsys.readouterr().out
    assert "the table could not be made: cannot write to" in said
    assert f"disk {out}: 0 B free" in said
    (out / ".filling").unlink()
    monkeypatch.setattr(results, "summary", made)
    monkeypatch.setattr(fakes, "summary", made)
    assert sweep() == 0
    assert "b=2 · synth_order: done" in capsys.readouterr().out


@pytest.mark.long
def test_a_folder_that_goes_in_the_middle_ends_the_sweep(
    out: Path, grid_file: Path, monkeypatch: pytest.MonkeyPatch, sweep: Sweep
):
    set_faults(out, synth_needle=60)
    code = "import sys; from videonsa import lock; lock.BEAT_SECONDS = 0.2; from tests.ablations import fakes; "
    code += "sys.exit(fakes.main(sys.argv[1:]))"
    (grid_file.parent / "beating.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", f"{grid_file.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    command = ["--grid", str(grid_file), "--out", str(out), "--cluster", "local", "--workers", "1"]
    process = start_command(*command, module="beating")
    wait_for(lambda: "synth_needle" in fakes.calls(out))
    for folder in out.iterdir():
        shutil.rmtree(folder, ignore_errors=True)
    _, said = process.communicate(timeout=60)
    assert process.returncode == lock.LOST
    assert "lock is gone, or its folder is: this process ends" in said
    assert not list(out.rglob("record.json"))
    set_faults(out)
    assert sweep() == 0


def test_a_finished_record_is_never_replaced_by_a_failure(sweep: Sweep, out: Path):
    """Another sweep may finish a cell at the moment at which this one finds its own worker dead."""
    from ablations.records import fail_record

    assert sweep("--only", "b=1 *needle") == 0
    (path,) = (out / "cells").glob("*/record.json")
    before = path.read_bytes()
    plan = json.loads((out / "sweeps" / "tiny-pair" / "plan.json").read_text())
    assert plan["cells"][0]["id"] == path.parent.name
    from ablations import records as records_module

    cells = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ablations.run.finish", lambda sweep, *_: cells.extend(sweep.cells) or 0)
        sweep("--only", "b=1 *needle")
        patch.setattr(records_module, "read_record", lambda path: None)  # it was not there a moment ago
        patch.setattr(Path, "exists", lambda path: False)
        fail_record(out, cells[0], {"type": "WorkerDied", "message": "m", "traceback": ""})
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["record.json"]


def test_jobs_that_cannot_be_noted_are_cancelled(
    out: Path, grid_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Nobody would know of them: the next command would submit them once more."""
    cancelled: list[str] = []
    here = "ablations.slurm_submit."
    for name, stand_in in (
        ("require_slurm", lambda: None),
        ("settle", lambda sweep: []),
        ("active_jobs", lambda jobs: []),
        ("max_array_size", lambda: 64),
        ("take_snapshot", lambda folder: folder),
        ("submit_slurm", lambda works, request: (fill(out), [f"7_{number}" for number in range(len(works))])[1]),
        ("cancel", cancelled.extend),
    ):
        monkeypatch.setattr(here + name, stand_in)
    profile = grid_file.with_name("site.yaml")
    profile.write_text("partition: debug\n")
    command = ["--grid", str(grid_file), "--out", str(out), "--cluster", "slurm", "--profile", str(profile)]
    assert fakes.main(command) == 1
    assert f"slurm.json: No space left on device; disk {out}" in capsys.readouterr().err
    assert cancelled == ["7_0"]
    assert not list(out.rglob("slurm.json"))
