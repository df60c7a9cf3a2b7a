"""Reading videos, for training and evaluation alike: which frames of a file, how large, and these as arrays.

- clip.py: what is asked of a file (Clip, Fit), and which frames these are.
- reading.py: read(path, clip) -> Video; key(path, clip) names it before it is read.
- index.py: the frames that a file shows, from its packets; decode.py: the chosen ones, with as few others as can be;
  picture.py: one frame as a player shows it, small.
- readers.py: the same in worker processes, ahead of whoever needs the frames, with a time limit.
"""

from videonsa.video.clip import TEMPORAL_PATCH, Clip, Fit, choose_frames
from videonsa.video.index import VideoError, Work
from videonsa.video.readers import Readers, Waits, ahead
from videonsa.video.reading import ABSENT, Video, check, fingerprint, in_time, key, read

__all__ = [
    "ABSENT",
    "TEMPORAL_PATCH",
    "Clip",
    "Fit",
    "Readers",
    "Video",
    "VideoError",
    "Waits",
    "Work",
    "ahead",
    "check",
    "choose_frames",
    "fingerprint",
    "in_time",
    "key",
    "read",
]
