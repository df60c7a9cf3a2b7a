"""Locks: one owner at a time, never none for ever; on one machine, in containers of it, and seen from another one."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ablations.conftest import ROOT
from tests.disks import fill, remount, small_disk
from videonsa import lock, process
from videonsa.lock import Lock, LockHeld, claimed, is_held, read_owner

SHORT = ("2", "0.2")  # seconds: silent after, beat every
CONTAINER = ["unshare", "--map-root-user", "--user", "--pid", "--fork", "--kill-child", "--mount-proc"]
Holder = subprocess.Popen[str]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence and beats as the holders of SHORT have them."""
    for name, seconds in (("STALE", 2.0), ("BEAT", 0.2), ("WATCH", 0.5)):
        monkeypatch.setattr(lock, f"{name}_SECONDS", seconds)


@pytest.fixture
def unwatched(short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As short; and what is old is taken at once: nobody lives who could touch it."""
    monkeypatch.setattr(lock, "WATCH_SECONDS", 0.0)


@pytest.fixture
def hold(path: Path) -> Iterator[Callable[..., Holder]]:
    """Start a process that takes the lock; `wrapped`: by what, such as unshare. The others are ended at the end."""
    started: list[Holder] = []

    def start(*seconds: str, wrapped: list[str] | None = None) -> Holder:
        command = [*(wrapped or []), sys.executable, "-m", "tests.holder", str(path), *seconds]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, cwd=ROOT, text=True, **pipes))  # type: ignore[call-overload]
        return started[-1]

    yield start
    for holder in started:
        holder.kill()
        holder.communicate()


@pytest.fixture
def container(tmp_path: Path) -> list[str]:
    """The command that starts another in a pid namespace of its own, with this machine's name and boot."""
    if (
        shutil.which("unshare") is None
        or subprocess.run([*CONTAINER, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip(
            "this machine lets no pid namespace be made (unshare): tests with a lock file written by hand remain"
        )
    return CONTAINER


def said(holder: Holder) -> str:
    assert holder.stdout is not None
    return holder.stdout.readline().strip()


def inner(holder: Holder) -> int:
    """The process that a wrapper such as unshare has started."""
    (child,) = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
    return int(child)


def old(path: Path, seconds: float = 1e6) -> None:
    now = time.time()
    os.utime(path, (now - seconds, now - seconds))


def elsewhere(**more: object) -> str:
    return json.dumps({"host": platform.node(), "place": "another", "pid": os.getpid(), "token": "t"} | more)


def test_a_second_owner_is_refused_and_told_who_holds_it(path: Path):
    with Lock(path):
        assert is_held(path)
        with pytest.raises(LockHeld, match=f"pid {os.getpid()} on "), Lock(path):
            pass
        assert is_held(path)
    assert not is_held(path)
    assert list(path.parent.iterdir()) == []


def test_the_lock_of_a_dead_process_is_taken_over_at_once(path: Path, hold: Callable[..., Holder]):
    holder = hold()
    assert said(holder) == "held"
    holder.kill()
    holder.wait()
    assert read_owner(path) is not None
    assert not is_held(path)
    with Lock(path):
        assert (read_owner(path) or {})["pid"] == os.getpid()
    assert list(path.parent.iterdir()) == []


def test_an_owner_whose_id_is_used_again_is_dead(path: Path):
    path.write_text(json.dumps(process.me() | {"started": "1", "token": "t"}))
    assert not is_held(path)


def test_a_suspended_owner_on_this_machine_stays_the_owner(path: Path, hold: Callable[..., Holder], short: None):
    holder = hold()
    assert said(holder) == "held"
    holder.send_signal(signal.SIGSTOP)
    while not process.is_stopped(holder.pid):
        time.sleep(0.01)
    old(path)
    with pytest.raises(LockHeld, match=rf"pid {holder.pid} on .*, suspended \(kill -CONT\)"), Lock(path):
        pass


def test_processes_that_proc_hides_are_told_by_their_silence(path: Path, monkeypatch: pytest.MonkeyPatch, short: None):
    """Other users' processes under hidepid=2: they exist, and that is all."""
    path.write_text(json.dumps(process.me() | {"pid": 1, "started": "17", "token": "t"}))
    monkeypatch.setattr(process, "_process", lambda pid: None)
    assert is_held(path)
    old(path)
    assert not is_held(path)


def test_where_proc_shows_another_namespace_nothing_is_told_by_process_ids(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert process.place()
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "status").write_text(f"NSpid:\t{os.getpid() + 1}\t{os.getpid()}\n")
    monkeypatch.setattr(process, "PROC", proc)
    assert process.place() == ""
    path.write_text(json.dumps({"place": "", "pid": 2**30, "started": "1", "token": "t"}))
    assert is_held(path)


def test_two_containers_of_one_node(path: Path, hold: Callable[..., Holder], container: list[str], short: None):
    """One boot, one host name, and each has its own process 1: neither sees whether the other's lives."""
    first = hold(*SHORT, wrapped=container)
    assert said(first) == "held"
    assert (read_owner(path) or {})["pid"] == 1
    second = hold(*SHORT, wrapped=container)
    assert said(second).startswith(f"pid 1 on {platform.node()}, since ")
    time.sleep(2.2)  # longer than a silent owner keeps it
    with pytest.raises(LockHeld), Lock(path):
        pass
    first.kill()
    first.wait()
    with pytest.raises(LockHeld), Lock(path):  # it may be alive, for all that is known
        pass
    with Lock(path, wait=True, poll_seconds=0.1):
        assert (read_owner(path) or {})["pid"] == os.getpid()


def test_an_owner_that_was_suspended_for_too_long_finds_itself_replaced_and_ends(
    path: Path, hold: Callable[..., Holder], container: list[str], short: None
):
    holder = hold(*SHORT, wrapped=container)
    assert said(holder) == "held"
    os.kill(inner(holder), signal.SIGSTOP)
    with Lock(path, wait=True, poll_seconds=0.1):
        os.kill(inner(holder), signal.SIGCONT)
        assert holder.wait(timeout=30) == lock.LOST
        assert holder.stderr is not None
        assert f"is held by pid {os.getpid()} on {platform.node()}" in holder.stderr.read()
        assert (read_owner(path) or {})["pid"] == os.getpid()


def test_before_writing_an_owner_sees_that_it_is_none_any_more(path: Path, hold: Callable[..., Holder]):
    holder = hold("0", "1000")  # nothing but `check` looks
    assert said(holder) == "held"
    path.unlink()
    path.write_text(elsewhere())
    holder.communicate("go on\n", timeout=30)
    assert holder.returncode == lock.LOST
    assert path.read_text() == elsewhere()


def test_a_vanished_folder_ends_its_owner(path: Path, hold: Callable[..., Holder]):
    holder = hold(*SHORT)
    assert said(holder) == "held"
    path.unlink()
    assert holder.wait(timeout=30) == lock.LOST
    assert not path.exists()


def test_the_lock_of_another_machine_is_taken_when_nobody_touches_it(path: Path, unwatched: None):
    path.write_text(elsewhere())
    with pytest.raises(LockHeld, match=r"heard of 0 s ago and given up after 2 s$"), Lock(path):
        pass
    old(path, 5)
    with Lock(path):
        assert (read_owner(path) or {})["pid"] == os.getpid()


@pytest.mark.parametrize("ahead", [-1e6, 1e6], ids=["past", "future"])
def test_a_lock_is_watched_before_it_is_taken(ahead: float, path: Path, short: None, monkeypatch: pytest.MonkeyPatch):
    """Its server was away for minutes, or has set its clock: then the locks of the living look old as well."""
    path.write_text(elsewhere())
    old(path, -ahead)
    monkeypatch.setattr(time, "sleep", lambda _: os.utime(path))  # its owner is there again
    with pytest.raises(LockHeld), Lock(path):
        pass
    monkeypatch.setattr(time, "sleep", lambda _: None)
    old(path, -ahead)
    with Lock(path):
        pass


def test_the_clock_of_the_file_server_counts(path: Path, short: None, monkeypatch: pytest.MonkeyPatch):
    path.write_text(elsewhere())
    monkeypatch.setattr(time, "time", lambda: 0.0)  # of this machine, and wrong
    assert is_held(path)


@pytest.mark.parametrize(
    "content",
    [b"", b'{"host": "node', b"[]", b"17", b"\xff\x00", b'{"version": 9, "owner": {"pid": 1}}', elsewhere().encode()],
    ids=["empty", "truncated", "list", "number", "bytes", "other-version", "other-place"],
)
def test_whatever_stands_in_a_lock_it_is_held_and_not_for_ever(content: bytes, path: Path, unwatched: None):
    path.write_bytes(content)
    with pytest.raises(LockHeld, match=r"unknown process|pid"), Lock(path):
        pass
    old(path)
    with Lock(path):
        assert (read_owner(path) or {})["pid"] == os.getpid()
    assert list(path.parent.iterdir()) == []


def test_a_lock_that_may_not_be_read(path: Path, short: None, monkeypatch: pytest.MonkeyPatch):
    path.write_text(elsewhere())

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)  # root may read everything
    assert read_owner(path) == {}
    assert is_held(path)
    old(path)
    assert not is_held(path)


def test_a_successor_that_died_on_its_way_is_succeeded(path: Path, unwatched: None):
    for name in (path, path.with_name(".lock.heir")):
        name.write_text(elsewhere(token=name.name))
        old(name)
    with Lock(path):
        pass
    assert list(path.parent.iterdir()) == []


def test_a_file_system_without_links_will_do(path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with Lock(path), pytest.raises(LockHeld, match=f"pid {os.getpid()}"), Lock(path):
        pass
    assert list(path.parent.iterdir()) == []


def test_a_request_that_the_file_server_answered_twice(path: Path, monkeypatch: pytest.MonkeyPatch):
    link = os.link

    def twice(*names: Path) -> None:
        link(*names)
        link(*names)

    monkeypatch.setattr(os, "link", twice)
    with Lock(path):
        assert (read_owner(path) or {})["pid"] == os.getpid()


def test_a_full_and_a_read_only_disk(tmp_path: Path):
    with small_disk(tmp_path / "disk", "size=64k") as disk:
        (disk / "cell").mkdir()
        filling = fill(disk)
        with (
            pytest.raises(OSError, match=r"No space left on device; disk .*/disk: 0 B free"),
            Lock(disk / "cell" / "claim"),
        ):
            pass
        assert list((disk / "cell").iterdir()) == []
        filling.unlink()
        with Lock(disk / "cell" / "claim"):
            fill(disk)
            assert is_held(disk / "cell" / "claim")
        assert not is_held(disk / "cell" / "claim")
        (disk / ".filling").unlink()
        remount(disk, "ro")
        with pytest.raises(OSError, match="Read-only file system"), Lock(disk / "cell" / "claim"):
            pass


def test_a_touched_lock_stays(path: Path, short: None):
    with Lock(path):
        os.utime(path, (0, 0))
        time.sleep(0.5)
        assert time.time() - path.stat().st_mtime < 60


def _add_one(counter: str, folder: str) -> None:
    with claimed(Path(folder)):
        path = Path(counter)
        value = int(path.read_text())
        time.sleep(0.02)
        path.write_text(str(value + 1))


@pytest.mark.parametrize("left", ["nothing", "dead", "silent"])
def test_claims_let_one_through_at_a_time(left: str, tmp_path: Path, short: None):
    """Also when all of them find the claim of one that is gone, and would have its place."""
    counter, folder = tmp_path / "counter", tmp_path / "c"
    counter.write_text("0")
    folder.mkdir()
    if left != "nothing":
        owner = elsewhere() if left == "silent" else json.dumps(process.me() | {"started": "1", "token": "t"})
        (folder / "claim").write_text(owner)
        old(folder / "claim")
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=_add_one, args=(str(counter), str(folder))) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert counter.read_text() == "6"
    assert list(folder.iterdir()) == []
