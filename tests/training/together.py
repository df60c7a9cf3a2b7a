"""Trainings for one process or several, whose gradients must be equal: `python -m tests.training.together FOLDER`.

Two processes run all of them, four that of a model with four key/value heads, each of which a process has.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from tests.training.conftest import NSA, quick
from tests.training.dealt import by_rank, starts, train_from_whole
from tests.training.laid_over import compare, counted, in_parts
from videonsa.config import TrainSettings
from videonsa.small import SMALL
from videonsa.tiny import build_tiny
from videonsa.training.batch import answer_loss
from videonsa.training.loop import Diverged, Trainer
from videonsa.training.run import train
from videonsa.training.skipped import FILE, Skipped
from videonsa.training.sources import Conversation, EvenSteps, SyntheticSource
from videonsa.training.watch import Left

# A step a word, V a sample with a video, T one of text alone. Two processes take a step's samples in turn:
# 1 the second sees no video; 2 each sees one in another micro-batch; 3 nobody does; 4 only the first micro-batches do.
STEPS = ("VTVT", "VTTV", "TTTT", "VVTT")
LORA = {"lora_rank": 2, "freeze": "tower"}
GATE = "model.language_model.layers.0.self_attn.g_proj_2.weight"
# Two texts make a row, two videos do not: of the first step the first process has a row more than the second.
PACKED = {"packing": True, "max_tokens": 60}


class Mixed(EvenSteps):
    """Samples with and without a video."""

    readers, steps, samples, batch_size = 1, len(STEPS), 4 * len(STEPS), 4

    def __init__(self) -> None:
        self.shown = SyntheticSource(quick())

    def take_skipped(self, indices: Iterable[int]) -> list[Skipped]:
        """An entry a step, in whichever process its second sample is."""
        return [Skipped(index // 4 + 1, f"s{index}", "it is lost") for index in indices if index % 4 == 1]

    def __getitem__(self, index: int) -> Conversation:
        sample = self.shown[index]
        return sample if "".join(STEPS)[index] == "V" else Conversation((("user", "how many"), sample.turns[1]))

    def name(self, index: int) -> str:
        return self.shown.name(index)


def whole(tensor: Tensor | None) -> Tensor | None:
    """A copy, put together where processes hold parts."""
    if isinstance(tensor, DTensor):
        tensor = tensor.full_tensor()
    return None if tensor is None else tensor.clone()


def gradients(folder: Path, **changes: Any) -> dict[str, Any]:
    """Each step's gradients as the optimizer sees them, the weights after the last step, and the mean gates."""
    settings = quick(batch_size=4, micro_batch_size=1, steps=len(STEPS), max_skipped=0.25, **changes)
    model, processor = build_tiny(settings.nsa, settings.seed)
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(settings, model, processor, Mixed())
    steps: list[dict[str, Tensor | None]] = []

    def note(*_: Any) -> None:
        steps.append({name: whole(weight.grad) for name, weight in model.named_parameters()})

    pixels: list[tuple[int, int, int]] = []  # of each forward: patches given, in memory, of the whole row

    def see(_: Any, given: Any, inputs: dict[str, Any]) -> None:
        if (shown := inputs.get("pixel_values_videos")) is not None:
            kept = shown.untyped_storage().nbytes() // shown[0].nbytes
            pixels.append((len(shown), kept, int(inputs["video_grid_thw"].prod(-1).sum())))

    trainer.optimizer.register_step_pre_hook(note)
    handle = model.register_forward_pre_hook(see, with_kwargs=True)
    with counted() as calls:
        trainer.run(folder)
    handle.remove()
    weights = {name: whole(weight.detach()) for name, weight in model.named_parameters()}
    found = {"steps": steps, "weights": weights, "gates": trainer.mean_gates(), "main": trainer.rank == 0}
    if trainer.world > 1:
        found["by rank"] = [None] * trainer.world
        dist.all_gather_object(found["by rank"], [step.get(GATE) for step in steps])
        found["pixels"] = by_rank(pixels)
    return {**found, "calls": dict(calls), "skipped": (folder / FILE).read_text() if trainer.rank == 0 else ""}


class Stopped(Exception):
    """Stands for a kill."""


def stop_at(step: int) -> Callable[[int, int], None]:
    def on_progress(done: int, total: int) -> None:
        if done == step:
            raise Stopped

    return on_progress


def told_at(step: int) -> Callable[[int, int], None]:
    """SIGTERM to the second process alone."""

    def on_progress(done: int, total: int) -> None:
        if done == step and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)

    return on_progress


def end_of(folder: Path, on_progress: Callable[[int, int], None], **changes: Any) -> None:
    """Train until something ends it; a line of each process tells what."""
    with pytest.raises((Left, Diverged)) as end:
        train(quick(save_every=100, **changes), folder, on_progress)
    (folder / f"end {os.environ['RANK']}").write_text(f"{end.type.__name__}: {end.value}")


def spoilt_after(calls: int) -> Callable[..., Tensor]:
    """The loss, which is no number in the second process after so many calls."""
    count = iter(range(1000))
    return lambda model, batch: (
        answer_loss(model, batch) * (math.nan if next(count) >= calls and os.environ["RANK"] == "1" else 1.0)
    )


def all_cases(folder: Path, **changes: Any) -> dict[str, dict[str, Any]]:
    """What is compared."""
    return {
        "nsa": gradients(folder / "nsa", activation_checkpointing=True, **changes),
        "dense": gradients(folder / "dense", nsa=dataclasses.replace(NSA, attention="dense")),
    }


def four_heads(folder: Path, **changes: Any) -> dict[str, Any]:
    """Of a model with four key/value heads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SMALL, "tiny", dataclasses.replace(SMALL["tiny"], kv_heads=4))
        return gradients(folder, **changes)


FULL, OVER = {"sharding": "full"}, {"sequence_parallel": 2}
# Placements of two processes: under which a run is stopped, and under which it goes on.
MOVES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "each has all": ({}, {}),
    "shared": (FULL, FULL),
    "offloaded": ({**FULL, "offload": True}, {**FULL, "offload": True}),
    "all to shared": ({}, FULL),
    "shared to all, other batches": (FULL, {"micro_batch_size": 1, "keep_checkpoints": 2, "save_every": 1}),
    "two samples to one over both": (FULL, {**FULL, **OVER}),
    "one over both to two": (OVER, {**FULL, "offload": True}),
}


def moved(place: Path) -> None:
    """Runs that are stopped after a checkpoint and go on elsewhere; and what is computed in which precision."""
    for name, (first, then) in MOVES.items():
        with contextlib.suppress(Stopped):
            train(quick(**first), place / name, on_progress=stop_at(3))
        train(quick(**then), place / name, on_progress=lambda done, total: None)
        if first == then:
            train(quick(**then), place / f"{name}, calm", on_progress=lambda done, total: None)
    train(quick(precision="bf16", **FULL), place / "bf16", on_progress=lambda done, total: None)
    found = {**precisions(quick(precision="bf16", **FULL)), "lora": gradients(place / "lora", **LORA)}
    if found["main"]:
        torch.save(found, place / "found.pt")


def precisions(settings: TrainSettings) -> dict[str, Any]:
    """The types of weights and gradients that the optimizer sees, of its numbers, and of a weight while it is used."""
    model, processor = build_tiny(settings.nsa, settings.seed)
    trainer = Trainer(settings, model, processor, SyntheticSource(settings))
    seen: dict[str, set[torch.dtype]] = {"weights": set(), "gradients": set(), "adamw": set(), "used": set()}
    layer = model.model.language_model.layers[0].self_attn.q_proj
    layer.register_forward_pre_hook(lambda module, _: seen["used"].add(module.weight.dtype))

    def note(*_: Any) -> None:
        weights = list(model.parameters())
        seen["weights"] |= {weight.dtype for weight in weights}
        seen["gradients"] |= {weight.grad.dtype for weight in weights if weight.grad is not None}

    trainer.optimizer.register_step_pre_hook(note)
    trainer._step(0, trainer._prefetch(trainer._numbers(0, 1)))
    seen["adamw"] = {number.dtype for state in trainer.optimizer.state.values() for number in state.values()}
    return {**seen, "main": trainer.rank == 0}


def main(place: Path) -> None:
    if sys.argv[2:] == ["moved"]:
        moved(place)
        return
    if int(os.environ["WORLD_SIZE"]) == 4:
        found = {"four": four_heads(place / "four", sequence_parallel=4)}
        found["two"] = gradients(place / "two", sequence_parallel=4, sharding="full")
        for kv_heads in (4, 2, 1):
            for dense in (False, True):
                found[kv_heads, dense] = compare(kv_heads, dense)
        if found["four"]["main"]:
            torch.save(found, place / "found.pt")
        return
    train(quick(), place / "run", on_progress=lambda done, total: None)
    found = all_cases(place, **PACKED)
    full = {"sharding": "full"}
    found["nsa sharded"] = gradients(place / "nsa sharded", activation_checkpointing=True, **PACKED, **full)
    over = {"sequence_parallel": 2}
    found["nsa over"] = gradients(place / "nsa over", activation_checkpointing=True, **over)
    found["dense over"] = gradients(
        place / "dense over", nsa=dataclasses.replace(NSA, attention="dense"), **over, **full, **PACKED
    )
    found["lora sharded"] = gradients(place / "lora sharded", activation_checkpointing=True, **LORA, **over, **full)
    with in_parts():
        settings = {**over, **full, **PACKED, "activation_checkpointing": True}
        found["nsa in parts"] = gradients(place / "nsa in parts", **settings)
        found["parts"] = compare(2, dense=False, names=("uneven", "image"))
    found["heads"] = compare(2, dense=False, names=("image",))
    train(quick(**full), place / "run sharded", on_progress=lambda done, total: None)
    train_from_whole(quick(**full), place / "run from whole")
    found["starts"] = starts(place, LORA)
    with contextlib.suppress(Stopped):
        train(quick(**full, offload=True), place / "stopped", on_progress=stop_at(3))
    end_of(place / "left", told_at(2), **full)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("videonsa.training.loop.answer_loss", spoilt_after(2))
        end_of(place / "diverged", lambda done, total: None)
    if found["nsa"]["main"]:
        torch.save(found, place / "found.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
