"""Disks that are full, over quota, read-only or broken: one line, and what was complete stays."""

from __future__ import annotations

import errno
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.disks import fill, remount, small_disk
from videonsa.disk import DiskError, disk_error, mount_point, publish, whole_folder, words, write_bytes, writing
from videonsa.record import read_record, write_record

ROOT = Path(__file__).parent.parent
RECORD = {"kind": "evaluation", "status": "done", "scores": {"accuracy": 0.5}}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "size=64k,nr_inodes=12") as folder:
        yield folder


def test_a_full_disk_is_named_and_the_old_record_stays(disk: Path):
    path = disk / "cells" / "record.json"
    write_record(path, RECORD)
    filling = fill(disk)
    text = r"cannot write to \S+record.json: No space left on device; disk \S+/disk: 0 B free, 9.77 KiB needed"
    with pytest.raises(DiskError, match=text):
        write_bytes(path, bytes(10_000))
    assert read_record(path) == RECORD
    assert [file.name for file in path.parent.iterdir()] == ["record.json"]
    filling.unlink()
    write_record(path, RECORD | {"status": "failed"})
    assert (read_record(path) or {})["status"] == "failed"


def test_a_disk_without_inodes_says_so(disk: Path):
    for number in range(20):
        try:
            (disk / str(number)).touch()
        except OSError:
            break
    with pytest.raises(DiskError, match=r"No space left on device; disk \S+/disk: 0 inodes \(files\) free, 3 B needed"):
        write_bytes(disk / "record.json", b"abc")


def test_a_disk_that_becomes_read_only(disk: Path):
    write_record(disk / "record.json", RECORD)
    remount(disk, "ro")
    with pytest.raises(DiskError, match=r"cannot write to \S+: Read-only file system; disk \S+/disk$"):
        write_record(disk / "record.json", RECORD | {"status": "failed"})
    assert read_record(disk / "record.json") == RECORD


def test_a_folder_appears_whole_or_not_at_all(disk: Path):
    def write(draft: Path) -> None:
        (draft / "a").mkdir()
        (draft / "a" / "one").write_bytes(bytes(20_000))
        (draft / "two").write_bytes(bytes(20_000))

    filling = fill(disk, leave=32_000)
    with pytest.raises(DiskError, match="40 KiB needed"), whole_folder(disk / "final", needed=40 << 10) as draft:
        write(draft)
    assert [file.name for file in disk.iterdir()] == [".filling"]
    filling.unlink()
    with whole_folder(disk / "final") as draft:
        write(draft)
    assert [file.name for file in disk.iterdir()] == ["final"]
    with whole_folder(disk / "final") as draft:
        (draft / "later").touch()  # another was faster: that one stands
    assert sorted(file.name for file in (disk / "final").iterdir()) == ["a", "two"]


def test_what_is_in_a_folder_is_on_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    draft = tmp_path / "draft"
    (draft / "a").mkdir(parents=True)
    (draft / "a" / "file").touch()
    done: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda number: done.append(Path(os.readlink(f"/proc/self/fd/{number}")).name))
    rename = os.rename
    monkeypatch.setattr(os, "rename", lambda *names: (done.append("renamed"), rename(*names)))
    publish(draft, tmp_path / "place")
    assert done == ["draft", "file", "a", "renamed", tmp_path.name]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.EDQUOT, "x"), r"cannot write to here: Disk quota exceeded; disk /\S*: .* free, but your quota"),
        (OSError(errno.EIO, "x", "there"), "cannot read or write there: Input/output error; disk /"),
        (OSError(errno.ENOTCONN, "x", "there"), "cannot read or write there: Transport endpoint is not connected"),
        (
            ValueError("I/O error: No space left on device (os error 28)"),
            "cannot write to here: No space left on device",
        ),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 662"), "cannot .* here: "),
    ],
    ids=["quota", "broken", "server-away", "safetensors", "torch"],
)
def test_each_library_has_its_own_way_to_say_it(error: Exception, message: str):
    found = disk_error(error, "here")
    assert found is not None
    with pytest.raises(DiskError, match=message):
        raise found


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", "there"),
        PermissionError(errno.EACCES, "Permission denied", "there"),
        TimeoutError(errno.ETIMEDOUT, "Connection timed out"),  # of a socket
        RuntimeError("none of the questions could be answered; the first: video 3: Input/output error"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_not_the_disks_fault(error: Exception):
    assert disk_error(error, "here") is None
    with pytest.raises(type(error)), writing("here"):
        raise error


def test_the_disk_is_found_through_links_and_missing_folders(disk: Path, tmp_path: Path):
    (tmp_path / "link").symlink_to(disk)
    assert f"disk {disk}: " in words(errno.ENOSPC, tmp_path / "link" / "not" / "there")
    assert mount_point(Path("/proc/self/fd")) == Path("/proc")


@pytest.fixture
def short_files() -> Iterator[None]:
    """Files may have 100 KiB, as after `ulimit -f 100`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100 << 10, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("way", ["torch", "safetensors", "text"])
def test_a_limit_on_files_stands_for_a_full_disk(way: str, tmp_path: Path, short_files: None):
    import torch
    from safetensors.torch import save_file

    place, weights = tmp_path / "file", {"weights": torch.zeros(100_000)}
    ways = {"torch": partial(torch.save, weights), "safetensors": partial(save_file, weights)}
    save = partial(ways[way], place) if way in ways else partial(write_bytes, place, bytes(400_000))
    said = f"File too large; disk {mount_point(tmp_path)}: a file may have 100 KiB (ulimit -f), 391 KiB needed"
    with pytest.raises(DiskError, match=re.escape(said)), writing(place, 400_000):
        save()


@pytest.mark.parametrize("script", ["ablations/run.py", "analysis/run.py"])
def test_output_that_finds_no_room_is_told_and_no_success(script: str, tmp_path: Path):
    with small_disk(tmp_path / "disk", "size=64k") as disk:
        (disk / "log").touch()
        fill(disk)
        with open(disk / "log", "w") as log:
            command = [sys.executable, script, "--list"]
            done = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.PIPE, text=True, check=False)
        assert done.returncode == 1
        (said,) = done.stderr.splitlines()
        assert said.startswith(f"cannot write to {disk}/log: No space left on device; disk {disk}: 0 B free")
        assert said.endswith("; some of the output is lost")
