"""A lock as a file, for folders that several machines share. Imports no torch.

flock and SQLite are not to be trusted on NFS, link() is: a file with the owner's name is made aside and linked to the
lock's name, which fails when that exists. The owner touches it every few seconds. A lock is stale when its owner, on
this machine, is no longer alive, or, on another machine, has not touched it for STALE_SECONDS (file server's clock).
"""

from __future__ import annotations

import errno
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BEAT_SECONDS = 10.0
STALE_SECONDS = 120.0
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class LockHeld(RuntimeError):
    """Somebody else holds the lock; the message says who."""


class Lock:
    """`with Lock(path)`: raises LockHeld at once; `with Lock(path, wait=True)`: waits its turn."""

    def __init__(self, path: Path, wait: bool = False, poll_seconds: float = 0.5):
        self.path, self.wait, self.poll_seconds = path, wait, poll_seconds
        self.token = uuid.uuid4().hex
        self._stop = threading.Event()

    def __enter__(self) -> Lock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while not self._take():
            if not self.wait:
                raise LockHeld(describe(read_owner(self.path)))
            time.sleep(self.poll_seconds)
        threading.Thread(target=self._beat, daemon=True, name=f"lock {self.path.name}").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if (read_owner(self.path) or {}).get("token") == self.token:
            self.path.unlink(missing_ok=True)

    def _take(self) -> bool:
        """Try once: link our file to the name; a stale lock is moved away first."""
        mine = self.path.with_name(f".{self.path.name}.{self.token}")
        mine.write_text(json.dumps(_me() | {"token": self.token}), encoding="utf-8")
        try:
            if is_stale(self.path, now=mine.stat().st_mtime):
                _remove_stale(self.path, self.token)
            _publish(mine, self.path)
        except FileExistsError:
            return False
        finally:
            mine.unlink(missing_ok=True)
        return True

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            try:
                if (read_owner(self.path) or {}).get("token") != self.token:
                    return  # taken away: we were thought dead
                os.utime(self.path)
            except OSError:  # a file server that is away for a moment
                continue


def read_owner(path: Path) -> dict | None:
    """Who holds the lock; None when nobody does."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError):
        return {}


def is_held(path: Path) -> bool:
    """Somebody alive holds the lock."""
    return read_owner(path) is not None and not is_stale(path, now=time.time())


def is_stale(path: Path, now: float) -> bool:
    """The lock exists and its owner is gone."""
    owner = read_owner(path)
    if owner is None:
        return False
    job = os.environ.get("SLURM_JOB_ID")
    if job and owner.get("job") == job and owner.get("pid") != os.getpid():
        return True  # an earlier run of this very job, requeued
    if owner.get("host") == platform.node() and owner.get("boot") == _boot():
        return not is_alive(owner.get("pid", -1), owner.get("started", ""))
    try:
        return now - path.stat().st_mtime > STALE_SECONDS
    except FileNotFoundError:
        return False


def is_alive(pid: int, started: str) -> bool:
    """A process with this id runs and is the one that started then (ids are used again)."""
    state = _process(pid)
    return state is not None and state[0] not in "ZX" and state[1] == started


def describe(owner: dict | None) -> str:
    """'pid 12 on node3 since 14:02' for messages."""
    if not owner:
        return "an unknown process"
    job = f", Slurm job {owner['job']}" if owner.get("job") else ""
    return f"pid {owner.get('pid')} on {owner.get('host')}{job}, since {owner.get('since')}"


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a folder's claim while making what belongs in it; waits for another process that makes the same thing."""
    with Lock(folder / "claim", wait=True):
        yield


def _me() -> dict:
    state = _process(os.getpid())
    return {
        "host": platform.node(),
        "boot": _boot(),
        "pid": os.getpid(),
        "started": state[1] if state else "",
        "job": os.environ.get("SLURM_JOB_ID"),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def process_started(pid: int) -> str:
    """When a process started, in a form that tells it from a later one with the same id; '' when there is none."""
    state = _process(pid)
    return state[1] if state else ""


def _process(pid: int) -> tuple[str, str] | None:
    """(state letter, start time in clock ticks since boot) of a process, from /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], fields[19]


def _boot() -> str:
    """Which boot of which machine: containers share a boot but not a name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _publish(source: Path, name: Path) -> None:
    """Give the file this name too. Raises FileExistsError when it is taken."""
    try:
        os.link(source, name)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        with open(name, "x", encoding="utf-8") as file:  # next best, on a file system without links
            file.write(source.read_text(encoding="utf-8"))


def _remove_stale(path: Path, token: str) -> None:
    """Move a stale lock away. Two may try at once: whoever moved a lock that is not stale puts it back."""
    aside = path.with_name(f".{path.name}.{token}.stale")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    try:
        if not is_stale(aside, now=time.time()):
            _publish(aside, path)
    except FileExistsError:
        pass
    finally:
        aside.unlink(missing_ok=True)
