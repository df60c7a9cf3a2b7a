"""Milliseconds of each branch in a model's own layers, on its own queries and keys (paper, figure 6).

Each part of evals/branches.py for itself: a branch with all that it needs (selection with the choice of its blocks),
the gated sum in one call, and dense causal attention. Each is called once before it is timed, so that no compilation
and no table of a new length counts, then REPEATS times: the median; on a GPU by its events, else by the clock.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from evals.branches import attend, parts
from evals.observers.contract import Observer, SeenLayer, SeenVideo
from videonsa.config import NSASettings
from videonsa.methods.meter import Clock

REPEATS = 3


class Latency(Observer):
    """Keeps a number for each video, layer and part; looking takes 1 + REPEATS forwards of each part."""

    def __init__(self, nsa: NSASettings) -> None:
        super().__init__(nsa)
        self.times: dict[int, dict[str, list[float]]] = {}
        self.tokens: list[int] = []
        self.device = ""

    def look(self, layer: SeenLayer, video: SeenVideo) -> None:
        """Time the parts one after the other."""
        inputs, device = layer.inputs, layer.inputs.query.device
        self.device = device_name(device)
        self.tokens += [inputs.query.shape[1]] if layer.number == 0 else []
        here = self.times.setdefault(layer.number, {})
        for part in parts(layer.nsa):
            spent = milliseconds(lambda part=part: attend(inputs, layer.nsa, part), device)  # type: ignore[misc]
            here.setdefault(part, []).append(spent)

    def by_layer(self) -> dict[int, dict[str, dict[str, Any]]]:
        """{part: {ms, videos}}: the median over videos."""
        return {
            number: {part: {"ms": round(median(times), 4), "videos": len(times)} for part, times in here.items()}
            for number, here in self.times.items()
        }

    def whole(self) -> dict[str, Any]:
        """latency_of: the device, and the vision tokens of the videos, median."""
        return {"latency_of": {"device": self.device, "tokens": median(self.tokens) if self.tokens else None}}


def milliseconds(call: Callable[[], object], device: torch.device) -> float:
    """The median of REPEATS calls, after one that does not count."""
    call()
    clocks = [Clock(device) for _ in range(REPEATS)]
    for clock in clocks:
        with clock.running():
            call()
    return median(clock.milliseconds for clock in clocks)


def device_name(device: torch.device) -> str:
    """'NVIDIA H100 80GB HBM3', or the processor with the threads that torch takes."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{platform.processor() or platform.machine()}, {threads} thread{'s' * (threads != 1)}"
