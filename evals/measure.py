"""Time and memory of one piece of work, on a GPU or a CPU."""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

MIB = 2**20


def now(device: torch.device) -> float:
    """Seconds, after all work that was given to the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def weight_bytes(model: torch.nn.Module) -> int:
    """Bytes of all weights as they lie in memory: packed ones are buffers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))


@contextmanager
def first_forward(model: torch.nn.Module, device: torch.device) -> Iterator[list[float]]:
    """The moment at which the model's first forward in the context ended, seconds: one number in the list."""
    ends: list[float] = []

    def note(*_: Any) -> None:
        if not ends:
            ends.append(now(device))

    handle = model.register_forward_hook(note)
    try:
        yield ends
    finally:
        handle.remove()


@contextmanager
def peak_memory(model: torch.nn.Module, device: torch.device, inputs: int) -> Iterator[list[float]]:
    """The peak of memory while the context lasts, MiB: one number in the list when it ends.

    GPU: what torch has allocated, weights included. CPU: the weights, `inputs` bytes, and by how much the process grew;
    whatever else lies in the process would drown them. Free memory is given back to the system first, so that using it
    again counts.
    """
    peak: list[float] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak.append(torch.cuda.max_memory_allocated(device) / MIB)
        return
    weights = weight_bytes(model)
    _give_back()
    before = _resident("VmRSS:")
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew; Linux
    yield peak
    peak.append((weights + inputs + max(0.0, _resident("VmHWM:") - before)) / MIB)


def _give_back() -> None:
    with contextlib.suppress(AttributeError, OSError):  # glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def _resident(field: str) -> float:
    """Bytes of resident memory, now (VmRSS:) or at the peak (VmHWM:); 0 where the system does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return float(line.split()[1]) * 1024
    return 0.0
