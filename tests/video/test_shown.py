"""A video is shown as a player shows it: the right way up, in its colours and times, as far as it can be decoded."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import av
import numpy as np
import pytest

from tests.video.files import all_of, drawn, write
from videonsa.tiny import build_processor
from videonsa.video import Clip, Fit, VideoError, choose_frames, read

ONE = 1 << 16
TURNS = {  # a, b, c, d of the display matrix, ISO 14496-12; what it does to the stored picture
    "clockwise": ((0, ONE, -ONE, 0), lambda stored: np.rot90(stored, -1)),
    "upside-down": ((-ONE, 0, 0, -ONE), lambda stored: np.rot90(stored, 2)),
    "anticlockwise": ((0, -ONE, ONE, 0), lambda stored: np.rot90(stored, 1)),
    "mirrored": ((-ONE, 0, 0, ONE), np.fliplr),
    "mirrored-and-turned": ((0, ONE, ONE, 0), lambda stored: stored.transpose(1, 0, 2)),
    "not-at-all": ((ONE, 0, 0, ONE), lambda stored: stored),
}


def patch(path: Path, box: bytes, offset: int, form: str, *values: int) -> None:
    """Overwrite fields of the first box of this name, `offset` bytes behind its name."""
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, data.index(box) + 4 + offset, *values)
    path.write_bytes(data)


def numbers(path: Path, clip: Clip) -> list[int]:
    """Which of all frames that decode the clip's frames are."""
    every = [frame.tobytes() for frame in all_of(path)]
    return [every.index(frame.tobytes()) for frame in read(path, clip).frames]


@pytest.mark.parametrize("turn", TURNS)
def test_turned_and_mirrored(turn: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", drawn(4, 48, 80))
    (a, b, c, d), how = TURNS[turn]
    patch(path, b"tkhd", 40, ">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    video, stored = read(path, Clip(2)), all_of(path)
    assert np.array_equal(video.frames, [how(stored[0]), how(stored[3])])
    assert (video.height, video.width) == video.frames.shape[1:3]


def test_frames_are_made_small_as_the_processor_makes_them(tmp_path: Path) -> None:
    """A portrait video of an odd size: its pixels are those that the processor makes of its frames, to the last bit."""
    path = write(tmp_path / "a.mp4", drawn(6, 130, 202))
    patch(path, b"tkhd", 40, ">9i", 0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30)
    processor = build_processor().video_processor
    token = processor.patch_size * processor.merge_size
    limits = {"shortest_edge": token**2, "longest_edge": 12 * token**2}
    small = read(path, Clip(6, fit=Fit(token, *limits.values()))).frames
    whole = np.stack([np.rot90(frame, -1) for frame in all_of(path)])
    assert small.shape[1] > small.shape[2]
    assert small.nbytes < whole.nbytes / 2
    given = [processor(videos=[frames], size=limits, return_tensors="pt") for frames in (small, whole)]
    assert (given[0]["pixel_values_videos"] == given[1]["pixel_values_videos"]).all()
    assert given[0]["video_grid_thw"].tolist() == given[1]["video_grid_thw"].tolist()


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", drawn(4, 64, 96), options={"aspect": "4/3"})
    video = read(path, Clip(2))
    assert video.frames.shape == (2, 64, 128, 3)
    assert read(path, Clip(2, fit=Fit(28, 28**2, 8 * 28**2))).frames.shape == (2, 56, 112, 3)


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize(
    ("matrix", "kr", "kb"), [(1, 0.2126, 0.0722), (5, 0.299, 0.114), (9, 0.2627, 0.0593), (2, 0.299, 0.114)]
)
def test_colours_as_they_are_tagged(matrix: int, kr: float, kb: float, full: bool, tmp_path: Path) -> None:
    """ITU-R BT.709, BT.601, BT.2020, and BT.601 where nothing is said."""
    colours = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 120, 40)]) / 255
    luma = colours @ (kr, 1 - kr - kb, kb)
    scale, offset = ((255, 255), 0) if full else ((219, 224), 16)
    planes = (
        offset + scale[0] * luma,
        *(128 + scale[1] * (colours[:, channel] - luma) / (2 - 2 * k) for channel, k in ((2, kb), (0, kr))),
    )
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "0"})
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv444p"
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 2 if full else 1
        for yuv in np.round(np.stack(planes, axis=1)).clip(0, 255).astype(np.uint8):
            frame = av.VideoFrame.from_ndarray(np.ones((3, 64, 64), np.uint8) * yuv[:, None, None], format="yuv444p")
            frame.colorspace, frame.color_range = matrix, 2 if full else 1
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    shown = read(path, Clip()).frames[:, 32, 32] / 255
    assert np.abs(shown - colours).max() < 4 / 255


def test_an_edit_list_hides_frames(tmp_path: Path) -> None:
    """Stored are 40 frames, a player shows the last 20; times count from the first of these."""
    path = write(tmp_path / "a.mp4", drawn(40), options={"g": "40", "bf": "0"})
    data = path.read_bytes()
    length, begin = struct.unpack_from(">Ii", data, data.index(b"elst") + 12)
    scale = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)[0]
    patch(path, b"elst", 8, ">Ii", length // 2, begin + 2 * scale)
    video = read(path, Clip(8))
    assert (video.total, video.seconds) == (20, 2.0)
    assert numbers(path, Clip(8)) == [0, 3, 5, 8, 11, 14, 16, 19]
    assert numbers(path, Clip(start=1.0)) == list(range(10, 20))


SLIDES = [0, 100, 400, 410, 420, 430, 900, 1000]  # hundredths of a second


@pytest.mark.parametrize(
    ("start", "end", "first", "last"),
    [
        pytest.param(0.0, 1.0, 0, 0, id="up-to-the-next"),
        pytest.param(2.0, 3.5, 1, 1, id="within-one-that-stays"),
        pytest.param(3.9, 4.25, 1, 4, id="from-one-that-stays"),
        pytest.param(4.1, 4.3, 3, 4, id="two-quick-ones"),
        pytest.param(4.0, 9.0, 2, 5, id="quick-and-slow"),
        pytest.param(8.0, 99.0, 5, 7, id="beyond-the-end"),
    ],
)
@pytest.mark.parametrize("kind", ["mkv", "mp4", "ts"])
def test_parts_are_found_by_their_times(
    kind: str, start: float, end: float, first: int, last: int, tmp_path: Path
) -> None:
    """Frames that come at uneven times: a part is what a player shows meanwhile, and lasts as long."""
    path = write(tmp_path / f"a.{kind}", drawn(8), times=SLIDES, options={"bf": "0"})
    video = read(path, Clip(start=start, end=end))
    assert (video.indices[0], video.indices[-1], video.total) == (first, last, last - first + 1)
    if end < 10:
        assert video.seconds == pytest.approx(end - start, abs=0.002)


def test_a_part_of_even_frames_has_their_rate(tmp_path: Path) -> None:
    """Wherever it begins: a tenth of a second from each frame to the next."""
    path = write(tmp_path / "a.mkv", drawn(40))
    for start, end, count in ((1.0, 2.0, 10), (1.05, 2.05, 11), (1.099, 1.35, 3), (3.95, 9.0, 1)):
        video = read(path, Clip(start=start, end=end))
        assert (video.total, video.rate) == (count, 10.0)


def test_the_first_time_of_a_file_is_its_begin(tmp_path: Path) -> None:
    """MPEG-TS counts from anywhere."""
    path = write(tmp_path / "a.ts", drawn(40), options={"g": "10"})
    assert numbers(path, Clip(start=1.0, end=2.0)) == list(range(10, 20))


@pytest.mark.parametrize(("start", "end"), [(99.0, None), (4.0, None), (1.2, 0.4), (1.0, 1.0)])
def test_there_is_no_such_part(start: float, end: float | None, tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", drawn(40))
    with pytest.raises(VideoError, match=rf"^video a\.mp4: there is no part from {start:g} s to .*: it lasts 4 s$"):
        read(path, Clip(4, start=start, end=end))


def test_one_frame_and_odd_sizes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", drawn(1, 57, 91), pixels="yuv444p")
    video = read(path, Clip(8))
    assert (video.frames.shape, video.total, video.seconds) == ((1, 57, 91, 3), 1, 0.1)
    assert np.array_equal(video.frames, all_of(path))


def test_the_film_and_not_its_cover(tmp_path: Path) -> None:
    """A picture that is attached comes first in the file."""
    write(tmp_path / "film.mp4", drawn(10))
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as target, av.open(str(tmp_path / "film.mp4")) as source:
        cover = target.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = 32, 32, "yuvj420p"
        film = target.add_stream_from_template(source.streams.video[0])
        target.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        target.mux(cover.encode())
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = film
                target.mux(packet)
    assert read(path, Clip(4)).frames.shape == (4, 64, 96, 3)


class TestDamage:
    """What decodes is read; what does not, is one error that names the file."""

    @pytest.fixture
    def noise(self, tmp_path: Path) -> Path:
        """40 frames, the header in front, as on a web server."""
        random = np.random.default_rng(0)
        frames = [random.integers(0, 255, (56, 56, 3), dtype=np.uint8) for _ in range(40)]
        options = {"g": "10", "bf": "0"}
        return write(tmp_path / "a.mp4", frames, options=options, muxer={"movflags": "faststart"})

    @pytest.mark.parametrize("lost", [100, 5_000])
    def test_the_last_packets_are_missing(self, noise: Path, lost: int) -> None:
        noise.write_bytes(noise.read_bytes()[:-lost])
        self.same_as_a_full_decode(noise)

    @pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1"])
    def test_the_last_packet_is_cut_and_its_frame_is_not_the_last(self, codec: str, noise: Path) -> None:
        """B-frames come after those that they are shown before."""
        frames = [np.roll(frame, number) for number, frame in enumerate(all_of(noise))]
        options = {"libx264": {"bf": "2"}, "libx265": {"x265-params": "bframes=3:b-adapt=0:log-level=none"}}
        path = write(noise, frames, codec=codec, options=options.get(codec), muxer={"movflags": "faststart"})
        path.write_bytes(path.read_bytes()[:-50])
        self.same_as_a_full_decode(path)

    @staticmethod
    def same_as_a_full_decode(path: Path) -> None:
        whole = all_of(path)
        assert 36 <= len(whole) < 40
        video = read(path, Clip(16))
        assert video.total == len(whole)
        assert np.array_equal(
            video.frames, [whole[number] for number in choose_frames(0, len(whole) - 1, 10, 16, None)]
        )

    def test_a_half_is_not_shown_as_if_it_were_the_whole(self, noise: Path) -> None:
        noise.write_bytes(noise.read_bytes()[: noise.stat().st_size // 2])
        with pytest.raises(VideoError, match=r"^video a\.mp4: it ends after [\d.]+ of 4 s$"):
            read(noise, Clip(8))

    def test_a_hole_in_the_middle(self, noise: Path) -> None:
        data = bytearray(noise.read_bytes())
        middle = len(data) // 2
        data[middle : middle + 3000] = bytes(3000)
        noise.write_bytes(data)
        self.same_as_a_full_decode(noise)

    def test_nothing_decodes(self, noise: Path) -> None:
        data = bytearray(noise.read_bytes())
        start = data.index(b"mdat") + 4
        data[start:] = bytes(len(data) - start)
        noise.write_bytes(data)
        with pytest.raises(VideoError, match=r"^video a\.mp4: "):
            read(noise, Clip(8))

    def test_a_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "a.mp4")
        with pytest.raises(VideoError, match=r"^video a\.mp4: it is no file$"):
            read(tmp_path / "a.mp4", Clip(8))


def test_files_put_one_behind_the_other(tmp_path: Path) -> None:
    """Times begin anew, and the size is another: all frames are shown, one after the other, as large as the first."""
    parts = [write(tmp_path / f"{width}.ts", drawn(20, 48, width), options={"g": "10"}) for width in (80, 96)]
    path = tmp_path / "a.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    video, whole = read(path, Clip()), all_of(path)
    assert (video.total, video.rate, video.seconds) == (40, 10.0, 4.0)
    assert video.frames.shape == (40, 48, 80, 3)
    assert np.array_equal(video.frames[:20], whole[:20])
