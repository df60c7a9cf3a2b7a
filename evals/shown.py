"""What several questions show, read once and made into tensors once for all of them."""

from __future__ import annotations

import copy
import dataclasses
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2_5_VLProcessor

from evals.drawn import Reading
from evals.pieces import in_pieces
from evals.question import Question, Sampling, clips, prepare
from videonsa.video import Clip, Video, Work, read

PIXELS = {"pixel_values", "pixel_values_videos"}


def at_once(path: Path, clip: Clip) -> Future[Video]:
    """The clip, read here and now."""
    future: Future[Video] = Future()
    try:
        future.set_result(read(path, clip))
    except Exception as error:
        future.set_exception(error)
    return future


class Shown:
    """The images and videos of questions that show the same: videos are read once for each sampling, and become
    tensors once for each. What is told of them, the prompt, is each question's own.

    dtype: of pixels; None: as the processor makes them, float32.
    """

    def __init__(
        self, processor: Qwen2_5_VLProcessor, reading: Reading = at_once, dtype: torch.dtype | None = None
    ) -> None:
        self._processor, self._reading, self._dtype = processor, reading, dtype
        self._videos: dict[tuple[Path, Clip], Future[Video]] = {}
        self._processors: dict[Sampling, Qwen2_5_VLProcessor] = {}

    def question(self, messages: list[dict[str, Any]], sampling: Sampling) -> Question:
        """As evals.question.prepare, of one of these questions. Raises VideoError, DiskError."""
        if sampling not in self._processors:
            processor = copy.copy(in_pieces(self._processor))
            processor.image_processor = Once(processor.image_processor, self._dtype)
            processor.video_processor = Once(processor.video_processor, self._dtype)
            self._processors[sampling] = processor
        videos = [future.result() for future in self.videos(messages, sampling)]
        return prepare(self._processors[sampling], messages, sampling, videos)

    def work(self, messages: list[dict[str, Any]], sampling: Sampling) -> Work:
        """What reading the videos of one of these questions took, once they are read."""
        done = [future.result().work for future in self.videos(messages, sampling)]
        return Work(*(sum(getattr(one, field.name) for one in done) for field in dataclasses.fields(Work)))

    def videos(self, messages: list[dict[str, Any]], sampling: Sampling) -> list[Future[Video]]:
        """The videos of one of these questions, being read. Raises VideoError."""
        wanted = clips(self._processor, messages, sampling)
        for clip in wanted:
            if clip not in self._videos:
                self._videos[clip] = self._reading(*clip)
        return [self._videos[clip] for clip in wanted]


class Once:
    """An image or video processor that is always asked the same, and computes it the first time.

    dtype: the tower's own, to which it would round pixels first: half as much then goes to a GPU, which fetches it from
    memory that stays in place.
    """

    def __init__(self, processor: Any, dtype: torch.dtype | None = None) -> None:
        self._once, self._output, self._dtype = processor, None, dtype

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._output is None:
            self._output = self._ready(self._once(*args, **kwargs))
        return copy.copy(self._output)

    def _ready(self, output: Any) -> Any:
        for name in PIXELS & set(output) if self._dtype else ():
            output[name] = output[name].to(self._dtype)
            with suppress(RuntimeError):  # none is left, or there is no GPU: then they are copied as they lie
                output[name] = output[name].pin_memory()
        return output

    def __getattr__(self, name: str) -> Any:
        return getattr(self._once, name)
