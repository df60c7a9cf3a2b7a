"""What reading a long video takes, as python -m videonsa.bench.reading measures it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch.nn.functional  # noqa: F401  reading imports it to resize: not in the processes that are measured

from videonsa.bench.reading import decode_all, in_a_process, read_once, write_repeated

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


def test_a_few_frames_of_a_long_video_take_a_tenth_of_decoding_it(tmp_path: Path) -> None:
    """As far apart as 256 of an hour."""
    write_repeated(tmp_path / "a.mp4", "720p", 600)
    few = in_a_process(partial(read_once, tmp_path / "a.mp4", 42))
    every = in_a_process(partial(decode_all, tmp_path / "a.mp4"))
    assert few["cpu_s"] < 0.1 * every["cpu_s"]
    assert few["decoded"] + few["skipped"] <= 1.2 * few["between"]
    assert few["skipped"] > 0.3 * few["between"]


def test_memory_is_that_of_the_frames_as_they_are_asked(tmp_path: Path) -> None:
    """2,048 frames of 1080p are 12.7 GB as they are shown."""
    write_repeated(tmp_path / "a.mp4", "1080p", 70)
    assert in_a_process(partial(read_once, tmp_path / "a.mp4", 2048))["peak_mib"] < 2048
