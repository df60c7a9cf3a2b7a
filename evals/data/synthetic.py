"""Synthetic benchmarks on disk: mp4 files or scenes, and their questions, made once from a seed.

    <data folder>/<identity>/{docs.jsonl, 0000.mp4, 0001.mp4, ...}; or 0000.scene.json, ..., drawn where they are shown

The folder appears at once, whole, under the identity of everything that goes into it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from videonsa.config import SettingsError, require
from videonsa.disk import DiskError, whole_folder
from videonsa.drawing import frames_of
from videonsa.identity import identity, part_version, settings_inputs
from videonsa.places import place
from videonsa.synth import FAMILIES, SUFFIX, Scene, make_sample, prompt_text, write_scene

DATA = "VIDEONSA_DATA"  # environment variable: the data folder
DEFAULT_DATA = Path("runs") / "data"
# Lossless in full chroma: decoded colours differ by at most 2 of 255 from what was drawn, by rounding between RGB and
# YUV. The fastest setting both to write and to read (6 and 7 ms for 32 frames of 56 px), and 80 kB a video.
CODEC = {"crf": "0", "preset": "ultrafast"}
PIXELS = "yuv444p"


@dataclass(frozen=True)
class SyntheticData:
    """What decides the content of one synthetic benchmark."""

    family: str  # of questions, in videonsa/synth
    questions: int = 192
    frames: int = 32  # of each video
    size: int = 56  # width and height of a frame, px
    seed: int = 0  # questions and videos; the test split of each seed never meets a training seed
    # Of a long family, whose videos are else scenes, as small as a question.
    mp4: bool = field(default=False, metadata={"before": False})

    def __post_init__(self) -> None:
        for name in ("questions", "frames", "size"):
            value = getattr(self, name)
            require(isinstance(value, int) and value > 0, name, value, "a whole number of at least 1")
        require(self.family in FAMILIES, "family", self.family, "choose one of " + ", ".join(FAMILIES))

    @property
    def identity(self) -> str:
        """12 digits for the settings and for the code that turns them into files."""
        return identity({**settings_inputs(self), "code": [part_version(part) for part in ("synth", "questions")]})


def data_folder(folder: Path | str | None = None) -> Path:
    """The folder for data: as given, else $VIDEONSA_DATA, else runs/data."""
    return place(folder or os.environ.get(DATA) or DEFAULT_DATA)


def make_data(data: SyntheticData, folder: Path | str | None = None) -> Path:
    """The benchmark's folder; written first where it is not there yet. Two processes may do so at once.

    Raises SettingsError when the data folder may not be written, DiskError when its disk is full or fails.
    """
    root = data_folder(folder)
    place = root / data.identity
    if place.is_dir():
        return place
    try:
        with whole_folder(place) as draft:
            _write(data, draft)
    except DiskError:
        raise
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SettingsError(
            f"data folder {str(root)!r}: {reason}; point ${DATA} to a folder that can be written"
        ) from None
    return place


def read_docs(place: Path) -> list[dict[str, Any]]:
    """The questions of a benchmark's folder, in order; `video` is the name of a file in it."""
    return [json.loads(line) for line in (place / "docs.jsonl").read_text(encoding="utf-8").splitlines()]


def _write(data: SyntheticData, folder: Path) -> None:
    docs = []
    for index in range(data.questions):
        sample = make_sample(data.family, split="test", seed=data.seed, index=index, frames=data.frames, size=data.size)
        if isinstance(sample.video, Scene) and not data.mp4:
            video = f"{index:04d}{SUFFIX}"
            (folder / video).write_text(write_scene(sample.video), encoding="utf-8")
        else:
            video = f"{index:04d}.mp4"
            write_video(folder / video, frames_of(sample), FAMILIES[data.family].rate(data.frames))
        doc = {"video": video, "prompt": prompt_text(sample), "question": sample.question}
        docs.append({**doc, "options": list(sample.options), "answer": sample.answer, "kind": sample.kind})
    lines = "".join(json.dumps(doc) + "\n" for doc in docs)
    (folder / "docs.jsonl").write_text(lines, encoding="utf-8")


def write_video(path: Path, frames: np.ndarray, rate: Fraction) -> None:
    """Write frames uint8 [T, H, W, 3], H and W even, as an H.264 mp4 of `rate` frames a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options=CODEC)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = PIXELS
        stream.thread_count = 1  # the same bytes on every machine, and faster for small frames
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
