"""What a file's header says of its video: enough for estimates. No number counts by it: headers may be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import av

from videonsa.video.index import VideoError
from videonsa.video.reading import check


class Header(NamedTuple):
    """A video, by its file's word."""

    seconds: float
    height: int  # px
    width: int


def read_header(path: str | Path) -> Header:
    """Raises VideoError, or DiskError, for a file that cannot be opened as a video, or does not say."""
    check(path)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        seconds = (container.duration or 0) / av.time_base
        if stream.duration and stream.time_base:
            seconds = float(stream.duration * stream.time_base)
        height, width = stream.height, stream.width
    if not (seconds > 0 and height and width):
        raise VideoError(f"video {Path(path).name}: its header does not say how long or how large it is")
    return Header(seconds, height, width)
