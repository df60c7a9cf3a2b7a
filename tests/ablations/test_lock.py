"""Locks: one owner at a time, and a dead owner's is taken over."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ablations import lock
from ablations.lock import Lock, LockHeld, claimed, is_held, read_owner


def test_a_second_owner_is_refused_and_told_who_holds_it(tmp_path: Path):
    path = tmp_path / "lock"
    with Lock(path):
        assert is_held(path)
        with pytest.raises(LockHeld, match=f"pid {os.getpid()} on "), Lock(path):
            pass
        assert is_held(path)
    assert not is_held(path)
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path):
    path = tmp_path / "lock"
    code = "import os, sys; from pathlib import Path; from ablations.lock import Lock; "
    code += "Lock(Path(sys.argv[1])).__enter__(); os._exit(1)"
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert read_owner(path) is not None
    assert not is_held(path)
    with Lock(path):
        assert (read_owner(path) or {})["pid"] == os.getpid()


def test_the_lock_of_another_machine_is_stale_when_nobody_touches_it(tmp_path: Path):
    path = tmp_path / "lock"
    path.write_text(json.dumps({"host": "elsewhere", "boot": "x", "pid": 1, "token": "t"}))
    with pytest.raises(LockHeld), Lock(path):
        pass
    old = time.time() - lock.STALE_SECONDS - 5
    os.utime(path, (old, old))
    with Lock(path):
        pass


def test_an_owner_whose_id_is_used_again_is_dead(tmp_path: Path):
    path = tmp_path / "lock"
    owner = lock._me() | {"started": "1", "token": "t"}
    path.write_text(json.dumps(owner))
    assert not is_held(path)


def test_a_requeued_job_takes_its_own_claim_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "lock"
    path.write_text(json.dumps({"host": "node7", "boot": "x", "pid": 1, "job": "42", "token": "t"}))
    monkeypatch.setenv("SLURM_JOB_ID", "43")
    assert is_held(path)
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    assert not is_held(path)


def test_a_file_system_without_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with Lock(tmp_path / "lock"), pytest.raises(LockHeld, match=f"pid {os.getpid()}"), Lock(tmp_path / "lock"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_touched_lock_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    path = tmp_path / "lock"
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


def test_claims_let_one_through_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    counter = tmp_path / "counter"
    counter.write_text("0")
    spawn = multiprocessing.get_context("fork")
    workers = [spawn.Process(target=_add_one, args=(str(counter), str(tmp_path / "c"))) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=30)
    assert counter.read_text() == "6"
