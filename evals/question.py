"""A question as tensors: lmms-eval's chat messages, videos decoded and processed."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lmms_eval.protocol import ChatMessages
from PIL import Image
from transformers import BatchFeature, Qwen2_5_VLProcessor

from evals.pieces import in_pieces
from videonsa.disk import check_readable
from videonsa.video import ABSENT, TEMPORAL_PATCH, Clip, Fit, Video, VideoError, choose_frames, fingerprint, read
from videonsa.video.picture import resized

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
    """A prepared question, on the CPU; but pixels of a scene are where it was drawn."""

    prompt_hash: str  # 12 digits of SHA-256 of the prompt's text, one placeholder for each video
    inputs: BatchFeature
    left_out: int = 0  # vision tokens that the shares of its sampling took away

    @property
    def prefill_tokens(self) -> int:
        return self.inputs["input_ids"].shape[1]

    @property
    def vision_tokens(self) -> int:
        return int((self.inputs["mm_token_type_ids"] > 0).sum())

    def on(self, device: torch.device, without: Collection[str] = ()) -> dict[str, Any]:
        """The model's arguments, but for some, tensors on a device."""
        given = {name: value for name, value in self.inputs.items() if name not in without}
        return {name: value.to(device) if torch.is_tensor(value) else value for name, value in given.items()}

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(value.numel() * value.element_size() for value in self.inputs.values() if torch.is_tensor(value))


class Content(NamedTuple):
    """What a question shows, wherever its files lie: 12 digits each."""

    question: str  # its prompt and its images and videos
    shown: str  # its images and videos alone, parts of videos by their times; without any, the question


def clips(
    processor: Qwen2_5_VLProcessor, messages: list[dict[str, Any]], sampling: Sampling
) -> list[tuple[Path, Clip]]:
    """The clips that `prepare` needs of a question, in order: what can be read ahead, and once for many settings.

    Raises VideoError for a video that is given in another way than as a file.
    """
    media = [part for part in _parts(messages)[1] if part.type == "video"]
    fit = _fit(processor, sampling)
    return [
        (
            _file(part.url),
            Clip(sampling.frames, sampling.fps, part.start_time, part.end_time, sampling.frame_share, fit),
        )
        for part in media
    ]


def prepare(
    processor: Qwen2_5_VLProcessor,
    messages: list[dict[str, Any]],
    sampling: Sampling,
    videos: Sequence[Video] | None = None,
) -> Question:
    """Tensors of a question in lmms-eval's chat form.

    Args:
        videos: what was read of its `clips`; None: they are read here.
    Raises:
        VideoError: a video or image cannot be read.
    """
    conversation, media = _parts(messages)
    processor = in_pieces(processor)
    text = processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    fit = _fit(processor, sampling)
    images = [_image(part.url) for part in media if part.type == "image"]
    if videos is None:
        videos = [read(*clip) for clip in clips(processor, messages, sampling)]
    whole = _whole(images, videos, sampling, fit)
    if sampling.pixel_share < 1:
        images = [_shrunk(image, fit) for image in images]
    size = {"shortest_edge": fit.least, "longest_edge": fit.most}
    videos_kwargs: dict[str, Any] = {"size": size, "video_metadata": [video.metadata() for video in videos] or None}
    if hasattr(processor.video_processor, "cap_pixels_per_frame"):  # since transformers 5.22: a second cap, off
        videos_kwargs["cap_pixels_per_frame"] = False
    inputs = processor(
        text=[text],
        images=images or None,
        videos=[video.frames for video in videos] or None,
        images_kwargs={"size": size},
        videos_kwargs=videos_kwargs,
        return_tensors="pt",
    )
    question = Question(hashlib.sha256(text.encode()).hexdigest()[:12], inputs)
    return question if whole is None else dataclasses.replace(question, left_out=whole - question.vision_tokens)


def _fit(processor: Qwen2_5_VLProcessor, sampling: Sampling) -> Fit:
    token = processor.video_processor.patch_size * processor.video_processor.merge_size
    return Fit(token, SMALLEST * token**2, sampling.tokens_per_frame * token**2, sampling.pixel_share)


def _whole(images: list[Any], videos: Sequence[Video], sampling: Sampling, fit: Fit) -> int | None:
    """Vision tokens that the question would have without the shares; None where there are no shares."""
    if sampling.frame_share == sampling.pixel_share == 1:
        return None
    fit = dataclasses.replace(fit, share=1.0)
    tokens = 0
    for image in images:
        tokens += math.prod(fit.tokens(*np.asarray(image).shape[:2]))
    for video in videos:
        wanted = choose_frames(0, video.total - 1, video.rate, sampling.frames, sampling.fps)
        tokens += -(-len(wanted) // TEMPORAL_PATCH) * math.prod(fit.tokens(video.height, video.width))
    return tokens


def _shrunk(image: Any, fit: Fit) -> Any:
    """An image of that share of the tokens: whole ones, which the processor leaves as they are."""
    pixels = np.array(image.convert("RGB")) if isinstance(image, Image.Image) else np.asarray(image)
    return Image.fromarray(resized(pixels, fit.size(*pixels.shape[:2])))


def content_of(messages: list[dict[str, Any]], fingerprint: Callable[[Path], str] = fingerprint) -> Content:
    """What a question in lmms-eval's chat form shows. No video is decoded.

    fingerprint: of a file. Those that are ABSENT are told apart by their paths: each is an error of its own, and one
    that comes meanwhile is not taken for another.
    """
    conversation, media = _parts(messages)
    shown = hashlib.sha256()
    for part in media:
        span = (part.start_time, part.end_time) if part.type == "video" else ()
        shown.update(repr((part.type, *span)).encode() + _fingerprint(part.url, fingerprint))
    question = hashlib.sha256(json.dumps(conversation).encode() + shown.digest())
    return Content(question.hexdigest()[:12], (shown if media else question).hexdigest()[:12])


def _parts(messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[Any]]:
    """The conversation, one placeholder for each image and video, and these in order."""
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
    return conversation, media


def _fingerprint(source: Any, of_file: Callable[[Path], str]) -> bytes:
    """Of a file its size and samples; of an image in memory its pixels, or its file's bytes."""
    source = _given(source)
    if isinstance(source, bytes):
        return hashlib.sha256(source).digest()
    if not isinstance(source, str | Path):
        return hashlib.sha256(_pixels(source)).digest()
    found = of_file(_path(source))
    return found.encode() if found != ABSENT else ABSENT.encode() + os.fsencode(_path(source))


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
    if isinstance(file, Path) and file.exists() and not file.is_file():
        raise VideoError(f"image {file.name[:80]}: it is no file")  # a pipe would be waited for
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


def _file(source: Any) -> Path:
    source = _given(source)
    if not isinstance(source, str | Path):
        raise VideoError(f"a video given as {type(source).__name__}: only files are read")
    return _path(source)
