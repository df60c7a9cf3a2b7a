"""Ask one question: tensors -> greedy answer, with what it took."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from evals.checkpoint import Checkpoint
from evals.question import Question


@dataclass(frozen=True)
class Answer:
    """What the model said, and what it took: milliseconds of wall clock, MiB."""

    text: str
    latency_ms: float  # from inputs in memory to the last token
    prefill_ms: float  # from inputs in memory to the first token's logits, vision tower included
    peak_memory_mib: (
        float  # GPU: allocated by torch while answering; CPU: resident in the process, less the kept questions
    )


@torch.inference_mode()
def answer(checkpoint: Checkpoint, question: Question, max_new_tokens: int) -> Answer:
    """The greedy answer, one beam; stops at the checkpoint's end-of-text tokens."""
    model, tokenizer = checkpoint.model, checkpoint.processor.tokenizer
    inputs = question.on(model.device)
    with _memory(model.device, checkpoint.questions.bytes) as peak, _first_forward(model) as first:
        start = _now(model.device)
        output = model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            eos_token_id=model.generation_config.eos_token_id or tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        end = _now(model.device)
    text = tokenizer.decode(output[0, question.prefill_tokens :], skip_special_tokens=True)
    return Answer(text, 1000 * (end - start), 1000 * (first[0] - start), peak[0])


@contextmanager
def _first_forward(model: torch.nn.Module) -> Iterator[list[float]]:
    """The moment at which the first forward of the context ended; seconds."""
    ends: list[float] = []

    def note(*_: Any) -> None:
        if not ends:
            ends.append(_now(model.device))  # type: ignore[arg-type]

    handle = model.register_forward_hook(note)
    try:
        yield ends
    finally:
        handle.remove()


@contextmanager
def _memory(device: torch.device, kept: int) -> Iterator[list[float]]:
    """The peak of memory while the context lasts, less `kept` bytes of the CPU's: a number in the list when it ends."""
    peak: list[float] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak.append(torch.cuda.max_memory_allocated(device) / 2**20)
    else:
        _reset_resident_peak()
        yield peak
        peak.append((_resident_peak() - kept) / 2**20)


def _reset_resident_peak() -> None:
    """Start the process's peak of resident memory anew (Linux; elsewhere the peak is that of the process's life)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _resident_peak() -> float:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
