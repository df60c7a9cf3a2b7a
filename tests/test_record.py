"""Records: whole or absent, and free of this machine's paths."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from videonsa import record as record_module
from videonsa.git import ROOT, git
from videonsa.record import failure, provenance, read_record, write_record, write_text

RECORD = {"kind": "evaluation", "status": "done", "scores": {"accuracy": 0.5}}


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "a" / "record.json"
    write_record(path, RECORD)
    assert read_record(path) == RECORD
    assert [p.name for p in path.parent.iterdir()] == ["record.json"]


@pytest.mark.parametrize("text", ["", '{"kind": "eval', "[1, 2]", '{"status": "done"}', "\x00\xff"])
def test_what_is_no_whole_record_is_none(tmp_path, text):
    path = tmp_path / "record.json"
    path.write_text(text)
    assert read_record(path) is None
    assert read_record(tmp_path / "absent" / "record.json") is None


def test_a_failed_write_leaves_the_old_record_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    write_record(path, RECORD)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record_module.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_record(path, {**RECORD, "status": "failed"})
    monkeypatch.undo()
    assert read_record(path) == RECORD
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_nan_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_record(tmp_path / "record.json", {**RECORD, "scores": {"accuracy": float("nan")}})


def test_failures_and_provenance_hold_no_paths():
    try:
        raise RuntimeError(f"cannot read {ROOT}/videonsa/x and {Path.home()}/y in {sys.prefix}")
    except RuntimeError as error:
        entry = failure(error)
    text = json.dumps([entry, provenance()])
    assert entry["type"] == "RuntimeError"
    assert "cannot read ./videonsa/x" in entry["message"]
    assert str(ROOT) not in text
    assert str(Path.home()) not in text
    assert len(provenance()["commit"]) in (0, 40)


def test_a_hooks_variables_name_no_other_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    here = git("rev-parse", "HEAD")
    if here is None:
        pytest.skip("no checkout of git")
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.setenv(name, str(tmp_path))
    assert git("rev-parse", "HEAD") == here


def test_a_file_name_that_is_no_text_can_be_told(tmp_path: Path):
    write_text(tmp_path / "table.txt", "video \udcff.mp4: no such file\n")  # as Python reads a byte that is no UTF-8
    assert (tmp_path / "table.txt").read_text(encoding="utf-8") == "video \\udcff.mp4: no such file\n"
