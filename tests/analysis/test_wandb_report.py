"""A sweep's report at W&B: real offline runs read back, and real runs and reports against a server on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.mirror import refusals, server
from analysis.mirror.report import FILE
from analysis.run import main, summarize
from tests.analysis import synthetic
from tests.wandb_offline import read_run, read_table
from tests.wandb_server import Server, forget_surroundings
from videonsa import tracking

RUN = "sweep-tiny-pair"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An out folder whose sweep has its table and figures."""
    out = tmp_path_factory.mktemp("drawn") / "runs"
    summarize(out, synthetic.pair_sweep(out))
    return out


@pytest.fixture
def out(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """One's own copy, where nobody is logged in, and figures stand as they were drawn."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setattr(tracking, "SERVICE", tracking.Service())
    monkeypatch.setattr(server, "RETRIES", 0)
    monkeypatch.setattr(server, "SECONDS", 1)
    shutil.copytree(drawn, tmp_path / "runs")
    yield tmp_path / "runs"
    forget_surroundings()  # it would ask this test's server


@pytest.fixture
def online(out: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Somewhere to send to, and a key."""
    there = Server()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", there.url)
    yield there
    there.close()


def parts(out: Path, run: str = "") -> list[Path]:
    """Runs that lie here, as they do when the process has ended: then W&B's service writes the last lines.

    Two of a run that begin in the same second would share a folder's name: W&B puts a number behind the later's.
    """
    sys.modules["wandb"].teardown()
    return sorted((out / "wandb").glob(f"offline-run-*-{run}*"))


def report(out: Path, *more: str) -> int:
    return main(["wandb", "--out", str(out), *more])


def saved(out: Path) -> dict:
    return json.loads((out / "sweeps" / "tiny-pair" / FILE).read_text())


def panels(spec: dict, kind: str) -> list[dict]:
    grids = [block["metadata"] for block in spec["blocks"] if block["type"] == "panel-grid"]
    found = [panel for grid in grids for panel in grid["panelBankSectionConfig"]["panels"]]
    return [panel["config"] for panel in found if panel["viewType"] == kind]


def check_specification(about: dict, shown: dict) -> None:
    """W&B's library reads it, it says question and table in text, and names what the runs hold."""
    import wandb_workspaces.reports.v2.internal as library

    library.Spec.model_validate(about["spec"])
    text = json.dumps(about["spec"])
    assert "What does a question need?" in text
    assert "| **b=5 w=4** |" in text
    figures = [name for panel in panels(about["spec"], "Media Browser") for name in panel["mediaKeys"]]
    assert set(figures) == {name for name in shown if name.startswith("figures/")}
    tables = [json.dumps(panel) for panel in panels(about["spec"], "Weave")]
    assert ['"table"' in tables[0], '"questions/synth_order"' in tables[1], len(tables)] == [True, True, 2]
    grids = [block["metadata"]["runSets"] for block in about["spec"]["blocks"] if block["type"] == "panel-grid"]
    asked = [value for sets in grids for of in sets for one in of["filters"]["filters"] for value in one["value"]]
    assert set(asked) == {RUN, *about["runs"]}


def test_offline_the_runs_hold_tables_and_figures_and_nothing_is_doubled(out: Path, capsys: pytest.CaptureFixture):
    assert report(out) == 0
    said = capsys.readouterr()
    assert "offline: `wandb sync" in said.out
    assert said.err == ""
    first_parts = parts(out)
    assert len(first_parts) == 4  # three cells, one of which failed, and the sweep
    (part,) = parts(out, RUN)
    run = read_run(part)
    assert (run["id"], run["group"], run["job_type"]) == (RUN, "tiny-pair", "sweep")
    assert run["config"]["question"] == "What does a question need?"
    assert "compared with the reference 1 differs beyond chance: b=1 w=2 (-" in run["summary"]["answer"]
    (shown,) = run["history"]
    columns, cells = read_table(part, shown["table"])
    rows = {row[0]: dict(zip(columns, row, strict=True)) for row in cells}
    assert rows["b=1 w=2"]["p (Holm)"] < 0.05
    assert rows["b=1 w=2"]["low"] < rows["b=1 w=2"]["accuracy %"] < rows["b=1 w=2"]["high"]
    assert rows["b=12 w=4"]["accuracy %"] is None
    assert rows["b=12 w=4"]["error"].startswith("asked for 128 GiB")
    columns, questions = read_table(part, shown["questions/synth_order"])
    assert len(questions) == 2 * synthetic.QUESTIONS
    first = dict(zip(columns, questions[0], strict=True))
    assert {"variant": "b=5 w=4", "question": "0", "right answer": "red"}.items() <= first.items()
    assert first["prompt and options"] == "Which comes first?\nA. 0"
    assert (first["prediction"] == "red") == (first["score"] == 1)
    assert (part / "files" / shown["figures/accuracy"]["path"]).read_bytes().startswith(b"\x89PNG")
    assert len(run["artifacts"]) == 2
    check_specification(saved(out), shown)
    before = (out / "sweeps" / "tiny-pair" / FILE).read_bytes()
    assert report(out) == 0
    assert parts(out) == first_parts
    assert (out / "sweeps" / "tiny-pair" / FILE).read_bytes() == before
    assert report(out, "--no-questions") == 0
    assert len(parts(out)) == 4
    (newest,) = parts(out, RUN)  # in the place of the other part: a sync sends no question now
    assert newest != part
    assert read_run(newest)["id"] == RUN
    assert set(read_run(newest)["history"][0]) >= {"table", "figures/accuracy"}
    assert "questions/" not in (out / "sweeps" / "tiny-pair" / FILE).read_text()
    kept = [path for path in (out / "wandb").rglob("*") if path.is_file()]
    assert [path for path in kept if b"Which comes first?" in path.read_bytes()] == []
    sent = [path for path in (out / "wandb").glob("*run-*/files/**/*") if path.is_file()]
    written = [*sent, *(out / "sweeps" / "tiny-pair").glob("*.json")]
    assert [path for path in written if str(out).encode() in path.read_bytes()] == []


def test_a_server_gets_the_runs_once_and_one_report(out: Path, online: Server, capsys: pytest.CaptureFixture):
    assert report(out) == 0
    said = capsys.readouterr()
    assert said.err == ""
    (view,) = online.views.values()
    assert f"report: {online.url}/entity/videonsa-bench/reports/VideoNSA-Bench%3A-tiny-pair--View0" in said.out
    assert json.loads(view["spec"]) == saved(out)["spec"]
    assert (view["entityName"], view["projectName"], view["type"]) == ("entity", "videonsa-bench", "runs")
    assert set(online.runs) == {RUN, *saved(out)["runs"]}
    assert len(online.runs) == 4
    assert {run["groupName"] for run in online.runs.values()} == {"tiny-pair"}
    (shown,) = online.history[RUN]
    assert shown["table"]["nrows"] == 3
    assert {"table.table.json", "synth_order.table.json"} <= set(online.files)
    streams = len(online.streams)
    assert streams == 4
    online.streams.clear()
    assert report(out) == 0
    assert online.streams == {RUN}  # it is made anew under its id; the cells' are there
    assert len(online.runs) == 4
    assert len(online.views) == 1


def test_a_server_that_refuses_the_key_costs_one_line_and_nothing_is_lost(
    out: Path, online: Server, capsys: pytest.CaptureFixture
):
    online.status = 401
    assert report(out) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"W&B at {online.url} does not take this key (401); WANDB_API_KEY holds yours; all is in ")
    assert said.endswith(f"all is in {out}/wandb, and the same command sends it\n")
    assert said.count("\n") == 1
    assert len(parts(out)) == 4
    assert online.views == {}


@pytest.mark.long
@pytest.mark.parametrize("status", ["away", 401, 500, "hang"])
def test_once_the_server_is_well_the_same_command_sends_all(
    status, out: Path, online: Server, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    online.status = None if status == "away" else status
    if status == "away":
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert report(out) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert len(parts(out)) == 4
    online.status = None
    monkeypatch.setenv("WANDB_BASE_URL", online.url)
    monkeypatch.setattr(tracking, "SERVICE", tracking.Service())
    assert report(out) == 0
    assert len(online.runs) == 4
    assert len(online.views) == 1


@pytest.mark.long
def test_synced_parts_are_the_same_runs(out: Path, online: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert report(out) == 0
    monkeypatch.delenv("WANDB_MODE")
    command = [sys.executable, "-m", "wandb", "sync", *map(str, parts(out))]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert set(online.runs) == {RUN, *saved(out)["runs"]}
    assert online.history[RUN][0]["table"]["nrows"] == 3
    assert b"Which comes first?" in online.files["synth_order.table.json"]
    online.streams.clear()
    assert report(out) == 0
    assert online.streams == {RUN}
    assert len(online.views) == 1


@pytest.mark.long
def test_a_server_that_takes_no_report_has_the_runs(out: Path, online: Server, capsys: pytest.CaptureFixture):
    online.refused = {"upsertView"}
    assert report(out) == 1
    said = capsys.readouterr().err
    assert "its runs are there, and the same command makes the report" in said
    assert said.count("\n") == 1
    assert len(online.runs) == 4


@pytest.mark.parametrize(
    ("lacks", "line"),
    [
        ("library", "wandb-workspaces is not installed"),
        ("W&B", "switched off"),
        ("key", "W&B is to go online, and has no key: set WANDB_API_KEY, or WANDB_MODE=offline, which keeps"),
    ],
)
def test_what_cannot_be_made_is_refused_in_a_line(lacks, line, out: Path, monkeypatch, capsys: pytest.CaptureFixture):
    if lacks == "library":
        monkeypatch.setattr(refusals, "find_spec", lambda name: None)
    elif lacks == "key":
        monkeypatch.setenv("WANDB_MODE", "online")
    else:
        monkeypatch.setenv("WANDB_MODE", "disabled")
    assert report(out) == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1
    assert not (out / "wandb").exists()


def test_a_server_that_is_away_costs_a_short_line_and_a_key_may_lie_in_netrc(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1:9 login user password {'0' * 40}\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert report(out) == 1
    away = "W&B at http://127.0.0.1:9 cannot be reached from here; WANDB_MODE=offline asks no server"
    assert capsys.readouterr().err == f"{away}; all is in {out}/wandb, and the same command sends it\n"
    assert len(parts(out)) == 4


def test_a_folder_without_sweeps_is_said(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert report(tmp_path) == 2
    assert "no sweep in" in capsys.readouterr().err
