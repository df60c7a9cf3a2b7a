"""Which HEVC frames nothing refers to, from their packets' headers: FFmpeg's decoder, unlike H.264's, skips none."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream

VCL = 32  # types of NAL units below are pieces of pictures (ITU-T H.265, table 7-1)
NOT_REFERRED_TO = range(0, 16, 2)  # those that no picture of their own temporal layer refers to
OTHER = (0, True)


class References:
    """What the packets of a stream say of themselves, one after the other."""

    def __init__(self, stream: VideoStream) -> None:
        self.hevc = stream.codec_context.name == "hevc"
        extra = stream.codec_context.extradata or b""
        # Bytes of the length before each unit, ISO 14496-15; 0: start codes part them (annex B).
        self.length_bytes = (extra[21] & 3) + 1 if len(extra) > 22 and extra[0] == 1 else 0
        self.seen: list[tuple[int, bool]] = []  # temporal layer, whether others of it may refer to the frame

    def see(self, packet: Packet) -> None:
        """The next packet."""
        self.seen.append(self._picture(bytes(packet)) if self.hevc else OTHER)

    def unreferred(self) -> np.ndarray:
        """bool [P]. A frame below the highest layer may be referred to from above."""
        highest = max((layer for layer, _ in self.seen), default=0)
        return np.array([layer == highest and not referred for layer, referred in self.seen], dtype=bool)

    def _picture(self, data: bytes) -> tuple[int, bool]:
        for header in _nal_headers(data, self.length_bytes):
            kind = header[0] >> 1 & 0x3F
            if kind < VCL:
                return (header[1] & 7) - 1, kind not in NOT_REFERRED_TO
        return OTHER


def _nal_headers(data: bytes, length_bytes: int) -> Iterator[bytes]:
    """The first two bytes of each unit."""
    place = 0
    while length_bytes and place + length_bytes + 2 <= len(data):
        begin = place + length_bytes
        yield data[begin : begin + 2]
        place = begin + int.from_bytes(data[place:begin], "big")
    while not length_bytes and (place := data.find(b"\x00\x00\x01", place) + 3) > 2 and place + 2 <= len(data):
        yield data[place : place + 2]
