"""A suite with one video missing, one truncated, one that is a pipe, and one whose decoder hangs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from evals.checkpoint import load
from evals.data.__main__ import main
from evals.data.videos import find_videos
from evals.probe import probe
from evals.run import evaluate
from evals.suites import suite_settings
from evals.task import bare_task
from tests.evals.standins import STANDINS, write_repository
from videonsa.video import Readers

SUITE = suite_settings("timescope", frames=2, fps=None, tokens_per_frame=1, max_new_tokens=3)
HANGS = """
import time
from videonsa.video import decode, reading
plain = decode.chosen_frames
def chosen_frames(container, *given):
    if container.name.endswith("hangs.mp4"):
        time.sleep(3600)
    return plain(container, *given)
reading.chosen_frames = chosen_frames
"""
VIDEOS = ("well.mp4", "hangs.mp4", "missing.mp4", "truncated.mp4", "pipe.mp4", "well.mp4")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_each_costs_its_own_questions(
    says: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("VIDEONSA_TASKS", raising=False)
    for place, name in enumerate(VIDEOS):
        monkeypatch.setitem(STANDINS["timescope"].docs[place], "video", name)
    assert main(["prepare", "timescope", "--local", str(write_repository("timescope", tmp_path / "copies"))]) == 0
    videos = tmp_path / "hf" / "timescope"
    (videos / "missing.mp4").unlink()
    with open(videos / "hangs.mp4", "ab") as file:
        file.write(b"\0\0\0\x08free")  # as a file of other content
    os.truncate(videos / "truncated.mp4", (videos / "truncated.mp4").stat().st_size // 2)
    (videos / "pipe.mp4").unlink()
    os.mkfifo(videos / "pipe.mp4")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(HANGS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    loaded = load(says("A", " ", "3"), device="cpu")
    loaded.readers = Readers(1, stalled=8.0)

    done: list[tuple[int, int]] = []
    rows = evaluate(loaded, {}, SUITE, tmp_path / "cell", lambda *told: done.append(told))["questions"]
    assert done[-1] == (6, 6), "the last one asks what the first does"
    found = find_videos("timescope", bare_task(SUITE))
    looked_at = probe(loaded, {"attention": "nsa"}, SUITE, 6)["videos"]
    errors = [row["error"] for row in rows]
    assert errors[0] is errors[5] is None
    assert errors[1] == "VideoError: video hangs.mp4: given up after 8 s in which nothing was decoded"
    assert errors[2] is not None
    assert errors[3].startswith("VideoError: video truncated.mp4: ")
    assert errors[4] == "VideoError: video pipe.mp4: it is no file"
    assert found.missing == ("missing.mp4", "pipe.mp4")
    assert [why.partition(":")[0] for why in found.damaged] == ["truncated.mp4"]
    assert looked_at == 2
