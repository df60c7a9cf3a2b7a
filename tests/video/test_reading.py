"""Videos are written so that colours survive, and read with the right times; what is no video says so."""

from __future__ import annotations

import errno
import fcntl
import signal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from evals.data.synthetic import write_video
from evals.video import VideoError, read_video
from videonsa.disk import DiskError
from videonsa.drawing import frames_of
from videonsa.synth import FAMILIES, SECONDS, make_sample
from videonsa.video import fingerprint, in_time


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 frames, each of its own grey, 4 a second."""
    frames = np.stack([np.full((56, 56, 3), 10 * index, np.uint8) for index in range(20)])
    path = tmp_path_factory.mktemp("video") / "grey.mp4"
    write_video(path, frames, Fraction(4))
    return path


@pytest.mark.parametrize("family", FAMILIES)
def test_decoded_frames_are_what_was_drawn(family: str, tmp_path: Path) -> None:
    drawn = frames_of(make_sample(family, split="test", seed=0, index=0, frames=16))
    write_video(tmp_path / "a.mp4", drawn, Fraction(2))
    read, metadata = read_video(tmp_path / "a.mp4", frames=16, fps=None)
    difference = np.abs(read.astype(int) - drawn.astype(int))
    assert difference.max() <= 3, "colours changed by the codec"
    assert (metadata.fps, metadata.total_num_frames, metadata.duration) == (2.0, 16, 8.0)


@pytest.mark.parametrize(
    ("frames", "fps", "expected"),
    [
        pytest.param(None, None, list(range(20)), id="all"),
        pytest.param(64, None, list(range(20)), id="more-than-there-are"),
        pytest.param(4, None, [0, 6, 13, 19], id="evenly-with-both-ends"),
        pytest.param(5, None, [0, 6, 13, 19], id="an-odd-number-loses-one"),
        pytest.param(1, None, [0, 19], id="at-least-a-patch"),
        pytest.param(None, 2.0, [0, 2, 4, 6, 8, 11, 13, 15, 17, 19], id="two-a-second"),
        pytest.param(4, 2.0, [0, 6, 13, 19], id="two-a-second-but-four-at-most"),
    ],
)
def test_which_frames_are_read(video: Path, frames: int | None, fps: float | None, expected: list[int]) -> None:
    read, metadata = read_video(video, frames=frames, fps=fps)
    assert (read[:, 0, 0, 0].astype(float) / 10).round().astype(int).tolist() == expected
    assert metadata.frames_indices.tolist() == expected
    assert metadata.sampled_fps == pytest.approx(4.0 * len(expected) / 20)


def test_part_of_a_video(video: Path) -> None:
    read, metadata = read_video(video, frames=2, fps=None, start=1.0, end=3.0)
    assert (read[:, 0, 0, 0].astype(float) / 10).round().tolist() == [4, 11]
    assert (metadata.duration, metadata.sampled_fps) == (2.0, 1.0), "times of the part, not of the whole"


def test_synthetic_videos_last_as_long_as_in_training(tmp_path: Path) -> None:
    for frames in (8, 10, 128):
        write_video(tmp_path / "a.mp4", np.zeros((frames, 56, 56, 3), np.uint8), FAMILIES["needle"].rate(frames))
        _, metadata = read_video(tmp_path / "a.mp4", frames=None, fps=None)
        assert (metadata.total_num_frames, metadata.duration) == (frames, pytest.approx(SECONDS))


@pytest.mark.parametrize("content", [b"", b"no video at all" * 100], ids=["empty", "garbage"])
def test_no_video(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(content)
    with pytest.raises(VideoError, match=r"^video bad\.mp4: .*[Ii]nvalid data") as raised:
        read_video(tmp_path / "bad.mp4", frames=4, fps=None)
    assert str(tmp_path) not in str(raised.value)


def test_missing_and_cut_videos(video: Path, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"^video none\.mp4: No such file"):
        read_video(tmp_path / "none.mp4", frames=4, fps=None)
    (tmp_path / "cut.mp4").write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    with pytest.raises(VideoError, match=r"^video cut\.mp4: "):
        read_video(tmp_path / "cut.mp4", frames=4, fps=None)


def test_a_disk_that_does_not_give_the_bytes_is_no_fault_of_the_video(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FFmpeg says Input/output error of a damaged file, too: whether the file can be read tells them apart."""

    def broken(path: Path, *_: object) -> None:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr("videonsa.video.reading.av.open", broken)
    with pytest.raises(VideoError, match=r"video grey.mp4: Input/output error"):
        read_video(video, frames=4, fps=None)
    monkeypatch.setattr("builtins.open", broken)
    with pytest.raises(DiskError, match=r"cannot read or write \S+grey.mp4: Input/output error; disk /"):
        read_video(video, frames=4, fps=None)


def test_a_disk_that_does_not_answer_is_given_up(video: Path) -> None:
    """Who opens the file waits for the lease to be given back, as for a server that is away."""
    assert in_time(fingerprint, video) == fingerprint(video)
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    with open(video, "r+b") as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        with pytest.raises(VideoError, match=r"^video grey\.mp4: given up after 0\.2 s in which its disk"):
            in_time(fingerprint, video, 0.2)
    signal.signal(signal.SIGIO, before)
