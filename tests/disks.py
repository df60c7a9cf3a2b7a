"""Real disks that are small, read-only or out of inodes, for tests: a tmpfs where this machine lets one be mounted."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    """A disk of its own at `folder`; `options` as mount has them: size=1m,nr_inodes=20. Skips where none can be had."""
    folder.mkdir()
    made = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(made, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no disk can be mounted here ({done.stderr.strip()}): RLIMIT_FSIZE stands for it")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def remount(disk: Path, options: str) -> None:
    """Other options from now on: ro, rw, another size."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], capture_output=True, check=True)


def fill(disk: Path, leave: int = 0) -> Path:
    """A file that takes all the space but `leave` bytes; the disk has room again when it is removed."""
    file = disk / ".filling"
    with open(file, "wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(1 << 16))
        except OSError:
            pass
    if leave:
        with open(file, "r+b") as stream:
            stream.truncate(max(0, file.stat().st_size - leave))
    return file
