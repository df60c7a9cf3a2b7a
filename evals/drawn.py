"""Videos that are scenes (videonsa/synth/scene.py): drawn where the model is, and not read from a file."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch

from videonsa.config import SettingsError
from videonsa.drawing import draw
from videonsa.synth import SUFFIX, read_scene
from videonsa.synth.scene import FPS
from videonsa.video import Clip, Readers, Video, VideoError, Work
from videonsa.video.picture import resized

Reading = Callable[[Path, Clip], Future[Video]]


def is_scene(path: str | Path) -> bool:
    """A file of this name holds a scene."""
    return str(path).endswith(SUFFIX)


def drawing(readers: Readers, device: torch.device) -> Reading:
    """Reads as the readers, but for scenes, which are drawn on the device, here and now; their watch sees both."""

    def read(path: Path, clip: Clip) -> Future[Video]:
        if not is_scene(path):
            return readers.read(path, clip)
        future: Future[Video] = Future()
        try:
            future.set_result(drawn(path, clip, device))
        except Exception as error:
            future.set_exception(error)
        else:
            if readers.watch is not None:
                readers.watch(path, clip, future.result())
        return future

    return read


def drawn(path: Path, clip: Clip, device: torch.device | str = "cpu") -> Video:
    """The clip of a scene; its frames are a tensor on the device. Raises VideoError for a file that holds none."""
    began = time.perf_counter()
    try:
        scene = read_scene(path)
    except (OSError, SettingsError) as error:
        raise VideoError(f"video {path.name}: {getattr(error, 'strerror', None) or error}") from None
    indices = clip.choose(0, scene.frames - 1, float(FPS), scene.size, scene.size)
    frames: Any = draw([scene], device, indices)[0]
    size = clip.fit.size(scene.size, scene.size) if clip.fit else frames.shape[1:3]
    if tuple(size) != tuple(frames.shape[1:3]):  # on the CPU: bytes have no bicubic on a GPU, and bits stay equal
        smaller = [torch.from_numpy(resized(frame, size)) for frame in frames.cpu().numpy()]
        frames = torch.stack(smaller).to(device)
    work = Work(decoded=len(indices), seconds=time.perf_counter() - began)
    return Video(frames, indices, scene.frames, float(FPS), scene.size, scene.size, work)
