"""Starts of trainings whose processes share the weights, against models that are whole in each: see together.py."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tests.training.conftest import quick, save_stock
from videonsa.config import SettingsError, TrainSettings
from videonsa.training import run, sharding
from videonsa.training.learning import choose_weights
from videonsa.training.loop import Trainer
from videonsa.training.sources import SyntheticSource
from videonsa.training.start import start, start_model


def train_from_whole(settings: TrainSettings, folder: Path) -> None:
    """Train where each process reads all weights for itself, before it leaves its part of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "start", start_model)
        patch.setattr(sharding, "deal", lambda unit, device: None)
        run.train(settings, folder, on_progress=lambda done, total: None)


def starts(place: Path, lora: dict[str, Any]) -> dict[str, Any]:
    """Drawn weights, stock ones and such with adapters; and what a start says that is refused, by process."""
    stock = {tied: str(place / f"stock {tied}") for tied in (True, False)}
    if dist.get_rank() == 0:
        for tied, folder in stock.items():
            save_stock(Path(folder), tied)
    dist.barrier()
    cases: dict[str, dict[str, Any]] = {
        "drawn": {},
        "tied": {"model": stock[True], "gate_start": (0.1, 0.9, 0.5)},
        "untied": {"model": stock[False], "offload": True, **lora},
    }
    found: dict[str, Any] = {name: compare(quick(sharding="full", **changes)) for name, changes in cases.items()}
    with pytest.raises(SettingsError) as refusal:
        start(quick(sharding="full", model=str(place / "nowhere")))
    return {**found, "refused": by_rank(str(refusal.value))}


def compare(settings: TrainSettings) -> dict[str, Any]:
    """What is unlike; bytes of all weights, without adapters; and by rank the bytes held after the start, and those
    that, as a unit is about to be shared out, are held beside it and the parts of the units before."""
    parts, beside = 0, [0]
    fully_shard = sharding.fully_shard

    def watched(module: nn.Module, **options: Any) -> None:
        nonlocal parts
        unit = sum(weight.nbytes for weight in module.parameters() if not isinstance(weight, DTensor))
        beside.append(held() - parts - unit)
        parts += unit // dist.get_world_size()
        fully_shard(module, **options)

    with pytest.MonkeyPatch.context() as patch, counting_begins():
        patch.setattr(sharding, "fully_shard", watched)
        model, processor, gates = start(settings)
        started = held()
        model = Trainer(settings, model, processor, SyntheticSource(settings)).model
    whole, _, expected = start_model(settings)
    size = sum(weight.nbytes for weight in whole.parameters())
    choose_weights(whole, settings)
    return {
        "unlike": by_rank(unlike(model, whole) + ["gates"] * (gates != expected)),
        "whole": size,
        "started": by_rank(started),
        "beside": by_rank(max(beside)),
    }


@contextmanager
def counting_begins() -> Iterator[None]:
    """What there is already does not count in `held`, and is not looked through."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def held() -> int:
    """Bytes of all tensors in this process's memory, weights or not; the least of a few looks, as a message between
    processes is let go a moment after it was sent, by the thread that sent it."""
    looks = []
    for _ in range(4):
        looks.append(look())
        time.sleep(0.02)
    return min(looks)


def look() -> int:
    """Bytes of all tensors just now."""
    gc.collect()
    kinds = ((each, type(each)) for each in gc.get_objects())
    tensors = [each for each, kind in kinds if issubclass(kind, Tensor) and not issubclass(kind, DTensor)]
    storages = [each.untyped_storage() for each in tensors if not each.is_meta]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def unlike(model: nn.Module, whole: nn.Module) -> list[str]:
    """Names of weights, put together, and of buffers that differ in anything; a tied one has several."""
    ours, theirs = (
        {**dict(each.named_parameters(remove_duplicate=False)), **dict(each.named_buffers())} for each in (model, whole)
    )
    counts = [len(list(each.parameters())) for each in (model, whole)]
    names = [
        name for name in {**ours, **theirs} if not (name in ours and name in theirs and same(ours[name], theirs[name]))
    ]
    return names + ["ties"] * (counts[0] != counts[1])


def same(ours: Tensor, theirs: Tensor) -> bool:
    full = ours.full_tensor() if isinstance(ours, DTensor) else ours
    kinds = [(each.dtype, each.requires_grad) for each in (ours, theirs)]
    return kinds[0] == kinds[1] and torch.equal(full, theirs)


def by_rank(each: Any) -> list[Any]:
    found = [None] * dist.get_world_size()
    dist.all_gather_object(found, each)
    return found
