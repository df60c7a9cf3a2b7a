"""Ask one question: tensors -> greedy answer, with what it took."""

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


@dataclass(frozen=True)
class Answer:
    """What the model said, and what it took: milliseconds of wall clock, MiB."""

    text: str
    latency_ms: float  # from inputs in memory to the last token
    prefill_ms: float  # from inputs in memory to the first token's logits, vision tower included
    peak_memory_mib: float  # see evals.measure.peak_memory
    spent: dict[str, Any] | None  # what the prefill computed, see videonsa.methods.meter.Meter.report; None: no vision


@torch.inference_mode()
def answer(checkpoint: Checkpoint, question: Question, max_new_tokens: int) -> Answer:
    """The greedy answer: the most likely token at each step, up to the checkpoint's end-of-text tokens.

    After a change of attention the first question is answered once unmeasured: kernels are compiled and buffers
    allocated then. On a CPU memory is measured by a run of its own, as that slows the run down, once for each length.
    """
    model, device = checkpoint.model, checkpoint.device
    if not checkpoint.warm:
        _generate(checkpoint, question, min(2, max_new_tokens))
        checkpoint.warm = True
    length = (question.prefill_tokens, question.vision_tokens)
    if device.type == "cpu" and length not in checkpoint.peaks:
        with peak_memory(model, device, question.size) as peak:
            _generate(checkpoint, question, min(2, max_new_tokens))
        checkpoint.peaks[length] = peak[0]
    on_gpu: AbstractContextManager[list[float]] = (
        peak_memory(model, device, question.size) if device.type == "cuda" else nullcontext([])
    )
    with on_gpu as peak, first_forward(model, device) as first, metered(model) as meters:
        start = now(device)
        output = _generate(checkpoint, question, max_new_tokens)
        end = now(device)
    text = checkpoint.processor.tokenizer.decode(output[0, question.prefill_tokens :], skip_special_tokens=True)
    memory = peak[0] if peak else checkpoint.peaks[length]
    return Answer(text, 1000 * (end - start), 1000 * (first[0] - start), memory, _spent(meters, question))


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


def _generate(checkpoint: Checkpoint, question: Question, max_new_tokens: int) -> Tensor:
    with _greedy(checkpoint):
        return checkpoint.model.generate(**question.on(checkpoint.device), max_new_tokens=max_new_tokens)


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
