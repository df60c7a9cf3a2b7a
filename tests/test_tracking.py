"""W&B beside what is on disk: real runs offline, and against servers that refuse, fail, and go away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.disks import fill, small_disk
from tests.training.conftest import quick
from tests.wandb_server import Server
from videonsa import tracking
from videonsa.tracking import Tracker, fitting, is_disabled, run_mode
from videonsa.training.journal import Journal

KEY = "0" * 40


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """As in a process that knows nothing of W&B yet, on a machine where nobody is logged in."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setattr(tracking, "SERVICE", tracking.Service())
    hasty = {name: 1 for name in tracking.PATIENCE if name.endswith("retry_max")} | {"x_graphql_timeout_seconds": 1}
    hasty |= {"x_graphql_retry_wait_min_seconds": 0.01, "x_graphql_retry_wait_max_seconds": 0.01}
    monkeypatch.setattr(tracking, "PATIENCE", tracking.PATIENCE | hasty)
    yield
    if sys.modules.get("wandb") is not None:
        with suppress(ConnectionError):  # of a service that was killed
            sys.modules["wandb"].teardown()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    """Starts a server that answers with this status; None: as W&B. Without a call nobody listens at W&B's address."""
    servers: list[Server] = []
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")

    def start(status: int | str | None = None) -> Server:
        servers.append(Server(status))
        monkeypatch.setenv("WANDB_BASE_URL", servers[-1].url)
        return servers[-1]

    yield start
    for each in servers:
        each.close()


def runs(folder: Path) -> list[str]:
    """The kinds of runs that lie in a folder."""
    return sorted(path.name.rpartition("-run-")[0] or "online" for path in (folder / "wandb").glob("*run-2*"))


def track(folder: Path, name: str = "a", steps: int = 3, **names: Any) -> None:
    tracker = Tracker(f"run {name}", folder, **{"id": name, "resume": "allow", **names})
    for step in range(steps):
        tracker.log({"loss": 1.0}, step=step)
    tracker.close()


def wait_for(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("variables", "mode"),
    [
        ({}, "offline"),
        ({"WANDB_API_KEY": ""}, "offline"),
        ({"WANDB_API_KEY": "\n"}, "offline"),
        ({"WANDB_API_KEY": KEY}, None),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": ""}, None),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, None),
        ({"WANDB_MODE": ""}, "offline"),
        ({"WANDB_MODE": "online"}, None),
        ({"WANDB_MODE": "dryrun"}, None),
        ({"WANDB_MODE": "sideways"}, None),
    ],
)
def test_a_mode_that_is_set_is_left_to_wandb_and_else_a_key_decides(variables, mode, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert run_mode() == mode


@pytest.mark.parametrize(
    ("variables", "off"),
    [
        ({}, False),
        ({"WANDB_MODE": "disabled"}, True),
        ({"WANDB_MODE": " Disabled\n"}, True),
        ({"WANDB_MODE": "offline"}, False),
        ({"WANDB_MODE": "sideways"}, False),
        ({"WANDB_DISABLED": "true"}, True),
        ({"WANDB_DISABLED": "On "}, True),
        ({"WANDB_DISABLED": "false"}, False),
    ],
)
def test_it_can_be_switched_off(variables, off, monkeypatch, tmp_path):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_disabled() == off
    if off:
        track(tmp_path)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "mode", ["offline", *(pytest.param(mode, marks=pytest.mark.long) for mode in ("dryrun", " OFFLINE\n", ""))]
)
def test_offline_runs_wait_on_disk_whatever_the_key(mode, server, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WANDB_MODE", mode)
    if not mode:
        monkeypatch.delenv("WANDB_API_KEY")
    track(tmp_path)
    assert runs(tmp_path) == ["offline"]
    sys.modules["wandb"].teardown()  # as at the process's end: its service writes the last lines
    (kept,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert kept.read_bytes().count(b"loss") >= 3
    assert capsys.readouterr() == ("", "")


def test_why_a_run_did_not_go_online_is_short():
    calls = 'POST https://api.wandb.ai/graphql giving up after 4 attempt(s): Post "https://api.wandb.ai/graphql"'
    lost = RuntimeError(f"Error uploading run: {calls}: dial tcp: lookup api.wandb.ai on 10.0.0.1:53: no such host")
    assert tracking._cause(lost) == "RuntimeError: Error uploading run: no such host"
    refused = "Error uploading run: returned error 401: {}"
    assert tracking._cause(RuntimeError(refused)) == f"RuntimeError: {refused}"


def test_without_a_key_a_run_goes_on_offline_and_the_variable_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    track(tmp_path / "first")
    said = capsys.readouterr().err
    key = "UsageError: No API key configured. WANDB_API_KEY holds one, or `wandb login` keeps it"
    assert said == f"W&B: run a: {key}; offline instead, for `wandb sync` in {tmp_path}/first/wandb\n"


@pytest.mark.parametrize(
    "status", [401, *(pytest.param(status, marks=pytest.mark.long) for status in ("refused", 500, "hang"))]
)
def test_without_its_server_a_run_goes_on_offline_and_the_next_one_at_once(status, server, tmp_path, capsys):
    if status != "refused":
        server(status)
    track(tmp_path / "first")
    said = capsys.readouterr().err
    assert said.startswith("W&B: run a: CommError")
    assert "offline instead" in said
    assert said.count("\n") == 1
    assert runs(tmp_path / "first") == ["offline", "online"]
    track(tmp_path / "second", "b")
    assert runs(tmp_path / "second") == ["offline"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "status", [401, *(pytest.param(status, marks=pytest.mark.long) for status in (404, 500, "hang"))]
)
def test_a_server_that_goes_away_in_the_middle_is_said_once_and_the_rest_can_be_synced(
    status, server, tmp_path, capsys, monkeypatch
):
    """W&B itself says nothing of it; and a run that goes on later fills the gap."""
    online = server()
    tracker = Tracker("run a", tmp_path, id="a", resume="allow")
    tracker.log({"loss": 1.0}, step=0)
    try:
        wait_for(lambda: online.streams)
    finally:
        online.status = status
        tracker.close()
    said = capsys.readouterr().err
    (run,) = (tmp_path / "wandb").glob("run-2*")
    assert said == f"W&B: run a: its server went away: some metrics were not sent; `wandb sync {run}` sends them all\n"
    assert online.steps("a") == []
    track(tmp_path / "next", "b")
    assert runs(tmp_path / "next") == ["offline"]  # at once: no other run waits for this server
    online.status = None
    monkeypatch.setattr(tracking, "SERVICE", tracking.Service())
    track(tmp_path, "a", steps=4)
    assert online.steps("a") == [0, 1, 2, 3]
    assert capsys.readouterr().err == ""


@pytest.mark.long
def test_parts_of_a_run_that_were_kept_offline_are_one_curve_once_they_are_synced(server, tmp_path, monkeypatch):
    """By `wandb sync`, which puts a later part in the place of an earlier one."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    for first, last in ((0, 3), (2, 6)):  # the second goes on from a checkpoint after two steps, and saves more often
        with Journal(tmp_path, quick(save_every=7 - last), first) as journal:
            for step in range(first + 1, last + 1):
                journal.write({"step": step, "loss": 1 / step})
        sys.modules["wandb"].teardown()
        time.sleep(1)  # W&B names the parts by the second
    online = server()
    parts = sorted(map(str, (tmp_path / "wandb").glob("offline-run-*")))
    assert len(parts) == 2
    for synced in (parts[:1], parts[1:]):
        subprocess.run([sys.executable, "-m", "wandb", "sync", *synced], check=True, capture_output=True, timeout=120)
    (run,) = online.runs
    assert online.steps(run) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("WANDB_API_KEY", "short", "API key must have 40"),
        ("WANDB_MODE", "sideways", "WANDB_MODE='sideways' is not valid: online, offline"),
        *(
            pytest.param(*row, marks=pytest.mark.long)
            for row in (
                ("WANDB_API_KEY", f"{KEY[:9]}\n{KEY[:31]}", "API key may only contain"),
                ("WANDB_MODE", "online", "No API key configured"),
                ("WANDB_MODE", "run", "No API key configured"),
                ("WANDB_MODE", "shared", "No API key configured"),
                ("WANDB_PROJECT", "a/b#c", "none of / \\ # ? % :; project a-b-c"),
                ("WANDB_INIT_TIMEOUT", "soon", "WANDB_INIT_TIMEOUT is not valid; left out"),
                ("WANDB_TAGS", "x" * 65, "WANDB_TAGS is not valid; left out"),
                ("WANDB_BASE_URL", "nowhere", "WANDB_BASE_URL is not valid; left out"),
            )
        ),
    ],
)
def test_what_wandb_refuses_is_said_once_and_the_run_is_kept(name, value, line, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv(name, value)
    track(tmp_path)
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1
    assert runs(tmp_path) == ["offline"]


@pytest.mark.parametrize(
    "variables", [{"HOME": "/proc/none"}, {"WANDB_CACHE_DIR": "/proc/none"}, {"WANDB_SERVICE": "2-1-tcp-localhost-1"}]
)
@pytest.mark.long
def test_surroundings_in_which_wandb_would_print_or_fail(variables, tmp_path, capfd):
    """In a process of its own: what W&B's service prints goes by Python."""
    code = f"from pathlib import Path; from tests.test_tracking import track; track(Path({str(tmp_path)!r}))"
    kept = {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"} | variables
    assert subprocess.run([sys.executable, "-c", code], env=kept, check=False).returncode == 0
    assert capfd.readouterr().err == ""
    assert runs(tmp_path) == ["offline"]


def test_names_of_any_kind(tmp_path, capsys, monkeypatch):
    """A tag has at most 64 characters, an id none that paths may not; a job script may name one run of its own."""
    odd = "5 $_|<é/\\#?%:\u2028\n\udcff\x00" + "x" * 300
    monkeypatch.setenv("WANDB_RUN_ID", "a/b")
    monkeypatch.setenv("WANDB_RESUME", "must")
    for end in "yz":
        track(tmp_path, odd + end, group=odd, tags=[odd, "", "a,b"], config={odd: odd}, job_type="training")
    assert capsys.readouterr().err == ""
    assert runs(tmp_path) == ["offline", "offline"]
    ids = {path.name.split("-", 3)[3] for path in (tmp_path / "wandb").glob("offline-run-*")}
    assert len(ids) == 2
    assert {len(each) for each in ids} == {64}


@pytest.mark.parametrize(
    ("text", "what", "fits"),
    [
        ("a/b: 5 %", "name", "a/b: 5 %"),
        ("a/b: 5 %", "project", "a-b- 5 -"),
        ("x" * 65, "tag", "x" * 63 + "…"),
        ("", "tag", "-"),
        ("training-1f2e-0a", "id", "training-1f2e-0a"),
    ],
)
def test_names_are_changed_where_wandb_refuses_them_and_nowhere_else(text, what, fits):
    assert fitting(text, what) == fits


def test_without_wandb_there_is_no_run(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    track(tmp_path)
    track(tmp_path, "b")
    said = capsys.readouterr().err
    assert said.startswith("W&B: run a: ModuleNotFoundError")
    assert said.count("\n") == 1


def test_the_service_may_die(monkeypatch, tmp_path, capsys):
    tracker = Tracker("run a", tmp_path, id="a")
    tracker.log({"loss": 1.0}, step=0)
    while not runs(tmp_path) or not (services := children("wandb-core")):
        time.sleep(0.05)
    for pid in services:
        os.kill(pid, signal.SIGKILL)
    tracker.log({"loss": 1.0}, step=1)
    tracker.close()
    assert capsys.readouterr().err.startswith("W&B: run a: ")
    track(tmp_path / "next", "b")
    assert runs(tmp_path / "next") == ["offline"]


def test_a_run_that_does_not_end_is_left(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tracking, "CLOSE_SECONDS", 0.01)
    over = threading.Event()

    def start(tracker: Tracker) -> None:
        over.wait(10)
        raise ImportError("the test is over")

    monkeypatch.setattr(Tracker, "_start", start)
    track(tmp_path)
    assert "it has not ended within 0.01 seconds" in capsys.readouterr().err
    track(tmp_path, "b")  # none is begun beside it
    assert capsys.readouterr().err == ""
    over.set()
    for thread in threading.enumerate():
        if thread.name == "W&B run a":
            thread.join()


def children(name: str) -> list[int]:
    """Processes of this name below this one."""
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    pids = [int(pid) for task in path.parent.parent.glob("*/children") for pid in task.read_text().split()]
    return [pid for pid in pids if name in Path(f"/proc/{pid}/cmdline").read_text()]


def test_on_a_full_disk_no_run_is_begun(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    with small_disk(tmp_path / "disk", "size=64k") as disk:
        run = Tracker("full", disk, id="full")
        run.log({"loss": 1.0}, step=1)
        run.close()
        (said,) = capfd.readouterr().err.splitlines()
        assert said.startswith(f"W&B: full: cannot write to {disk}/wandb: No space left on device; disk {disk}: ")
        assert said.endswith("free, 1 MiB needed; its metrics on disk are whole")


@pytest.mark.long
def test_a_disk_that_fills_up_under_a_run_is_said_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    with small_disk(tmp_path / "disk", "size=2m") as disk:
        run = Tracker("filled", disk, id="filled")
        run.log({"loss": 1.0}, step=1)
        end = time.monotonic() + 60
        while not list(disk.glob("wandb/offline-run-*/*.wandb")) and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(1)
        fill(disk)
        for step in range(2, 2000):
            run.log({"loss": 1.0}, step=step)
        run.close()
        said = capfd.readouterr().err.splitlines()
        assert [line.partition(": cannot")[0] for line in said] == ["W&B: filled"], said
