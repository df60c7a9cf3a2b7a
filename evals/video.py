"""Frames of a video file with transformers' metadata: the project's one reader (videonsa/video), in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from transformers.video_utils import VideoMetadata

from videonsa.video import TEMPORAL_PATCH, Clip, VideoError, choose_frames, read

__all__ = ["TEMPORAL_PATCH", "VideoError", "choose_frames", "read_video"]


def read_video(
    path: str | Path,
    *,
    frames: int | None,
    fps: float | None,
    start: float | None = None,
    end: float | None = None,
    share: float = 1.0,
) -> tuple[np.ndarray, VideoMetadata]:
    """Frames uint8 [T, H, W, 3], evenly spaced, and metadata of the video, or of the part of it; see Clip.

    Raises VideoError when the file is missing, empty or damaged, or has no such part.
    """
    video = read(path, Clip(frames, fps, start, end, share))
    return video.frames, video.metadata()
