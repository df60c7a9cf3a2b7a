"""Which process it is, so that others can tell whether it still runs, and how it ends when told to. Imports no torch.

A process id means something inside its own pid namespace alone: containers of one node have one boot and often one
name, yet each a process 1. And ids are used again: the time of its start tells a process from a later one.
"""

from __future__ import annotations

import os
import platform
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROC = Path("/proc")


@contextmanager
def interrupted_when_told_to_end() -> Iterator[None]:
    """SIGTERM and SIGHUP count as Ctrl-C while the context lasts, so that whoever started processes ends them; unless
    whoever started us had them ignored: under nohup a command outlives its terminal. (Python itself leaves an ignored
    SIGINT ignored.) For the main thread."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signals = (signal.SIGTERM, signal.SIGHUP)
    heard = [number for number in signals if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def me() -> dict[str, Any]:
    """This process, as a lock names its owner."""
    return {
        "host": platform.node(),
        "place": place(),
        "pid": os.getpid(),
        "started": process_started(os.getpid()),
        "job": os.environ.get("SLURM_JOB_ID"),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def place() -> str:
    """Where this process's id and start mean what they mean here: a boot of a machine, and the namespaces in it.

    '' where /proc cannot tell: on other systems, or when it shows another namespace than ours.
    """
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        status = (PROC / "self/status").read_text(encoding="utf-8", errors="replace")
        ids = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
        names = [os.readlink(PROC / "self/ns" / name) for name in ("pid", "time")]
    except (OSError, StopIteration):
        return ""
    return " ".join([boot, *names]) if ids == [str(os.getpid())] else ""


def is_alive(pid: int, started: str) -> bool | None:
    """A process with this id runs and is the one that started then; None where that cannot be told from here."""
    if pid <= 0:
        return None
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # another user's
    state = _process(pid)
    if state is None or not started:  # /proc may hide the processes of others
        return None
    return state[0] not in "ZX" and state[1] == started


def is_stopped(pid: int) -> bool:
    """The process has been suspended: SIGSTOP, Ctrl-Z, or a debugger."""
    return (_process(pid) or ("", ""))[0] in ("T", "t")


def process_started(pid: int) -> str:
    """When a process started, in a form that tells it from a later one with the same id; '' when there is none."""
    state = _process(pid)
    return state[1] if state else ""


def _process(pid: int) -> tuple[str, str] | None:
    """(state letter, start time in clock ticks since boot) of a process, from /proc."""
    try:
        stat = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return fields[0], fields[19]
