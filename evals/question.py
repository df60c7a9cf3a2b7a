"""A question as tensors: lmms-eval's chat messages, videos decoded and processed."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lmms_eval.protocol import ChatMessages
from PIL import Image
from transformers import BatchFeature, Qwen2_5_VLProcessor

from evals.fewer import shrink, tokens_of
from evals.video import TEMPORAL_PATCH, VideoError, choose_frames, read_video
from videonsa.disk import check_readable
from videonsa.video import fingerprint

KEPT_BYTES = 3 << 28  # 768 MiB: the three synthetic suites, 192 videos of 32 frames each
SMALLEST = 1  # vision tokens that a frame patch has at least


@dataclass(frozen=True)
class Sampling:
    """How a video becomes tokens; see SuiteSettings."""

    frames: int | None
    fps: float | None
    tokens_per_frame: int
    frame_share: float = 1.0  # of the frames of each video that these make
    pixel_share: float = 1.0  # of the tokens of each frame and image that these make

    @property
    def inputs(self) -> dict[str, Any]:
        """What decides the tensors; a share of 1 changes nothing."""
        fields = dataclasses.asdict(self)
        return {name: value for name, value in fields.items() if not name.endswith("_share") or value != 1}


@dataclass(frozen=True)
class Question:
    """A prepared question, on the CPU."""

    prompt_hash: str  # 12 digits of SHA-256 of the prompt's text, one placeholder for each video
    inputs: BatchFeature
    left_out: int = 0  # vision tokens that the shares of its sampling took away

    @property
    def prefill_tokens(self) -> int:
        return self.inputs["input_ids"].shape[1]

    @property
    def vision_tokens(self) -> int:
        return int((self.inputs["mm_token_type_ids"] > 0).sum())

    def on(self, device: torch.device) -> dict[str, Any]:
        """The model's arguments, tensors on a device."""
        return {name: value.to(device) if torch.is_tensor(value) else value for name, value in self.inputs.items()}

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(value.numel() * value.element_size() for value in self.inputs.values() if torch.is_tensor(value))


@dataclass
class QuestionStore:
    """Prepared questions that several cells share. Keys are (suite's content, the question's own)."""

    kept: dict[tuple[str, str], Question] = field(default_factory=dict)
    bytes: int = 0

    def get(self, key: tuple[str, str] | None, make: Callable[[], Question]) -> Question:
        """The question of this key, made when it is not kept; kept when there is room beside its suite's others."""
        if key in self.kept:
            return self.kept[key]
        question = make()
        if key is not None:
            self._make_room(key[0], question.size)
            if self.bytes + question.size <= KEPT_BYTES:
                self.kept[key] = question
                self.bytes += question.size
        return question

    def _make_room(self, suite: str, size: int) -> None:
        for other in [key for key in self.kept if key[0] != suite]:
            if self.bytes + size <= KEPT_BYTES:
                return
            self.bytes -= self.kept.pop(other).size


def prepare(processor: Qwen2_5_VLProcessor, messages: list[dict[str, Any]], sampling: Sampling) -> Question:
    """Tensors of a question in lmms-eval's chat form. Raises VideoError for a video or image that cannot be read."""
    text, media = _prompt(processor, messages)
    images = [_image(part.url) for part in media if part.type == "image"]
    read = [_read(part, sampling) for part in media if part.type == "video"]
    videos, metadata = [frames for frames, _ in read], [about for _, about in read]
    token = processor.video_processor.patch_size * processor.video_processor.merge_size
    size = {"shortest_edge": SMALLEST * token**2, "longest_edge": sampling.tokens_per_frame * token**2}
    whole = _whole(images, read, sampling, token, size)
    if sampling.pixel_share < 1:
        images, videos = (
            [shrink(each, sampling.pixel_share, token, size) for each in kind] for kind in (images, videos)
        )
    videos_kwargs: dict[str, Any] = {"size": size, "video_metadata": metadata or None}
    if hasattr(processor.video_processor, "cap_pixels_per_frame"):  # since transformers 5.22: a second cap, off
        videos_kwargs["cap_pixels_per_frame"] = False
    inputs = processor(
        text=[text],
        images=images or None,
        videos=videos or None,
        images_kwargs={"size": size},
        videos_kwargs=videos_kwargs,
        return_tensors="pt",
    )
    question = Question(hashlib.sha256(text.encode()).hexdigest()[:12], inputs)
    return question if whole is None else dataclasses.replace(question, left_out=whole - question.vision_tokens)


def _whole(images: list[Any], read: list[Any], sampling: Sampling, token: int, size: dict[str, int]) -> int | None:
    """Vision tokens that the question would have without the shares; None where there are no shares."""
    if sampling.frame_share == sampling.pixel_share == 1:
        return None
    tokens = 0
    for image in images:
        height, width = np.asarray(image).shape[:2]
        rows, columns = tokens_of(height, width, token, size)
        tokens += rows * columns
    for frames, about in read:
        wanted = choose_frames(0, about.total_num_frames - 1, about.fps, sampling.frames, sampling.fps)
        rows, columns = tokens_of(frames.shape[1], frames.shape[2], token, size)
        tokens += -(-len(wanted) // TEMPORAL_PATCH) * rows * columns
    return tokens


def content_of(processor: Qwen2_5_VLProcessor, messages: list[dict[str, Any]]) -> str:
    """12 digits for what a question shows: its prompt and its videos, wherever these lie. No video is decoded."""
    text, media = _prompt(processor, messages)
    digest = hashlib.sha256(text.encode())
    for part in media:
        span = (part.start_time, part.end_time) if part.type == "video" else ()
        digest.update(repr((part.type, *span)).encode() + _fingerprint(part.url))
    return digest.hexdigest()[:12]


def _prompt(processor: Qwen2_5_VLProcessor, messages: list[dict[str, Any]]) -> tuple[str, list[Any]]:
    """The prompt's text, one placeholder for each image and video, and these in order."""
    media: list[Any] = []
    conversation = []
    for message in ChatMessages(messages=messages).messages:
        content: list[dict[str, Any]] = []
        for part in message.content:
            if part.type not in ("text", "image", "video"):
                raise VideoError(f"a question with {part.type}: the model takes text, images and videos")
            content.append({"type": part.type} | ({"text": part.text} if part.type == "text" else {}))
            media += [part] if part.type != "text" else []
        conversation.append({"role": message.role, "content": content})
    return processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True), media


def _fingerprint(source: Any) -> bytes:
    """Of a file its size and samples; of an image in memory its pixels, or its file's bytes."""
    source = _given(source)
    if isinstance(source, bytes):
        return hashlib.sha256(source).digest()
    if not isinstance(source, str | Path):
        return hashlib.sha256(_pixels(source)).digest()
    return fingerprint(_path(source)).encode()


def _pixels(image: Any) -> bytes:
    """What an image in memory shows: the bytes of two may be equal, and their size or palette not."""
    if isinstance(image, Image.Image):
        return repr((image.mode, image.size, image.getpalette())).encode() + image.tobytes()
    if hasattr(image, "tobytes"):
        return repr((image.shape, str(image.dtype))).encode() + image.tobytes()
    return repr(image).encode()


def _image(source: Any) -> Any:
    """An image as the task gives it; one given by its path, or as a file's bytes, is opened here.

    transformers would leave that to torchvision, whose decoders are not there beside every build of torch.
    """
    source = _given(source)
    if not isinstance(source, str | Path | bytes):
        return source
    file = io.BytesIO(source) if isinstance(source, bytes) else _path(source)
    try:
        with Image.open(file) as image:
            image.load()
            return image
    except Exception as error:  # decoders raise whatever they like
        name = "given as bytes"
        if isinstance(file, Path):
            check_readable(file)
            name = file.name[:80]
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise VideoError(f"image {name}: {reason}".replace(str(file), name)) from None


def _given(source: Any) -> Any:
    """What stands for an image or video: a path, bytes of a file, or an image in memory.

    Data sets also give {"bytes": ..., "path": ...}, an open file, or a data: address. Raises VideoError for a web
    address: nothing is fetched while numbers are made.
    """
    if isinstance(source, Mapping) and {"bytes", "path"} & set(source):
        source = source.get("bytes") or source.get("path")
    if hasattr(source, "getvalue"):  # io.BytesIO
        return source.getvalue()
    if isinstance(source, str) and source.startswith("data:"):
        return base64.b64decode(source.partition(",")[2])
    if isinstance(source, str) and source.lower().startswith(("http://", "https://")):
        raise VideoError(f"{source[:80]} is on the web: give a file, nothing is fetched while questions are asked")
    return source


def _path(source: str | Path) -> Path:
    return Path(str(source).removeprefix("file://"))


def _read(part: Any, sampling: Sampling) -> tuple[Any, Any]:
    source = _given(part.url)
    if not isinstance(source, str | Path):
        raise VideoError(f"a video given as {type(source).__name__}: only files are read")
    span = {"start": part.start_time, "end": part.end_time}
    return read_video(_path(source), frames=sampling.frames, fps=sampling.fps, share=sampling.frame_share, **span)
