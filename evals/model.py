"""VideoNSA as a chat model of lmms-eval."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from loguru import logger
from tqdm import tqdm

from evals import shipped
from evals.answer import answer
from evals.answers import Row
from evals.arguments import read_arguments
from evals.asking import Messages, answer_row, is_of_question, prepared
from evals.checkpoint import Checkpoint, load
from evals.drawn import drawing, is_scene
from evals.question import Sampling, clips
from evals.scoring import draw_by_question, one_line
from evals.shown import Shown
from videonsa import values
from videonsa.config import NSASettings, SettingsError, require
from videonsa.limits import is_whole
from videonsa.methods import registry
from videonsa.methods.asked import asked_attention
from videonsa.methods.entries import MethodSettings
from videonsa.methods.meter import MethodDidNotRun
from videonsa.surroundings import full_products, settings_decide
from videonsa.video import Readers, Video, ahead

NSA_FIELDS = tuple(field.name for field in dataclasses.fields(NSASettings))
MAX_FRAMES = 32  # when neither max_frames nor fps is given
MAX_NEW_TOKENS = 128  # when the task names no length
KNOWN = (
    *("pretrained", "max_frames", "fps", "tokens_per_frame", "dtype", "device", "batch_size", "max_batch_size"),
    "method",
)

shipped.make_loadable()  # before lmms-eval loads the tasks


class VideoNSA(lmms):
    """`--model videonsa --model_args pretrained=FOLDER,block_count=8,window=16,branches=cmp+slc,max_frames=32`.

    Model arguments:
        pretrained: folder or hub name of a VideoNSA or Qwen2.5-VL checkpoint.
        max_frames, fps: frames of a video: at most so many, evenly spaced; or so many a second. 32 frames when neither
            is given.
        tokens_per_frame: vision tokens a 2-frame patch at most; as the checkpoint's processor has it when not given.
        dtype: bfloat16, float16 or float32; bfloat16 on a GPU and float32 on a CPU when not given.
        device: also --device; a GPU where there is one when not given.
        and every field of NSASettings: block_size, block_count, window, branches (joined with +), ...
        method: what attends in NSA's place, by name; its settings are written as in tri_shape.n_local=128.
    Questions are answered one at a time whatever the batch size, so that latency and memory are those of one question,
    and always greedily with one beam: of a task's generation settings only max_new_tokens counts. A question whose
    video or image cannot be read gets an empty answer and a warning; our own evaluation (evals/run.py) records it as
    an error instead.
    Raises SettingsError, one line, for an unknown argument or a checkpoint that cannot serve.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str | None = None,
        device: str | None = None,
        batch_size: int | str | None = 1,
        max_batch_size: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        _check_names(settings)
        if pretrained is None:
            raise SettingsError("model argument pretrained is missing: the folder or hub name of a checkpoint")
        named = isinstance(pretrained, str | os.PathLike) and bool(str(pretrained).strip())
        require(named, "pretrained", pretrained, "the folder or hub name of a checkpoint")
        _check_batch_size(batch_size)
        nsa, method = _attention(settings)
        rank = os.environ.get("LOCAL_RANK")
        device = f"cuda:{rank}" if device in (None, "cuda") and rank is not None and _has_gpu() else device
        checkpoint = load(pretrained, nsa, device, settings.get("dtype"), method)
        self._bind(checkpoint, _sampling(settings, checkpoint, method))

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str | dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> VideoNSA:
        """As lmms-eval's, but read by our rules (evals/arguments.py), and a bad argument ends the program.

        Its command line exits with 0 after a mere exception. What stands in the arguments goes before an option.
        """
        options = {name: value for name, value in (additional_config or {}).items() if value is not None}
        try:
            return cls(**options | read_arguments(arg_string))
        except SettingsError as error:
            raise SystemExit(f"videonsa: {values.one_line(str(error))}") from None

    @classmethod
    def of(cls, checkpoint: Checkpoint, sampling: Sampling) -> VideoNSA:
        """Around a checkpoint in memory."""
        self = cls.__new__(cls)
        lmms.__init__(self)
        self._bind(checkpoint, sampling)
        return self

    def _bind(self, checkpoint: Checkpoint, sampling: Sampling) -> None:
        self.checkpoint, self.sampling, self.readers = checkpoint, sampling, Readers()
        self.device, self.batch_size = checkpoint.device, 1

    @settings_decide()
    @full_products()
    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answers in the order of the requests. A GPU finds the files of the next ones read, or being read."""
        draw_by_questions(requests)
        shows = (
            (request, Shown(self.checkpoint.processor, drawing(self.readers, self.checkpoint.device)))
            for request in requests
        )
        depth = self.readers.count if self.checkpoint.device.type == "cuda" else 0
        coming = tqdm(ahead(shows, self._begin, depth), "VideoNSA", len(requests), disable=self.rank != 0)
        return [partial(self._ask, shown=shown)(*request.args) for (request, shown), _ in coming]

    def _begin(self, show: tuple[Instance, Shown]) -> list[Future[Video]]:
        """Have a request's videos read, but for scenes: drawing takes the GPU that is measured, and is done when the
        request is asked, as in evals/run.py. What fails is told then, too."""
        _, doc_to_messages, _, doc_id, task, split = show[0].args
        with suppress(Exception, SystemExit):
            messages = doc_to_messages(self.task_dict[task][split][doc_id])
            shown = clips(self.checkpoint.processor, messages, self.sampling)
            if not any(is_scene(path) for path, _ in shown):
                return show[1].videos(messages, self.sampling)
        return []

    def _ask(
        self,
        context: str,
        doc_to_messages: Callable,
        generation: dict[str, Any],
        doc_id: int,
        task: str,
        split: str,
        *,
        shown: Shown | None = None,
    ) -> GenerationResult:
        doc = self.task_dict[task][split][doc_id]
        length = int(generation.get("max_new_tokens") or MAX_NEW_TOKENS)
        try:
            row = self.question(lambda: doc_to_messages(doc), length, shown)
        except MethodDidNotRun as error:  # lmms-eval's command line exits with 0 after a mere exception
            raise SystemExit(f"videonsa: {values.one_line(str(error))}") from None
        if row["error"]:
            logger.warning(f"{task}, question {doc_id}: {row['error']}; counted as a wrong answer")
        return GenerationResult(row["prediction"] or "", TokenCounts(input_tokens=row["prefill_tokens"]))

    def question(self, messages: Messages, max_new_tokens: int, shown: Shown | None = None) -> Row:
        """One question's row; `shown`: its videos, where they are being read already.

        What is wrong with this question alone stands in its `error`: its media, its length.
        """
        shown = shown or Shown(self.checkpoint.processor, drawing(self.readers, self.checkpoint.device))
        row, question = prepared(shown, messages, self.sampling)
        if question is None:
            return row
        try:
            return row | answer_row(answer(self.checkpoint, question, max_new_tokens))
        except Exception as error:
            if not is_of_question(error):
                raise
            return row | {"error": one_line(error)}

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError(
            "videonsa answers by generating; tasks of output_type loglikelihood are not supported"
        )

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError("videonsa answers in one round; multi-round tasks are not supported")


class Answered(lmms):
    """Says again what was answered, so that lmms-eval scores it: needs no model, and no GPU."""

    is_simple = False

    def __init__(self, rows: Mapping[int, Mapping[str, Any]]) -> None:
        """rows: by document number."""
        super().__init__()
        self.rows, self.device, self.batch_size = rows, "cpu", 1

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answers in the order of the requests; nothing for a question that met an error."""
        draw_by_questions(requests)
        return [GenerationResult(self.rows[request.args[3]]["prediction"] or "") for request in requests]

    def clean(self) -> None:
        """There is no model to free, which takes lmms-eval longer than to score."""

    loglikelihood = VideoNSA.loglikelihood
    generate_until_multi_round = VideoNSA.generate_until_multi_round


def draw_by_questions(requests: list[Instance]) -> None:
    """The tasks of these requests draw by question, before they score."""
    for request in requests:
        draw_by_question(getattr(request.args[1], "__self__", None))


def _own(settings: dict[str, Any]) -> tuple[str, ...]:
    """The arguments that are settings of the method which is asked."""
    name = settings.get("method")
    return () if name is None else tuple(f"{name}.{field}" for field in registry.fields(registry.check_name(name)))


def _check_names(settings: dict[str, Any]) -> None:
    known = (*KNOWN, *NSA_FIELDS, *_own(settings))
    for name in settings:
        if name not in known:
            near = values.unknown(name, known)
            raise SettingsError(f"unknown model argument {name!r}; known: {', '.join(known)}{near}")


def _attention(settings: dict[str, Any]) -> tuple[dict[str, Any], MethodSettings | None]:
    nsa = {name: settings[name] for name in NSA_FIELDS if name in settings}
    own = {name.partition(".")[2]: settings[name] for name in _own(settings) if name in settings}
    return asked_attention(nsa, settings.get("method"), own)


def _sampling(settings: dict[str, Any], checkpoint: Checkpoint, method: MethodSettings | None) -> Sampling:
    frames, fps = settings.get("max_frames"), settings.get("fps")
    tokens = settings.get("tokens_per_frame")
    tokens = checkpoint.tokens_per_frame if tokens is None else tokens
    for name, value in (("max_frames", frames), ("tokens_per_frame", tokens)):
        require(value is None or is_whole(value, 1), name, value, "a whole number of at least 1")
    number = isinstance(fps, int | float) and not isinstance(fps, bool) and 0 < fps < math.inf
    require(fps is None or number, "fps", fps, "a number above 0")
    shares = {} if method is None else method.sampling()
    return Sampling(MAX_FRAMES if frames is None and fps is None else frames, fps, tokens, **shares)


def _check_batch_size(batch_size: int | str | None) -> None:
    text = str(batch_size or 1)
    require(text.split(":")[0] == "auto" or (text.isdigit() and int(text) > 0), "batch_size", batch_size, "1")
    if text not in ("1", "auto"):
        logger.warning(f"batch_size={batch_size}: videonsa answers one question at a time")


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
