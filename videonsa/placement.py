"""How a training lies over processes: settings that change no result but by rounding. Imports no torch."""

from __future__ import annotations

import dataclasses
from typing import Any

from videonsa.config import TrainSettings, require

FIELDS = tuple(field.name for field in dataclasses.fields(TrainSettings) if field.metadata.get("no_effect"))


def lanes(settings: TrainSettings, processes: int) -> int:
    """Of so many processes those that see different samples: data parallel; the others have tokens of the same.

    Raises SettingsError where samples or processes cannot be divided so.
    """
    degree = settings.sequence_parallel
    require(processes % degree == 0, "sequence_parallel", degree, f"a divisor of the {processes} processes")
    valid = "false for one process, which shares nothing"
    require(not settings.offload or processes > 1, "offload", settings.offload, valid)
    count = processes // degree
    sizes = settings.frame_batches or (settings.batch_size,)
    for size in sizes:
        _check_size(settings, size, count)
    return count


def _check_size(settings: TrainSettings, size: int, count: int) -> None:
    """Raise SettingsError where the samples of a step cannot be divided among so many lanes."""
    degree = settings.sequence_parallel
    together = read_together(settings)
    part = (min(together, max(1, size // count)) if settings.frame_batches else together) * count
    factors = "processes" if settings.packing else "micro_batch_size x processes"
    valid = f"a multiple of {factors}{' / sequence_parallel' * (degree > 1)} = {part}"
    require(size % part == 0, "frame_batches" if settings.frame_batches else "batch_size", size, valid)


def read_together(settings: TrainSettings) -> int:
    """Samples that a process reads at once; packed, each comes alone."""
    return 1 if settings.packing else settings.micro_batch_size


def placed(settings: TrainSettings, processes: int) -> dict[str, Any]:
    """The placement as a record keeps it: processes, how samples and tokens lie over them, and the settings of it."""
    count = {"processes": processes, "data_parallel": processes // settings.sequence_parallel}
    return count | {name: getattr(settings, name) for name in FIELDS}


def described(settings: TrainSettings, processes: int) -> str:
    """'8 processes (data 4 x sequence 2), sharding full, 8 micro batches of 1 a step, activation checkpointing'."""
    data, size = lanes(settings, processes), settings.micro_batch_size
    row = settings.row_tokens or settings.max_tokens
    count, sizes = settings.batch_size // (size * data), dict.fromkeys(settings.frame_batches or ())
    spread = (
        f"{processes} processes (data {data} x sequence {settings.sequence_parallel}), sharding {settings.sharding}"
    )
    parts = [
        spread if processes > 1 else "1 process",
        "offload" * settings.offload,
        f"{settings.batch_size // data} samples a step, in rows of {row:,} tokens" * settings.packing,
        f"{count} micro batch{'es' * (count > 1)} of {size} a step" * (not settings.packing and not sizes),
        f"steps of {' or '.join(map(str, sizes))} samples, at most {size} at once" * bool(sizes),
        "activation checkpointing" * settings.activation_checkpointing,
        "deterministic" * settings.deterministic,
    ]
    return ", ".join(filter(None, parts))
