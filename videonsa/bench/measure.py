"""Timing on the device: events around each call, a cold-ish cache between calls, percentiles; and peak memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

BUDGET_MS = 600.0  # of repeated calls for one number
FLUSH_BYTES = 256 << 20  # written between calls, so that no call finds its inputs in the L2 cache


@dataclass(frozen=True)
class Timing:
    ms_p20: float
    ms_p50: float
    ms_p80: float
    peak_gib: float


def measure(call: Callable[[], object]) -> Timing:
    """Time a call that has run at least once (compiled). Peak memory counts everything allocated, inputs included."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    call()
    peak = torch.cuda.max_memory_allocated() / 2**30
    repeats = int(min(50, max(3, BUDGET_MS / min(_times(call, 2)))))
    times = torch.tensor(_times(call, repeats))
    low, middle, high = torch.quantile(times, torch.tensor([0.2, 0.5, 0.8])).tolist()
    return Timing(low, middle, high, peak)


def replay(make: Callable[[], Callable[[], object]]) -> Callable[[], object]:
    """The kernels of a call as a CUDA graph: replaying it launches them all at once, without the host's part.

    make: yields the call; what autograd needs of a forward pass must be made by it, on the stream that is captured.
    """
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call = make()
        call()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        call()
    return graph.replay


def _times(call: Callable[[], object], repeats: int) -> list[float]:
    """Milliseconds of each call. The flush also gives the host time to queue the next call's launches."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")
    events = []
    for _ in range(repeats):
        flush.zero_()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        events.append((start, end))
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in events]
