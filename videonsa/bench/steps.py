"""A process of `python -m videonsa.bench.training`: the product's Trainer on random videos, and what its steps took.

    torchrun --nproc-per-node N -m videonsa.bench.steps PLAN.json FOLDER

One training has all lengths, one stage each, shortest first. Each process writes FOLDER/RANK.jsonl, a line a length as
it is done: seconds of the steps after the first, which compiles; the peak of memory; losses; and the attention of one
layer by itself, which is measured before the model is there. What ends a training is the last line.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from transformers import Qwen2_5_VLProcessor

from videonsa.bench import shapes
from videonsa.bench.count import Sample
from videonsa.bench.measure import measure
from videonsa.bench.providers import FASTEST
from videonsa.config import NSASettings, TrainSettings
from videonsa.methods.contract import make_batch
from videonsa.methods.layout import token_layout
from videonsa.methods.mixed import mixed_attention
from videonsa.modeling.exchange import ways
from videonsa.surroundings import equal_bits, full_products, settings_decide
from videonsa.tiny import build_processor
from videonsa.training.batch import IGNORED, encode
from videonsa.training.journal import Teller
from videonsa.training.loop import Trainer
from videonsa.training.sources import Conversation, SyntheticSource
from videonsa.video import TEMPORAL_PATCH, Video

TOKEN = 28  # px of a vision token's side
SIDE = {"tiny": 2, "3b": 8, "7b": 8}  # vision tokens of a frame's side: 64 a temporal patch, the paper's
FPS = 4.0
TURNS = (("user", "What happens in this video? Describe it in detail."), ("assistant", "a ring is red " * 10))
RATE = 1e-6  # learning rate: random weights stay finite


@dataclass(frozen=True)
class Plan:
    """One training to measure."""

    model: str  # of shapes.NAMES
    attention: str  # nsa, dense
    tokens: tuple[int, ...]  # of the videos, ascending
    data_parallel: int = 1
    sequence_parallel: int = 1
    repeats: int = 2  # steps of each length that count
    layers: int | None = None  # fewer than the shape's, for a try
    vision_layers: int | None = None
    deterministic: bool = False
    samples: int | None = None  # of a step; None: one for each GPU that sees others
    times_attention: bool = True
    training: str | None = None  # folder of its checkpoints, from which it goes on; None: it has none
    save_every: int = 10**9
    stop_after: int | None = None  # steps
    uneven: bool = False  # each step has samples of all lengths, in turn; else a step's samples have one
    micro_batch_size: int = 1
    row_tokens: int | None = None  # of a packed row; None: samples are not packed

    @property
    def gpus(self) -> int:
        return self.data_parallel * self.sequence_parallel

    @property
    def batch(self) -> int:
        return self.samples or self.data_parallel

    @property
    def stages(self) -> int:
        """Kinds of steps."""
        return 1 if self.uneven else len(self.tokens)

    def tokens_of(self, index: int) -> int:
        """Of a sample's video."""
        stage = index // self.batch // (1 + self.repeats)
        return self.tokens[index % len(self.tokens) if self.uneven else min(stage, self.stages - 1)]

    @property
    def nsa(self) -> NSASettings:
        chosen = shapes.TINY if self.model == "tiny" else NSASettings()
        return NSASettings(chosen.block_size, chosen.block_count, chosen.window, attention=self.attention)

    @property
    def settings(self) -> TrainSettings:
        """The recipe's, on random weights, placed over the GPUs."""
        return TrainSettings(
            model="tiny",  # a name; the model is given
            nsa=self.nsa,
            steps=self.stages * (1 + self.repeats),
            pixels_per_frame=(SIDE[self.model] * TOKEN) ** 2,
            batch_size=self.batch,
            micro_batch_size=self.micro_batch_size,
            packing=self.row_tokens is not None,
            row_tokens=self.row_tokens,
            learning_rate=RATE,
            sharding="full" if self.gpus > 1 else "none",
            sequence_parallel=self.sequence_parallel,
            save_every=self.save_every,
            deterministic=self.deterministic,
        )

    def sample(self, tokens: int, processor: Qwen2_5_VLProcessor) -> Sample:
        """The sizes of a sample of so many tokens of video."""
        side = SIDE[self.model]
        shown = encode(processor, [conversation(TEMPORAL_PATCH, side, 0)], self.settings.pixels_per_frame)
        text = shown["input_ids"].shape[1] - side**2
        answers = int((shown["labels"][:, 1:] != IGNORED).sum())
        return Sample(text, answers, tokens // side**2, 2 * side, 2 * side)


def conversation(frames: int, side: int, index: int) -> Conversation:
    """Random frames as the reader gives them, and a question."""
    size = (frames, side * TOKEN, side * TOKEN, 3)
    pixels = np.random.default_rng(index).integers(0, 256, size, np.uint8)
    return Conversation(TURNS, Video.of(pixels, FPS))


class RandomVideos(SyntheticSource):
    """Samples of the plan's lengths, as many steps of each, shortest first; of an uneven one all lengths in turn."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan.settings)
        self.plan = plan

    def __getitem__(self, index: int) -> Conversation:
        side = SIDE[self.plan.model]
        return conversation(TEMPORAL_PATCH * (self.plan.tokens_of(index) // side**2), side, index)


class Lines:
    """A process's file, a line at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, line: dict[str, Any]) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


class Stopped(Exception):
    """Stands for a kill."""


class Stages(Teller):
    """Is told of each step, with its metrics; at the last step of a length it writes that length's line."""

    def __init__(self, plan: Plan, lines: Lines, attention: Sequence[dict[str, float]]) -> None:
        self.plan, self.lines, self.attention = plan, lines, attention
        self.steps: list[Mapping[str, Any]] = []

    def step(self, line: Mapping[str, Any], total: int) -> None:
        self.steps.append(line)
        stage, place = divmod(line["step"] - 1, 1 + self.plan.repeats)
        if place == self.plan.repeats:
            self._end(stage)
        elif line["step"] - 1 == self.plan.stop_after:  # the step before was saved
            self._end(stage)
            raise Stopped
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()  # each step's peak is its own

    def _end(self, stage: int) -> None:
        first, *later = self.steps
        of = later or [first]
        line = {"first_s": first["step_s"]}
        line |= {name: [step[name] for step in of] for name in ("step_s", "data_s")}
        line |= {"peak_gib": max(step["peak_gib"] for step in of), "losses": [step["loss"] for step in self.steps]}
        self.lines.add({**line, **(self.attention[stage] if self.attention else {})})
        self.steps = []


def attention_times(plan: Plan, sample: Sample, device: torch.device) -> dict[str, float]:
    """Seconds of one layer's attention of a sample, forward and backward: of this process's heads, and its share of
    them where a head's queries lie over several processes."""
    query_heads, kv_heads, size = shapes.heads(plan.model)
    groups, parts = ways(plan.sequence_parallel, kv_heads)
    kind: dict[str, Any] = {"device": device, "dtype": torch.bfloat16, "requires_grad": True}
    query = torch.randn(1, sample.tokens, query_heads // groups, size, **kind)
    key, value = (torch.randn(1, sample.tokens, kv_heads // groups, size, **kind) for _ in range(2))
    tensors = [query, key, value]
    call: Callable[[], Tensor]
    if plan.attention == "dense":
        call = partial(_dense, *tensors)
    else:
        is_vision = torch.zeros(1, sample.tokens, dtype=torch.bool, device=device)
        is_vision[:, sample.text // 2 : sample.text // 2 + sample.vision] = True
        layout = token_layout(make_batch(is_vision), plan.nsa, None)
        gates = torch.rand(1, sample.vision, query.shape[2], 3, **kind)
        tensors.append(gates)
        call = partial(mixed_attention, query, key, value, gates, layout, size**-0.5)
    with torch.no_grad():
        forward = seconds(call)
    output = call()
    grad = torch.randn_like(output)
    backward = seconds(partial(torch.autograd.grad, output, tensors, grad, retain_graph=True))
    return {"attention_forward_s": forward / parts, "attention_backward_s": backward / parts}


def _dense(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    return scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)


def seconds(call: Callable[[], object]) -> float:
    """Median of a call that has compiled."""
    call()
    if torch.cuda.is_available():
        return measure(call).ms_p50 / 1e3
    times = []
    for _ in range(3):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def run(plan: Plan, lines: Lines, folder: Path, device: torch.device) -> None:
    """Measure the plan's attention, then its training."""
    with sdpa_kernel(FASTEST, set_priority=True):
        processor, attention = build_processor(), []
        for tokens in plan.tokens if plan.times_attention else ():
            attention.append(attention_times(plan, plan.sample(tokens, processor), device))
            _free()
        model, processor = shapes.build(plan.model, plan.nsa, torch.float32, device, plan.layers, plan.vision_layers)
        trainer = Trainer(plan.settings, model, processor, RandomVideos(plan))
        del model
        _free()
        if plan.training is not None:
            folder = Path(plan.training)
            trainer.resume(folder)
        trainer.teller = Stages(plan, lines, attention)
        trainer.run(folder)


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main(arguments: list[str]) -> int:
    """0 when all lengths were measured; else the last line says what ended it."""
    asked = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    plan = Plan(**{**asked, "tokens": tuple(asked["tokens"])})
    rank, folder = int(os.environ.get("RANK", 0)), Path(arguments[1])
    lines, cuda = Lines(folder / f"{rank}.jsonl"), torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    try:
        with settings_decide(), full_products(), equal_bits(plan.deterministic):
            run(plan, lines, folder, device)
    except Stopped:
        return 0
    except torch.OutOfMemoryError:
        lines.add({"failed": "out of memory"})
        return 3
    except Exception as error:
        lines.add({"failed": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]})
        raise
    return 0


if __name__ == "__main__":
    from videonsa.bootstrap import settle

    settle()
    sys.exit(main(sys.argv[1:]))
