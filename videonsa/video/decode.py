"""Decoding the chosen frames of a video, and as few others as there can be."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from videonsa.video.index import Packets, Work, packets_of

NEAR = 250  # packets: to read on over fewer is cheaper than to seek
TRIES = 12  # aims of a seek, each twice as many key frames further back


class Lost(Exception):
    """The packets do not come again as the index has them: only decoding all of them helps."""


class Damaged(Exception):
    """The decoder refuses a packet. With threads it may have kept back good frames, too."""


def all_frames(container: InputContainer, stream: VideoStream, work: Work) -> Iterator[av.VideoFrame]:
    """Every frame, in the order of showing. What the decoder refuses is passed over, as players do."""
    for packet in packets_of(container, stream, work):
        yield from _decoded(stream, packet, work)
    yield from _decoded(stream, None, work)


def chosen_frames(
    container: InputContainer, stream: VideoStream, packets: Packets, chosen: np.ndarray, work: Work
) -> Iterator[tuple[int, av.VideoFrame]]:
    """(place among the chosen, frame) of the frames with these numbers, ascending; what does not decode is left out.

    From the key frame before each of them to itself; on the way frames that nothing refers to are not decoded.
    Raises Lost; with threads also Damaged.
    """
    places = {int(packets.pts[packets.holds[number]]): place for place, number in enumerate(chosen.tolist())}
    tape = _Tape(container, stream, packets, work)
    for first, last in _spans(packets, chosen):
        for number, packet in tape.play(first, last):
            if packets.unreferred[number] and packet.pts not in places:
                work.skipped += 1
                continue
            stream.codec_context.skip_frame = "DEFAULT" if packet.pts in places else "NONREF"
            yield from ((places[frame.pts], frame) for frame in _decoded(stream, packet, work) if frame.pts in places)
        yield from ((places[frame.pts], frame) for frame in _decoded(stream, None, work) if frame.pts in places)


def decodable(container: InputContainer, stream: VideoStream, packets: Packets, since: int, work: Work) -> np.ndarray:
    """Which of the frames from number `since` to the last can be decoded: bool. Raises Lost.

    From the key frame before the last one: where pictures are refreshed bit by bit, one alone may not be enough.
    """
    stream.codec_context.skip_frame = "DEFAULT"
    tape, came = _Tape(container, stream, packets, work), set()
    first = packets.keys[packets.keys < max(1, packets.key_before(since))][-1]
    for _, packet in tape.play(int(first), len(packets.pts) - 1):
        came |= {frame.pts for frame in _decoded(stream, packet, work)}
    came |= {frame.pts for frame in _decoded(stream, None, work)}
    return np.isin(packets.pts[packets.holds[since:]], list(came))


def _spans(packets: Packets, chosen: np.ndarray) -> list[list[int]]:
    """Runs of packets, first and last, that decode the chosen frames; runs that meet are one."""
    spans: list[list[int]] = []
    for number in chosen.tolist():
        first, last = packets.key_before(number), int(packets.holds[number])
        if spans and first <= spans[-1][1] + 1:
            spans[-1][1] = max(spans[-1][1], last)
        else:
            spans.append([first, last])
    return spans


def _decoded(stream: VideoStream, packet: Packet | None, work: Work) -> list[av.VideoFrame]:
    """The frames that come out when the packet goes in; None: all that are still in."""
    codec = stream.codec_context
    try:
        frames = codec.decode(packet)
    except av.error.FFmpegError:
        if codec.thread_count != 1:
            raise Damaged from None
        frames = []
    if packet is None:
        codec.flush_buffers()  # else it takes no more
    work.decoded += len(frames)
    work.skipped += (packet is not None) - len(frames)
    return frames


class _Tape:
    """The packets by number. A seek lands near what it aims at, at best: where, the packets themselves must tell."""

    def __init__(self, container: InputContainer, stream: VideoStream, packets: Packets, work: Work) -> None:
        self.container, self.stream, self.packets, self.work = container, stream, packets, work
        self.place: int | None = None  # of the packet that comes next
        self.coming: Iterator[Packet] = iter(())
        self.by_time = np.argsort(packets.pts)
        self.aims = [packets.pts[packets.keys], packets.dts]  # containers seek by the one or the other

    def play(self, first: int, last: int) -> Iterator[tuple[int, Packet]]:
        """(number, packet) from a key frame on, without those shown before it: they refer to what is before it, too.

        Raises Lost.
        """
        if self.place is None or not 0 <= first - self.place <= NEAR:
            self._seek(first)
        assert self.place is not None
        for number in range(self.place, last + 1):
            packet = next(self.coming, None)
            if packet is None or packet.pts != self.packets.pts[number]:
                raise Lost
            self.place = number + 1
            if number >= first and packet.pts >= self.packets.pts[first]:
                yield number, packet

    def _seek(self, first: int) -> None:
        """Stand at the packet, or before it."""
        behind = int(np.searchsorted(self.packets.keys, first, side="right"))  # key frames up to it
        for back in [1, *(1 + (1 << step) for step in range(TRIES))]:
            for aims in self.aims:
                self.container.seek(int(aims[max(0, behind - back)]), stream=self.stream)
                if self._stand_before(first):
                    self.aims = [aims, *(other for other in self.aims if other is not aims)]  # it is so in this file
                    return
        raise Lost

    def _stand_before(self, first: int) -> bool:
        coming = packets_of(self.container, self.stream, self.work)
        for packet in coming:
            number = self._number(packet)
            if number is not None:  # else a piece of one, where the seek fell into the midst of it
                self.place, self.coming = number, chain([packet], coming)
                return number <= first
        return False

    def _number(self, packet: Packet) -> int | None:
        if packet.pts is None:
            return None
        place = np.searchsorted(self.packets.pts, packet.pts, sorter=self.by_time)
        number = int(self.by_time[min(int(place), len(self.by_time) - 1)])
        return number if self.packets.pts[number] == packet.pts else None
