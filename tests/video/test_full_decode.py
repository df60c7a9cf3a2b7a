"""The reader's frames are those that a full decode gives, chosen of all of them: of every codec, however it is kept."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from tests.video.files import all_of, drawn, write
from videonsa.video import Clip, Work, choose_frames, read

COUNT = 60
X264 = {"options": {"g": "20", "bf": "3"}}
X265 = {"x265-params": "keyint=20:bframes=3:b-adapt=0:log-level=none"}
HIDDEN = {"g": "40", "auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8"}  # frames that are only referred to
# From container and codec to how it is written. Uneven times: a burst, a pause, a slow part.
TIMES = [*range(0, 200, 10), *range(400, 1200, 40), *range(1500, 1560, 3)]
FILES = {
    "h264.mp4": X264,
    "h264.mkv": X264,
    "h264.ts": X264,
    "h264.flv": X264,
    "open-gop.mp4": {"options": {"g": "20", "bf": "3", "x264-params": "open-gop=1:b-pyramid=normal"}},
    "intra-refresh.mp4": {"options": {"g": "20", "x264-params": "intra-refresh=1"}},
    "one-key-frame.mp4": {"options": {"g": "1000"}},
    "fragments.mp4": X264 | {"muxer": {"movflags": "frag_keyframe+empty_moov"}},
    "uneven.mp4": X264 | {"times": TIMES},
    "uneven.mkv": X264 | {"times": TIMES},
    "live.mkv": X264 | {"muxer": {"live": "1"}, "kind": "matroska"},
    "raw.h264": X264 | {"kind": "h264"},
    "hevc.mp4": {"codec": "libx265", "options": X265},
    "hevc-open-gop.mkv": {
        "codec": "libx265",
        "options": {"x265-params": "keyint=20:open-gop=1:b-adapt=0:log-level=none"},
    },
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "20", "deadline": "realtime", "cpu-used": "8"}},
    "vp9-hidden.webm": {"codec": "libvpx-vp9", "options": HIDDEN},
    "vp8-hidden.webm": {"codec": "libvpx", "options": HIDDEN},
    "vp8.ivf": {"codec": "libvpx", "options": {"g": "20"}, "kind": "ivf"},
    "av1.mp4": {"codec": "libsvtav1", "options": {"g": "20", "preset": "12"}},
    "av1.webm": {"codec": "libsvtav1", "options": {"g": "20", "preset": "12"}},
    "mpeg4.mp4": {"codec": "mpeg4", "options": {"g": "20", "bf": "2"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"g": "20", "bf": "2"}},
    "mpeg2.ts": {"codec": "mpeg2video", "rate": 25, "options": {"g": "15", "bf": "2"}},
    "mjpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "ten-bits.mkv": {"codec": "libx265", "pixels": "yuv420p10le", "options": X265},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.mark.parametrize("name", FILES)
def test_the_same_frames(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it seeks however near the next frame is."""
    path = write(folder / name, drawn(COUNT), **FILES[name])
    expected = all_of(path)
    assert len(expected) == COUNT
    for frames in (None, 2, 9):
        video = read(path, Clip(frames))
        chosen = choose_frames(0, COUNT - 1, video.rate, frames, None)
        assert video.indices.tolist() == chosen.tolist()
        for place, number in enumerate(chosen):
            assert np.array_equal(video.frames[place], expected[number]), f"{frames} frames: number {number}"
        monkeypatch.setattr("videonsa.video.decode.NEAR", 0)


@pytest.mark.parametrize(
    ("name", "skips"),
    [("h264.mp4", True), ("h264.ts", True), ("hevc.mp4", True), ("vp9.webm", False), ("av1.mp4", False)],
)
def test_no_more_is_decoded_than_lies_between_key_frames_and_the_chosen(name: str, skips: bool, folder: Path) -> None:
    """And of that not what nothing refers to: of three B-frames in a row two."""
    path = write(folder / name, drawn(240), **FILES[name])
    with av.open(str(path)) as container:
        keys = sorted(packet.pts for packet in container.demux(video=0) if packet.is_keyframe)
    with av.open(str(path)) as container:
        every = [frame.pts for frame in container.decode(video=0)]
    chosen = choose_frames(0, len(every) - 1, 10, 12, None)
    between = sum(number - every.index(max(key for key in keys if key <= every[number])) + 1 for number in chosen)
    work = Work()
    read(path, Clip(12), work)
    assert work.decoded + work.skipped <= 1.2 * between
    assert (work.skipped > 0.2 * between) == skips
    assert work.seconds > 0
