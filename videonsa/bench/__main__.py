"""Time attention kernels and write one CSV row per provider, stage, mode and shape.

    python -m videonsa.bench --lengths 8192 32768 --providers triton sdpa_cudnn --mode both --out bench.csv

A provider whose check fails on a shape gets no row for it, and the command exits with status 1. Rows are appended to an
existing file with the same columns and of the same GPU. A stage is what the backend's own steps of that name take in
turn; on short sequences one step does the work of several, and goes by the name of slc. Timing `graph`: all kernels of
a call replayed as one CUDA graph, without the host's part; `eager`: as Python calls them. Needs a CUDA device.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from videonsa.bench import case as cases
from videonsa.bench import command, providers, public
from videonsa.bench.case import Case, Inputs
from videonsa.bench.check import CheckFailed, check
from videonsa.bench.measure import measure, replay

NAME = "videonsa.bench"
COLUMNS = (
    "provider", "semantics", "stage", "mode", "timing", "length", "heads", "kv_heads", "head_dim", "block_size",
    "block_count", "window", "dtype", "data", "ms_p20", "ms_p50", "ms_p80", "peak_gib", "tflops", "gpu", "torch",
    "triton", "commit",
)  # fmt: skip

TIMINGS = ("eager", "graph")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = command.parser(NAME, __doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192, 32768, 65536, 131072])
    parser.add_argument("--providers", nargs="+", choices=providers.PROVIDERS, default=["triton", "sdpa_cudnn"])
    parser.add_argument("--stages", nargs="+", choices=providers.STAGES, default=["all"])
    parser.add_argument("--mode", choices=("fwd", "bwd", "both"), default="both")
    parser.add_argument("--timing", nargs="+", choices=TIMINGS, default=["eager"])
    parser.add_argument("--data", nargs="+", choices=cases.DATA, default=["random"])
    parser.add_argument("--heads", type=int, default=28)
    parser.add_argument("--kv-heads", type=int, default=4)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--block-size", type=int, default=64)
    parser.add_argument("--block-count", type=int, default=32)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--dtype", choices=tuple(cases.DTYPES), default="bfloat16")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    for provider in options.providers:
        if refused := public.refusal(provider):
            print(refused, file=sys.stderr)
            return 2
    table = command.opened(NAME, COLUMNS, options)
    if table is None:
        return 2
    modes = ("fwd", "bwd") if options.mode == "both" else (options.mode,)
    failures = 0
    for case in listed_cases(options):
        inputs = cases.make_inputs(case, torch.device("cuda"))
        for provider in options.providers:
            try:
                timed = list(time_provider(provider, inputs, case, options.stages, modes, options.timing))
            except (CheckFailed, torch.OutOfMemoryError) as error:
                failures += 1
                print(f"no row: {provider} at {case.length}: {error}", file=sys.stderr)
                continue
            for row in timed:
                print(line(row), flush=True)
            table.add(*timed)
        del inputs
        torch.cuda.empty_cache()
    return 1 if failures else 0


def listed_cases(options: argparse.Namespace) -> Iterator[Case]:
    for data in options.data:
        for length in options.lengths:
            yield Case(
                length, options.heads, options.kv_heads, options.head_dim, options.block_size, options.block_count,
                options.window, options.dtype, data,
            )  # fmt: skip


def time_provider(
    provider: str, inputs: Inputs, case: Case, stages: list[str], modes: tuple[str, ...], timings: Sequence[str]
) -> Iterator[dict[str, object]]:
    """Check first, then time: rows without the software's columns."""
    attention = providers.attention(provider, case)
    check(provider, providers.checked(provider, case), inputs, case, dense=providers.is_dense(provider))
    tensors = inputs[:4]
    wanted = list(tensors[:3] if providers.is_dense(provider) else tensors)

    def forward() -> Callable[[], object]:
        return lambda: attention(*tensors)

    def backward() -> Callable[[], object]:
        out = attention(*tensors)
        return lambda: torch.autograd.grad(out, wanted, inputs.grad, retain_graph=True)

    for timing, (mode, make) in itertools.product(timings, {"fwd": forward, "bwd": backward}.items()):
        if "all" in stages and mode in modes:
            yield _row(provider, "all", mode, timing, case, make)
    if provider == "triton" and set(stages) - {"all"}:
        with providers.stages(inputs, case) as calls:
            for timing, ((stage, mode), call) in itertools.product(timings, calls.items()):
                if stage in stages and mode in modes:
                    yield _row(provider, stage, mode, timing, case, partial(_itself, call))


def _itself(call: Callable[[], object]) -> Callable[[], object]:
    return call


def _row(
    provider: str, stage: str, mode: str, timing: str, case: Case, make: Callable[[], Callable[[], object]]
) -> dict[str, object]:
    call = replay(make) if timing == "graph" else make()
    call()
    measured = measure(call)
    counted = "dense" if providers.is_dense(provider) else stage
    rate = cases.flops(case, counted, mode) / measured.ms_p50 / 1e9
    numbers = {name: round(value, 4) for name, value in dataclasses.asdict(measured).items()}
    named = {
        "provider": provider, "semantics": providers.semantics(provider), "stage": stage, "mode": mode,
        "timing": timing,
    }  # fmt: skip
    return {**named, **dataclasses.asdict(case), **numbers, "tflops": round(rate, 1)}


def line(row: dict[str, object]) -> str:
    """A row for people."""
    return (
        f"{row['provider']:>11} {row['stage']:>7} {row['mode']} {row['timing']:>5} {row['length']:>7}"
        f" {row['data']:>6} {row['ms_p50']:>9.3f} ms {row['tflops']:>6.1f} TFLOP/s {row['peak_gib']:>6.2f} GiB"
    )


if __name__ == "__main__":
    from videonsa.bootstrap import settle

    settle()
    sys.exit(main())
