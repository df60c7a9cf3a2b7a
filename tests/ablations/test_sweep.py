"""Sweeps with fake stages: what runs, what is shared, what failures leave, and what survives a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.ablations import fakes
from tests.ablations.conftest import records, set_faults, start_command
from videonsa.process import is_alive, process_started

Sweep = Callable[..., int]


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def local(out: Path, grid_file: Path, *more: str, **options: Any) -> subprocess.Popen[str]:
    command = ["--grid", str(grid_file), "--out", str(out), "--cluster", "local", "--workers", "2", *more]
    return start_command(*command, **options)


def test_a_sweep_leaves_one_record_a_cell_and_shares_the_training(sweep: Sweep, out: Path):
    assert sweep() == 0
    assert sorted(fakes.calls(out)) == ["probe", "synth_needle", "synth_needle", "synth_order", "synth_order", "train"]
    found = records(out)
    assert sorted(found) == ["b=1 synth_needle", "b=1 synth_order", "b=2 synth_needle", "b=2 synth_order"]
    for record in found.values():
        assert record["status"] == "done"
        assert record["scores"]["accuracy"] == 0.75
        assert set(record["settings"]) == {"train", "nsa", "suite", "seed"}
        assert set(record["identities"]) == {"cell", "training", "code"}
        assert record["summary"]["seconds"] >= 0
        assert "commit" in record["provenance"]
    (training,) = records(out, "trainings").values()
    assert training["summary"] == {
        "steps": 3,
        "final_loss": 1 / 3,
        "tokens": 30,
        "seconds": training["summary"]["seconds"],
        "weights": found["b=1 synth_needle"]["weights"]["digest"],
    }
    (probe,) = records(out, "probes").values()
    assert probe["status"] == "done"


def test_the_plan_says_what_the_sweep_is(sweep: Sweep, out: Path):
    assert sweep("--only", "b=1 *needle") == 0
    plan = json.loads((out / "sweeps" / "tiny-pair" / "plan.json").read_text())
    assert (plan["grid"], plan["profile"], plan["asks"]) == ("pair", "tiny", "test")
    assert len(plan["cells"]) == 4
    assert plan["cells"][0]["variant"] == {"block_count": 1}
    assert {cell["probe"] for cell in plan["cells"]} == set(records(out, "probes"))
    assert list(records(out)) == ["b=1 synth_needle"]


def test_the_plan_says_which_cells_are_compared(sweep: Sweep, out: Path, grid_file: Path, capsys):
    grid_file.write_text(grid_file.read_text() + "reference: b=2\nwithin: nsa.block_count\n")
    assert sweep("--dry-run") == 2
    assert "within: nsa.block_count: at each of its points is one variant" in capsys.readouterr().err
    frames = "axes: {nsa.block_count: [1, 2], suite.frames: [8, 16]}\nsuites: [synth_needle]\n"
    grid_file.write_text(frames + "reference: b=2 frames=8\nwithin: suite.frames\n")
    assert sweep() == 0
    plan = json.loads((out / "sweeps" / "tiny-pair" / "plan.json").read_text())
    assert plan["within"] == "suite.frames"
    assert [(cell["name"], cell["group"]) for cell in plan["cells"]] == [
        *[("b=1", "frames=8"), ("b=1", "frames=16"), ("b=2", "frames=8"), ("b=2", "frames=16")]
    ]
    assert sweep("--dry-run") == 0
    assert "Reference: b=2 frames=8, and its like at each suite.frames" in capsys.readouterr().out


def test_a_second_run_runs_nothing(sweep: Sweep, out: Path, capsys: pytest.CaptureFixture[str]):
    assert sweep() == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("record.json")}
    capsys.readouterr()
    assert sweep() == 0
    assert len(fakes.calls(out)) == 6
    assert {path: path.stat().st_mtime_ns for path in out.rglob("record.json")} == before
    assert "b=2 · synth_order: done" in capsys.readouterr().out


def test_another_grid_reuses_training_cells_and_probe(sweep: Sweep, out: Path, grid_file: Path):
    assert sweep() == 0
    grid_file.write_text("axes: {nsa.block_count: [1, 3]}\nsuites: [synth_needle]")
    assert sweep() == 0
    assert fakes.calls(out)[6:] == ["synth_needle"]


def test_a_failing_suite_leaves_a_traceback_and_the_others_go_on(
    sweep: Sweep, out: Path, capsys: pytest.CaptureFixture[str]
):
    set_faults(out, synth_order="raise")
    assert sweep() == 1
    found = records(out)
    assert [record["status"] for record in found.values()].count("done") == 2
    error = found["b=1 synth_order"]["error"]
    assert (error["type"], error["message"]) == ("ValueError", "synth_order is broken")
    assert "in strike" in error["traceback"]
    assert found["b=1 synth_order"]["scores"] == {}  # never a 0
    printed = capsys.readouterr().out
    assert "failed  b=1 · synth_order: ValueError: synth_order is broken" in printed


def test_failed_cells_wait_for_retry_failed(sweep: Sweep, out: Path):
    set_faults(out, synth_order="raise")
    assert sweep() == 1
    set_faults(out)
    assert sweep() == 1
    assert len(fakes.calls(out)) == 6
    assert sweep("--retry-failed") == 0
    assert fakes.calls(out)[6:] == ["synth_order", "synth_order"]
    assert len(list(out.glob("cells/*/failure.json"))) == 2  # what went wrong is kept


def test_a_failed_training_fails_its_cells_with_the_reason(sweep: Sweep, out: Path):
    set_faults(out, train="raise")
    assert sweep() == 1
    for record in records(out).values():
        assert record["status"] == "failed"
        assert record["error"]["type"] == "TrainingFailed"
        assert "train is broken" in record["error"]["message"]
    assert fakes.calls(out) == ["train"]
    assert sweep() == 1
    assert fakes.calls(out) == ["train"]
    set_faults(out)
    assert sweep("--retry-failed") == 0


def test_a_grid_that_comes_later_learns_that_its_training_failed(sweep: Sweep, out: Path, grid_file: Path):
    set_faults(out, train="raise")
    sweep()
    grid_file.write_text("axes: {nsa.block_count: [3]}\nsuites: [synth_order]")
    assert sweep() == 1
    assert records(out)["b=3 synth_order"]["error"]["type"] == "TrainingFailed"


def test_a_failed_probe_is_said_and_fails_the_run(sweep: Sweep, out: Path, capsys: pytest.CaptureFixture[str]):
    set_faults(out, probe="raise")
    assert sweep() == 1
    assert "probe is broken" in capsys.readouterr().out
    set_faults(out)
    assert sweep("--retry-failed") == 0


def test_a_record_of_other_settings_or_cut_short_is_not_done(sweep: Sweep, out: Path):
    assert sweep() == 0
    one, two, *_ = sorted(out.glob("cells/*/record.json"))
    one.write_text(one.read_text()[:-20])
    record = json.loads(two.read_text())
    record["settings"]["nsa"]["window"] += 1
    two.write_text(json.dumps(record))
    assert sweep() == 0
    assert len(fakes.calls(out)) == 6, "their answers are there: they are scored again"
    assert all(record["status"] == "done" for record in records(out).values())


def test_set_makes_a_sweep_of_its_own(sweep: Sweep, out: Path):
    assert sweep() == 0
    assert sweep("--set", "nsa.window=5") == 0
    names = sorted(path.name for path in (out / "sweeps").iterdir())
    assert names[0] == "tiny-pair"
    assert names[1].startswith("tiny-pair-")
    assert len(records(out, "trainings")) == 1


def test_local_workers_give_the_records_that_this_process_gives(out: Path, grid_file: Path, sweep: Sweep):
    process = local(out, grid_file)
    printed, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "b=2 · synth_order: done" in printed
    here = {key: record["scores"] for key, record in records(out).items()}
    pids = fakes.pids(out)
    assert len(set(pids)) in (3, 4)  # train, probe, and for the cells whichever of two came in time
    assert not any(process_started(pid) for pid in pids)
    (out / "cells").rename(out / "before")
    assert sweep() == 0
    assert {key: record["scores"] for key, record in records(out).items()} == here


def test_a_killed_worker_costs_one_suite_and_the_next_run_makes_it(out: Path, grid_file: Path, sweep: Sweep):
    set_faults(out, synth_needle="die")
    process = local(out, grid_file, "--workers", "1")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1, said
    found = records(out)
    assert {key: record["status"] for key, record in found.items()} == {
        "b=1 synth_needle": "failed",
        "b=2 synth_needle": "failed",
        "b=1 synth_order": "done",
        "b=2 synth_order": "done",
    }
    assert found["b=1 synth_needle"]["error"]["type"] == "WorkerDied"
    assert "without a word" in found["b=1 synth_needle"]["error"]["message"]
    set_faults(out)
    assert sweep() == 0  # nobody's fault: tried again without being asked


def test_a_killed_training_worker_is_resumed(out: Path, grid_file: Path, sweep: Sweep):
    set_faults(out, train="die")
    process = local(out, grid_file)
    process.communicate(timeout=120)
    assert process.returncode == 1
    assert {record["error"]["type"] for record in records(out).values()} == {"WorkerDied"}
    set_faults(out)
    assert sweep() == 0


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, *(pytest.param(number, marks=pytest.mark.long) for number in (signal.SIGINT, signal.SIGKILL))],
)
def test_a_killed_sweep_leaves_no_worker_and_resumes(number: signal.Signals, out: Path, grid_file: Path, sweep: Sweep):
    set_faults(out, synth_order=60)
    process = local(out, grid_file)
    wait_for(lambda: fakes.calls(out).count("synth_order") == 2)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    workers = fakes.pids(out)
    wait_for(lambda: not any(process_started(pid) for pid in workers), 5)
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert said.splitlines()[-1] == "interrupted; nothing finished is lost: the same command goes on"
    finished = {record["status"] for record in records(out).values()}
    assert finished == {"done"}
    assert len(records(out)) == 2
    set_faults(out)
    assert sweep() == 0
    assert fakes.calls(out).count("synth_needle") == 2
    assert fakes.calls(out).count("train") == 1


@pytest.mark.long
def test_signals_that_were_ignored_at_the_start_stay_ignored(out: Path, grid_file: Path):
    """`nohup python ablations/run.py ... &`: the terminal's end, and its Ctrl-C, are not for this sweep."""

    def deaf() -> None:
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)

    set_faults(out, synth_order=2)
    process = local(out, grid_file, preexec_fn=deaf)
    wait_for(lambda: "synth_order" in fakes.calls(out))
    for number in (signal.SIGINT, signal.SIGHUP):
        process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_two_at_once_one_runs_and_the_other_says_so(
    out: Path, grid_file: Path, sweep: Sweep, capsys: pytest.CaptureFixture
):
    set_faults(out, synth_order=2)
    process = local(out, grid_file)
    wait_for(lambda: fakes.calls(out).count("synth_order") > 0)
    assert sweep() == 1
    assert f"this sweep is running already (pid {process.pid} on " in capsys.readouterr().err
    assert sweep("--status") == 0
    printed = capsys.readouterr().out
    assert f"running: pid {process.pid}" in printed
    assert "evaluate synth_order, 2 variants" in printed
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert len(fakes.calls(out)) == 6


def test_two_sweeps_that_share_a_training_train_once(out: Path, grid_file: Path, tmp_path: Path):
    set_faults(out, train=2)
    other = tmp_path / "other.yaml"
    other.write_text("axes: {nsa.block_count: [1, 7]}\nsuites: [synth_needle, synth_order]")
    processes = [local(out, grid_file), local(out, other)]
    for process in processes:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    assert fakes.calls(out).count("train") == 1
    assert fakes.calls(out).count("synth_order") == 3
    assert fakes.calls(out).count("probe") == 1


def test_status_tells_of_failures_and_how_to_go_on(sweep: Sweep, out: Path, capsys: pytest.CaptureFixture[str]):
    set_faults(out, synth_order="raise")
    sweep("--only", "b=1")
    capsys.readouterr()
    assert sweep("--status") == 0
    printed = capsys.readouterr().out
    assert "4 cells: 1 done, 1 failed, 2 waiting" in printed
    assert "synth_order is broken" in printed
    assert not is_alive(os.getpid(), "another start")


def test_changed_code_makes_cells_again_and_status_still_knows_the_old_ones(
    sweep: Sweep, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert sweep() == 0
    monkeypatch.setenv("FAKE_CODE", "changed")
    capsys.readouterr()
    assert sweep("--status") == 0
    printed = capsys.readouterr().out
    assert "4 cells: 4 done" in printed
    assert "b=2 · synth_order: done" in printed  # the table of then
    assert sweep() == 0
    printed = capsys.readouterr().out
    assert "Since tiny-pair was planned: " in printed
    assert "; code of evals changed: code -> changed; " in printed
    assert fakes.calls(out).count("synth_order") == 4
    assert len(records(out, "trainings")) == 2


def test_w_and_b_gets_one_offline_run_a_cell(sweep: Sweep, out: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert sweep("--only", "b=1") == 0
    runs = [path.name.rpartition("-run-")[0] or path.name for path in (out / "wandb").glob("offline-run-*")]
    ids = {record["id"] for record in records(out).values()}
    found = {path.name.split("-")[3] for path in (out / "wandb").glob("offline-run-*")}
    assert found == ids
    assert len(runs) == 2


def test_w_and_b_never_fails_a_cell(sweep: Sweep, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr("wandb.init", lambda **_: 1 / 0)
    monkeypatch.setattr("analysis.mirror.report.report_sweep", lambda *_: 1 / 0)
    assert sweep("--wandb-report") == 0
    said = capfd.readouterr()
    assert "W&B: b=1 · synth_needle: ZeroDivisionError" in said.err
    assert "W&B report: ZeroDivisionError: division by zero; `python analysis/run.py wandb` tries again" in said.err
    assert "4 cells: 4 done" in said.out


@pytest.mark.long
def test_a_sweep_ends_with_its_report_at_w_and_b_where_asked(
    sweep: Sweep, out: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    assert sweep("--wandb-report") == 2  # W&B is off: before anything runs
    assert "--wandb-report: W&B is switched off" in capfd.readouterr().err
    assert not records(out)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert sweep("--wandb-report", "--no-questions") == 0
    assert "wandb-report.json" in capfd.readouterr().out
    runs = [path.name.split("-", 3)[3] for path in (out / "wandb").glob("offline-run-*")]
    assert sorted(runs) == sorted(["sweep-tiny-pair", *(f"{record['id']}-done" for record in records(out).values())])
    assert sweep("--wandb-report", "--no-questions") == 0  # nothing is made twice
    assert len(list((out / "wandb").glob("offline-run-*"))) == 5


def test_what_a_benchmark_lacks_is_said_before_anything_runs(out: Path, tmp_path: Path, monkeypatch, capsys):
    from tests.ablations import fakes

    for name in ("OPENAI_API_KEY", "API_TYPE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    grid = tmp_path / "judged.yaml"
    grid.write_text("asks: test\naxes: {nsa.block_count: [1, 2]}\nsuites: [videoevalpro]\n")
    arguments = ["--grid", str(grid), "--out", str(out), "--cluster", "debug"]
    line = "Missing: suite videoevalpro: its answers are judged by a language model: set OPENAI_API_KEY"
    fakes.main(arguments)
    said = capsys.readouterr().out
    assert said.count(line) == 1
    assert said.startswith(line)
    fakes.main(arguments)
    assert line not in capsys.readouterr().out  # all is done: nothing is lacking any more


def test_a_run_pins_the_revision_of_a_hub_name(sweep, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ref = tmp_path / "hub" / "models--me--model" / "refs" / "main"
    ref.parent.mkdir(parents=True)
    ref.write_text("1a2b")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    sweep("--set", "checkpoint=me/model")  # which the fakes cannot load
    assert json.loads((out / "revisions.json").read_text()) == {"me/model": "1a2b"}
