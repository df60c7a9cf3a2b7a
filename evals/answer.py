"""Ask one question: tensors -> the tower's encoding -> greedy answer, with what each took."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from evals.checkpoint import Checkpoint
from evals.measure import first_forward, now, peak_memory
from evals.question import Question
from videonsa.modeling import Meter, MethodDidNotRun, metered

PIXELS = {  # what the tower encodes: by kind, the model's argument and what says how large it is
    "image": ("pixel_values", "image_grid_thw"),
    "video": ("pixel_values_videos", "video_grid_thw"),
}


@dataclass(frozen=True)
class Encoded:
    """What the vision tower made of a question's images and videos, and what it took."""

    outputs: dict[str, Any]  # by kind, as the model takes them
    tower_ms: float  # from inputs in memory to their features
    peak_memory_mib: float  # of a GPU; see evals.measure.peak_memory


@dataclass(frozen=True)
class Answer:
    """What the model said, and what it took: milliseconds of wall clock, MiB."""

    text: str
    tower_ms: float  # from inputs in memory to the features of what is shown
    decoder_ms: float  # from these to the first token's logits
    decode_ms: float  # from there to the last token
    peak_memory_mib: float  # see evals.measure.peak_memory
    spent: dict[str, Any] | None  # what the prefill computed, see videonsa.methods.meter.Meter.report; None: no vision

    @property
    def prefill_ms(self) -> float:
        """From inputs in memory to the first token's logits."""
        return self.tower_ms + self.decoder_ms

    @property
    def latency_ms(self) -> float:
        """From inputs in memory to the last token."""
        return self.prefill_ms + self.decode_ms


@torch.inference_mode()
def encode(checkpoint: Checkpoint, question: Question) -> Encoded:
    """The tower's pass, under the attention that the checkpoint has now; methods that watch the tower alike may share
    it. The first pass of its kind is not measured: kernels are compiled and buffers allocated then."""
    device = checkpoint.device
    kind = ("tower", checkpoint.watches)
    if kind not in checkpoint.warm:
        _encode(checkpoint, question)
        checkpoint.warm.add(kind)
    with _peak_on_gpu(checkpoint, question) as peak:
        start = now(device)
        outputs = _encode(checkpoint, question)
        end = now(device)
    return Encoded(outputs, 1000 * (end - start), peak[0] if peak else 0.0)


@torch.inference_mode()
def answer(checkpoint: Checkpoint, question: Question, max_new_tokens: int, encoded: Encoded | None = None) -> Answer:
    """The greedy answer: the most likely token at each step, up to the checkpoint's end-of-text tokens.

    Under each attention the first question is answered once unmeasured. On a CPU memory is measured by a run of its
    own, tower included, as that slows the run down, once for each length.

    encoded: of what the question shows (`encode`), where others have it too.
    """
    model, device = checkpoint.model, checkpoint.device
    encoded = encoded or encode(checkpoint, question)
    attention = checkpoint.spends
    if attention not in checkpoint.warm:
        _generate(checkpoint, question, encoded.outputs, min(2, max_new_tokens))
        checkpoint.warm.add(attention)
    length = (attention, question.prefill_tokens, question.vision_tokens)
    if device.type == "cpu" and length not in checkpoint.peaks:
        with peak_memory(model, device, question.size) as peak:
            _generate(checkpoint, question, _encode(checkpoint, question), min(2, max_new_tokens))
        checkpoint.peaks[length] = peak[0]
    with _peak_on_gpu(checkpoint, question) as peak, first_forward(model, device) as first, metered(model) as meters:
        start = now(device)
        output = _generate(checkpoint, question, encoded.outputs, max_new_tokens)
        end = now(device)
    text = checkpoint.processor.tokenizer.decode(output[0, question.prefill_tokens :], skip_special_tokens=True)
    memory = max(peak[0], encoded.peak_memory_mib) if peak else checkpoint.peaks[length]
    times = (encoded.tower_ms, 1000 * (first[0] - start), 1000 * (end - first[0]))
    return Answer(text, *times, memory, _spent(meters, question))


def _spent(meters: list[Meter], question: Question) -> dict[str, Any] | None:
    """The report of the one prefill, shares being of the question as its suite samples it, whatever was left out.

    Raises MethodDidNotRun where the method was not asked: that is no answer of it.
    """
    if not meters and question.vision_tokens:
        raise MethodDidNotRun("the attention that was asked for was not used by the model")
    if not meters:
        return None
    report, given = meters[0].report(), question.prefill_tokens
    asked = given + question.left_out
    share = given * (given + 1) / (asked * (asked + 1))
    return report | {name: [round(share * each, 6) for each in report[name]] for name in ("density", "block_means")}


def _peak_on_gpu(checkpoint: Checkpoint, question: Question) -> AbstractContextManager[list[float]]:
    """The peak of a GPU's memory, measured beside the rest; empty on a CPU."""
    if checkpoint.device.type != "cuda":
        return nullcontext([])
    return peak_memory(checkpoint.model, checkpoint.device, question.size)


def _encode(checkpoint: Checkpoint, question: Question) -> dict[str, Any]:
    core, inputs = checkpoint.model.model, question.inputs
    towers: dict[str, Any] = {"image": core.get_image_features, "video": core.get_video_features}
    given = {kind: names for kind, names in PIXELS.items() if inputs.get(names[0]) is not None}
    return {
        kind: towers[kind](*(inputs[name].to(checkpoint.device) for name in names), return_dict=True)
        for kind, names in given.items()
    }


def _generate(checkpoint: Checkpoint, question: Question, outputs: dict[str, Any], max_new_tokens: int) -> Tensor:
    pixels = [name for name, _ in PIXELS.values()]
    inputs = question.on(checkpoint.device, without=pixels)
    with _greedy(checkpoint):
        return checkpoint.model.generate(**inputs, mm_encoder_outputs=dict(outputs), max_new_tokens=max_new_tokens)


@contextmanager
def _greedy(checkpoint: Checkpoint) -> Iterator[None]:
    """Of the checkpoint's generation settings only the end-of-text tokens act: no penalty, no sampling, no ban.

    transformers fills whatever `generate` is not told from the model's own settings, so those are set aside.
    """
    model, tokenizer = checkpoint.model, checkpoint.processor.tokenizer
    own = model.generation_config
    end = tokenizer.eos_token_id if own.eos_token_id is None else own.eos_token_id
    plain = {"do_sample": False, "num_beams": 1, "pad_token_id": tokenizer.pad_token_id}
    model.generation_config = GenerationConfig(eos_token_id=end, **plain)
    try:
        yield
    finally:
        model.generation_config = own
