"""The frames that a file shows, and when, known from its packets: nothing is decoded.

A header's count of frames is no fact about the file: fragments are not in it, edit lists hide what is, live files have
none. So the packets are read, as a full decode would read them. In order of their times they are the frames, for the
codecs of ONE_EACH; of others, and of packets without times, only their number is known, until all are decoded.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from videonsa.disk import check_readable
from videonsa.video.references import References

# Codecs whose packets hold one frame each, as PyAV names their decoders.
ONE_EACH = (
    *("h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg1video", "mpeg2video", "mpeg4", "mjpeg"),
    *("prores", "dnxhd", "ffv1", "png", "rawvideo"),
)
NOT_CODED = 8  # bytes at most of an MPEG-4 packet that says: no frame here
UNKNOWN = -(1 << 63)  # in place of a time
ROUNDED = 0.002  # seconds by which a time may be off: Matroska keeps whole milliseconds
WHOLE = 0.9  # of the length that a file promises: headers often promise a frame or two more than there are


class VideoError(ValueError):
    """A file that holds no video that can be decoded. The message names the file without its folder."""


@dataclass
class Work:
    """What reading a clip took."""

    packets: int = 0  # read, some of them twice
    decoded: int = 0  # frames
    skipped: int = 0  # frames that nothing refers to, passed over undecoded
    seconds: float = 0.0


@dataclass(frozen=True)
class Packets:
    """P packets in the order of decoding, by number, with the N frames that are shown of them."""

    pts: np.ndarray  # int [P]: when each one's frame is shown, in the stream's unit
    keys: np.ndarray  # int [K], ascending: those that decoding can start from
    dts: np.ndarray  # int [K]: when each of these is decoded, in the same unit
    holds: np.ndarray  # int [N]: the packet of each frame, in the order of showing
    unreferred: np.ndarray  # bool [P]: frames that may be left out unseen, as no other refers to them
    cut: bool = False  # the file breaks off within the last packet

    def key_before(self, frame: int) -> int:
        """The packet to start from for this frame: the last key frame that is shown no later."""
        return int(self.keys[self.pts[self.keys] <= self.pts[self.holds[frame]]][-1])


@dataclass(frozen=True)
class Index:
    """N frames in the order of showing."""

    times: np.ndarray  # float [N], seconds as a player counts them
    end: float  # seconds, when the last frame goes
    rate: float | None  # frames a second, as the file says
    packets: Packets | None = None  # None: which frame is which shows when all are decoded

    def __len__(self) -> int:
        return len(self.times)

    def part(self, start: float | None, end: float | None) -> tuple[int, int, float]:
        """The frames that a player shows from start to end: (first, last, how many a second).

        Raises VideoError when it shows none then.
        """
        begins = max(start or 0.0, float(self.times[0]))
        ends = self.end if end is None else min(end, self.end)
        if not begins + ROUNDED < ends:
            until = "its end" if end is None else f"{end:g} s"
            raise VideoError(f"there is no part from {start or 0:g} s to {until}: it lasts {self.end:.4g} s")
        first = max(0, int(np.searchsorted(self.times, begins + ROUNDED, side="right")) - 1)
        last = max(first, int(np.searchsorted(self.times, ends - ROUNDED)) - 1)
        stays = np.diff([*self.times[first : last + 2], self.end][: last - first + 2])  # seconds, each frame
        even = self.rate is not None and np.abs(stays - 1 / self.rate).max() <= ROUNDED
        return first, last, self.rate if even and self.rate else (last - first + 1) / (ends - begins)

    def without(self, numbers: np.ndarray) -> Index:
        """Without the frames of these numbers, which turn out to be none. What is left ends where the next began."""
        left = np.setdiff1d(np.arange(len(self)), numbers)
        end = float([*self.times[1:], self.end][left[-1]])
        held = self.packets and replace(self.packets, holds=self.packets.holds[left], cut=False)
        return Index(self.times[left], end, self.rate, held)


def scan(container: InputContainer, stream: VideoStream, work: Work) -> Index:
    """The file's index. Reads it to its end, or to where it breaks off.

    Raises VideoError when there is no frame in it, or far fewer than it promises.
    """
    pts, durations, keys, dts, hidden, sizes = (array("q") for _ in range(6))
    references = References(stream)
    for number, packet in enumerate(packets_of(container, stream, work)):
        references.see(packet)
        pts.append(UNKNOWN if packet.pts is None else packet.pts)
        durations.append(packet.duration or 0)
        sizes.append(packet.size)
        if packet.is_keyframe:
            keys.append(number)
            dts.append(pts[-1] if packet.dts is None else packet.dts)
        if packet.is_discard or _invisible(stream, packet):
            hidden.append(number)
    shown = np.setdiff1d(np.arange(len(pts)), hidden)
    if not len(shown):
        raise VideoError("there is no frame in it")
    when = np.array(pts)
    if UNKNOWN in when[shown] or len(np.unique(when[shown])) < len(shown):  # times that begin anew, too
        return timed(container, stream, [None] * len(shown))
    order = shown[np.argsort(when[shown], kind="stable")]
    index = timed(container, stream, when[order].tolist(), durations[order[-1]])
    _check_whole(container, stream, index)
    held = Packets(when, np.array(keys), np.array(dts), order, references.unreferred(), packet.is_corrupt)
    return Index(index.times, index.end, index.rate, held if _can_seek(container, stream, held, sizes) else None)


def timed(container: InputContainer, stream: VideoStream, pts: Sequence[int | None], duration: int = 0) -> Index:
    """An index of frames shown one after the other at these times, the last for `duration`, in the stream's unit.

    Without times, or where these go back, they are spread by the rate that the file says. VideoError: it says none.
    """
    said = stream.average_rate or stream.guessed_rate
    rate = float(said) if said else None
    known = [time for time in pts if time is not None]
    if len(known) < len(pts) or known != sorted(known):
        if rate is None:
            raise VideoError("it does not say how many frames a second it shows")
        return Index(np.arange(len(pts)) / rate, len(pts) / rate, rate)
    assert stream.time_base is not None
    times = np.array(known) * float(stream.time_base)
    times -= min(float(times[0]), (container.start_time or 0) / av.time_base)
    usual = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 1 / (rate or 1)
    return Index(times, float(times[-1] + (duration * float(stream.time_base) or usual)), rate)


def packets_of(container: InputContainer, stream: VideoStream, work: Work) -> Iterator[Packet]:
    """The stream's packets from where the container stands, to its end, or to where it breaks off."""
    try:
        for packet in container.demux(stream):
            work.packets += 1
            if packet.size:  # the last, an empty one, is PyAV's
                yield packet
    except av.error.InvalidDataError:
        return
    except OSError:
        check_readable(Path(container.name))  # FFmpeg says Input/output error of a file that breaks off, too


def _invisible(stream: VideoStream, packet: Packet) -> bool:
    """VP8 keeps frames that are only referred to in packets of their own, and says so in a bit of the first byte."""
    return stream.codec_context.name == "vp8" and not memoryview(packet)[0] & 0x10


def _can_seek(container: InputContainer, stream: VideoStream, packets: Packets, sizes: array) -> bool:
    """Whether the packets alone tell which frame is which, and the first frame can be decoded."""
    codec = stream.codec_context.name
    if codec not in ONE_EACH or (codec == "mpeg4" and (container.format.name == "avi" or min(sizes) <= NOT_CODED)):
        return False  # MPEG-4 in AVI: two frames in a packet, and an empty one for it
    begins_whole = len(packets.keys) and packets.keys[0] == 0 and packets.pts[0] <= packets.pts[packets.holds[0]]
    return bool(begins_whole) and len(np.unique(packets.pts)) == len(packets.pts)


def _check_whole(container: InputContainer, stream: VideoStream, index: Index) -> None:
    """Raise VideoError when the frames end long before the file promised: they are not shown as if they were all."""
    seconds = index.end - float(index.times[0])
    promised = 0.0
    if stream.duration is not None and stream.time_base is not None:
        promised = float(stream.duration * stream.time_base)
    elif len(container.streams) == 1 and container.duration is not None:  # sound may last longer
        promised = container.duration / av.time_base - (container.start_time or 0) / av.time_base
    if seconds < WHOLE * promised - 1.5 * seconds / len(index):
        raise VideoError(f"it ends after {seconds:.4g} of {promised:.4g} s")
