"""W&B beside what is on disk: real runs offline, and against servers that refuse, fail, and go away."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from videonsa import tracking
from videonsa.tracking import Tracker, is_disabled, run_mode

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
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int | None], None]]:
    """A server that answers with this status; None: never. Without a call nobody listens at W&B's address."""
    servers, over = [], threading.Event()
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")

    def start(status: int | None) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                if status is None:
                    over.wait(20)
                    return
                self.send_response(status)
                self.end_headers()
                self.wfile.write(b'{"errors": [{"message": "no"}]}')

            def log_message(self, *_: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{servers[-1].server_port}")

    yield start
    over.set()
    for each in servers:
        each.shutdown()
        each.server_close()


def runs(folder: Path) -> list[str]:
    """The kinds of runs that lie in a folder."""
    return sorted(path.name.rpartition("-run-")[0] or "online" for path in (folder / "wandb").glob("*run-2*"))


def track(folder: Path, name: str = "a") -> None:
    tracker = Tracker(f"run {name}", folder, id=name, resume="allow")
    for step in range(3):
        tracker.log({"loss": 1.0}, step=step)
    tracker.close()


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
        ({"WANDB_MODE": "offline"}, False),
        ({"WANDB_DISABLED": "true"}, True),
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


@pytest.mark.parametrize("mode", ["offline", "dryrun", ""])
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


@pytest.mark.parametrize(
    "status", [401, *(pytest.param(status, marks=pytest.mark.long) for status in ("refused", 500, None))]
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
    ("name", "value", "kept"),
    [("WANDB_API_KEY", "short", "offline"), ("WANDB_MODE", "online", "offline"), ("WANDB_MODE", "sideways", None)],
)
def test_a_key_or_mode_that_is_not_valid_is_said_once(name, value, kept, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv(name, value)
    track(tmp_path)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert ("offline instead" in said) == (kept is not None)
    assert runs(tmp_path) == ([kept] if kept else [])


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
