"""A lock as a file, for folders that several machines share. Imports no torch.

flock and SQLite are not to be trusted on NFS, link() and rename() are: a file with the owner's name is made aside and
linked to the lock's name, which fails when that exists. The owner touches it every BEAT_SECONDS. Another may take it

- from an owner in the same place (boot and pid namespace) once that process is gone, at once;
- from any other when nobody has touched it for STALE_SECONDS, nor while it is then watched for WATCH_SECONDS.

Times are the file server's: the lock's is compared with that of a file just touched. An owner that was suspended or cut
off for so long finds the lock to be another's, and ends before it writes (`check`). docs/sweeps.md has it as a table.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videonsa.disk import link, writing
from videonsa.process import is_alive, is_stopped, me, place

BEAT_SECONDS = 10.0
STALE_SECONDS = 120.0
WATCH_SECONDS = 15.0  # more than a beat: a server that was away, or whose clock jumped, makes all locks look old
SAY_SECONDS = 30.0  # of waiting, before it is said for whom
LOST = 1  # exit status of a process whose lock is another's


class LockHeld(RuntimeError):
    """Somebody else holds the lock; the message says who."""


@dataclass(frozen=True)
class Seen:
    """A lock as it was found: what it says of its owner (nothing, if damaged), when it was touched, which one it is."""

    owner: dict[str, Any]
    touched: float
    key: str


class Lock:
    """`with Lock(path)`: raises LockHeld at once; `with Lock(path, wait=True)`: waits its turn."""

    def __init__(self, path: Path, wait: bool = False, poll_seconds: float = 0.5):
        self.path, self.wait, self.poll_seconds = path, wait, poll_seconds
        self.token = uuid.uuid4().hex
        self._stop = threading.Event()
        self._renewed = 0.0  # when it was last ours for certain

    def __enter__(self) -> Lock:
        self._take_or_wait()
        threading.Thread(target=self._beat, daemon=True, name=f"lock {self.path.name}").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._is_ours():
            self.path.unlink(missing_ok=True)

    def check(self) -> None:
        """Before writing: ends this process when the lock has been taken from it."""
        try:
            ours = self._is_ours()
        except OSError:
            return  # the file server is away: what is to be written will not get there either
        if not ours:
            self._leave()

    def _take_or_wait(self) -> None:
        mine = self.path.with_name(f".{self.path.name}.{self.token}")
        said = time.monotonic() + SAY_SECONDS
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                mine.write_text(json.dumps(me() | {"token": self.token}), encoding="utf-8")
                while not self._take(mine):
                    owner = read_owner(self.path)
                    if owner is None:  # given back just now
                        continue
                    if not self.wait:
                        raise LockHeld(describe(owner) + self._heard(mine))
                    if time.monotonic() > said:
                        said = float("inf")
                        print(f"waiting for {describe(owner)} ({self.path})", file=sys.stderr, flush=True)
                    time.sleep(self.poll_seconds)
            finally:
                mine.unlink(missing_ok=True)

    def _heard(self, mine: Path) -> str:
        """Of an owner elsewhere, when it was heard of: who knows that it is gone then knows how long to wait."""
        seen = look(self.path)
        if seen is None or is_alive_here(seen.owner) is not None:
            return ""
        ago = max(0, round(_touch(mine) - seen.touched))
        return f", heard of {ago} s ago and given up after {STALE_SECONDS:g} s"

    def _take(self, mine: Path) -> bool:
        """Try once."""
        now = _clock()
        if not self._publish(mine) and not self._succeed(mine):
            return False
        self._renewed = now
        return True

    def _succeed(self, mine: Path) -> bool:
        """Put our file in place of a lock whose owner is gone. One at a time tries, so that none removes a new one."""
        seen = look(self.path)
        if seen is None or not is_stale(seen, _touch(mine)):
            return False
        if is_alive_here(seen.owner) is None:
            time.sleep(WATCH_SECONDS)
        heir = Lock(self.path.with_name(f".{self.path.name}.heir"))
        try:
            heir._take_or_wait()
        except LockHeld:
            return False
        try:
            again = look(self.path)
            if again is None or (again.key, again.touched) != (seen.key, seen.touched) or not heir._is_fresh():
                return False
            os.replace(mine, self.path)
            return True
        finally:
            heir.__exit__()

    def _publish(self, mine: Path) -> bool:
        """Give our file the lock's name; False when that is taken."""
        try:
            link(mine, self.path)
        except FileExistsError:
            return self._is_named()  # it is ours where a file server did what we asked twice
        return True

    def _is_fresh(self) -> bool:
        """Nobody can have taken it yet, whatever happened."""
        return _clock() - self._renewed < STALE_SECONDS / 2

    def _is_ours(self) -> bool:
        return self._is_fresh() or self._renew()

    def _is_named(self) -> bool:
        seen = look(self.path)
        return seen is not None and seen.key == self.token

    def _renew(self) -> bool:
        """Touch the lock; False when it is not ours any more. Raises OSError when the file server does not answer."""
        now = _clock()
        try:
            os.utime(self.path)
        except FileNotFoundError:
            return False
        if not self._is_named():
            return False
        self._renewed = now
        return True

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            try:
                ours = self._renew()
            except OSError:  # a file server that is away for a moment
                continue
            if not ours and not self._stop.is_set():
                self._leave()

    def _leave(self) -> None:
        """End this process: what it does is another's now. An exception might be caught by what is being evaluated."""
        with suppress(OSError):
            seen = look(self.path)
            why = "gone, or its folder is" if seen is None else f"held by {describe(seen.owner)} by now"
            print(f"{self.path} is {why}: this process ends, nothing finished is lost", file=sys.stderr, flush=True)
        os._exit(LOST)


def look(path: Path) -> Seen | None:
    """The lock as it is now; None when there is none. Opening asks the server: what is known of a name may be old."""
    try:
        with open(path, "rb") as file:
            content, here = file.read(), os.fstat(file.fileno())
    except (FileNotFoundError, PermissionError):
        try:
            content, here = b"", os.lstat(path)
        except FileNotFoundError:
            return None
    try:
        owner = json.loads(content)
    except ValueError:
        owner = None
    owner = owner if isinstance(owner, dict) else {}
    return Seen(owner, here.st_mtime, str(owner.get("token") or here.st_ino))


def read_owner(path: Path) -> dict[str, Any] | None:
    """Who holds the lock; None when nobody does, empty when that cannot be read."""
    seen = look(path)
    return None if seen is None else seen.owner


def is_held(path: Path) -> bool:
    """Somebody alive holds the lock."""
    seen = look(path)
    return seen is not None and not is_stale(seen, _server_time(path.parent))


def is_stale(seen: Seen, now: float) -> bool:
    """The owner is gone; or, where that cannot be seen from here, has not touched the lock for long.

    `now`: of the file server. A lock from the future is as old as one from the past: a clock was set.
    """
    alive = is_alive_here(seen.owner)
    return abs(now - seen.touched) > STALE_SECONDS if alive is None else not alive


def is_alive_here(owner: dict[str, Any]) -> bool | None:
    """Whether an owner in this very place is alive; None for one elsewhere, or of whom that cannot be told."""
    pid, here = owner.get("pid"), place()
    if not here or owner.get("place") != here or not isinstance(pid, int):
        return None
    return is_alive(pid, str(owner.get("started") or ""))


def describe(owner: dict[str, Any] | None) -> str:
    """'pid 12 on node3, since 14:02' for messages."""
    if not owner:
        return "an unknown process"
    job = f", Slurm job {owner['job']}" if owner.get("job") else ""
    stopped = ", suspended (kill -CONT)" if is_alive_here(owner) and is_stopped(owner["pid"]) else ""
    return f"pid {owner.get('pid')} on {owner.get('host')}{job}, since {owner.get('since')}{stopped}"


@contextmanager
def claimed(folder: Path) -> Iterator[Lock]:
    """Hold a folder's claim while making what belongs in it; waits for another process that makes the same thing."""
    with Lock(folder / "claim", wait=True) as claim:
        yield claim


def _touch(path: Path) -> float:
    """The file server's time: that of a file touched now."""
    os.utime(path)
    return path.stat().st_mtime


def _server_time(folder: Path) -> float:
    """As _touch; this machine's time where nothing may be written."""
    trial = folder / f".time.{uuid.uuid4().hex}"
    try:
        trial.touch()
        return _touch(trial)
    except OSError:
        return time.time()
    finally:
        with suppress(OSError):
            trial.unlink(missing_ok=True)


def _clock() -> float:
    """Seconds that also pass while this machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
