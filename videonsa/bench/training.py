"""Time training steps at full size: sparse and dense attention, random weights and videos, on one GPU or several.

    python -m videonsa.bench.training --model 7b --sequence-parallel 2 --out benchmarks/training.csv

Each model and attention is one training by the product's own Trainer, in bfloat16 over float32 weights, which all GPUs
share, with activation checkpointing, tower and decoder trained; it has a few steps of each length, and starts processes
of its own (videonsa/bench/steps.py). tokens: of a sample's video. step_s is the median of the steps after a length's
first, of which data_s they waited for samples: frames are random, the processor is the real one. mfu: operations of
three forward passes (videonsa/bench/count.py) over 989 TFLOP/s a GPU. bound_step_s: the products, what is computed
again included, at 650 TFLOP/s, and attention_s, the attention of all layers as it is measured by itself in the same
run; no communication.
A length that does not fit has a row that says so, and those after it too, with the memory that is counted for them.

--count prints operations and memory without a GPU.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from videonsa.bench import command, shapes
from videonsa.bench.children import end, environment
from videonsa.bench.count import Sample, bound_seconds, memory, mfu, work
from videonsa.bench.steps import SIDE, Plan
from videonsa.options import positive
from videonsa.process import interrupted_when_told_to_end
from videonsa.tiny import build_processor

NAME = "videonsa.bench.training"
COLUMNS = (
    *("gpu", "gpus", "model", "attention", "tokens", "data_parallel", "sequence_parallel", "tokens_per_s", "mfu"),
    *("peak_gib", "step_s", "data_s", "first_s", "attention_s", "bound_step_s", "bound_tokens_per_s", "forward_tflop"),
    *("counted_gib", "status", "steps", "layers", "sharding", "tower", "deterministic", "loss", "torch", "triton"),
    *("transformers", "commit"),
)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = command.parser(NAME, __doc__)
    parser.add_argument("--model", nargs="+", choices=shapes.NAMES, default=["3b"])
    parser.add_argument("--attention", nargs="+", choices=("nsa", "dense"), default=["nsa", "dense"])
    parser.add_argument("--tokens", nargs="+", type=positive, default=[8192, 32768, 65536, 131072])
    parser.add_argument("--data-parallel", type=positive, default=1, help="GPUs that see other samples")
    parser.add_argument("--sequence-parallel", type=positive, default=1, help="GPUs over which a sample lies")
    parser.add_argument("--repeats", type=positive, default=2, help="steps of a length after its first")
    parser.add_argument("--minutes", type=float, default=10.0, help="that a training has, its start included")
    parser.add_argument("--layers", type=positive, help="of the decoder; fewer are for a try")
    parser.add_argument("--vision-layers", type=positive, help="of the tower")
    parser.add_argument("--deterministic", action="store_true", help="equal bits from equal work (train.deterministic)")
    parser.add_argument("--count", action="store_true", help="print operations and memory; needs no GPU")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print and append the rows; 0 when all lengths were measured, 1 when some were not, 2 when it cannot begin."""
    options = parse(arguments)
    plans = list(planned(options))
    if refused := wrong_length(plans):
        print(refused, file=sys.stderr)
        return 2
    if options.count:
        for plan in plans:
            for tokens in plan.tokens:
                print(counted(plan, tokens))
        return 0
    if not can_run(plans, NAME):
        return 2
    table = command.table(COLUMNS, options.out, command.software(options.commit, "transformers"))
    if table is None:
        return 2
    missed = 0
    for plan in plans:
        for row in measured(plan, 60 * options.minutes):
            print(line(row), flush=True)
            table.add(row)
            missed += bool(row["status"])
    return 1 if missed else 0


def planned(options: argparse.Namespace) -> Iterator[Plan]:
    tokens = tuple(sorted(set(options.tokens)))
    for model in options.model:
        for attention in options.attention:
            yield Plan(
                model, attention, tokens, options.data_parallel, options.sequence_parallel, options.repeats,
                options.layers, options.vision_layers, options.deterministic,
            )  # fmt: skip


def wrong_length(plans: Iterable[Plan]) -> str:
    """What is wrong with a plan's lengths, or ''."""
    for plan in plans:
        patch = SIDE[plan.model] ** 2
        if wrong := [tokens for tokens in plan.tokens if tokens % patch]:
            return f"tokens={wrong[0]} is not valid: a multiple of {patch}, two frames' of {plan.model}"
    return ""


def can_run(plans: Sequence[Plan], name: str) -> bool:
    """Whether there are GPUs enough, or none is needed: the tiny model's steps are tried on a CPU, too. name: of the
    command that asks, which says so where it cannot."""
    if all(plan.model == "tiny" for plan in plans) and not torch.cuda.is_available():
        return True
    if not command.has_device(name):
        return False
    there, asked = torch.cuda.device_count(), max(plan.gpus for plan in plans)
    if there < asked:
        print(f"{name}: {asked} GPUs are asked for, and torch finds {there}", file=sys.stderr)
    return there >= asked


def counted(plan: Plan, tokens: int) -> str:
    """What a step computes and holds, for people."""
    model, sample = empty(plan), sample_of(plan, tokens)
    found, parts = work(model, sample, plan.settings), memory(model, sample, plan.settings, plan.gpus)
    held = ", ".join(f"{name} {size:.1f}" for name, size in parts.items())
    return (
        f"{plan.model} {plan.attention:>5} {tokens:>7} on {plan.gpus}: forward {found.forward / 1e12:.2f} TFLOP "
        f"(tower {(found.tower + found.tower_attention) / 1e12:.2f}, attention {found.attention / 1e12:.2f}); "
        f"{sum(parts.values()):.1f} GiB a GPU ({held})"
    )


def empty(plan: Plan) -> Any:
    """The plan's model without its numbers."""
    meta = torch.device("meta")
    return shapes.build(plan.model, plan.nsa, torch.float32, meta, plan.layers, plan.vision_layers)[0]


def sample_of(plan: Plan, tokens: int) -> Sample:
    return plan.sample(tokens, build_processor())


def measured(plan: Plan, seconds: float) -> Iterator[dict[str, Any]]:
    """A row a length, as each is done; those that were not measured say why."""
    model, done = empty(plan), 0
    with tempfile.TemporaryDirectory() as place:
        training = Training(plan, Path(place), seconds)
        for found in training.lengths():
            tokens = plan.tokens[done]
            yield row(plan, model, tokens, found)
            done += 1
        for tokens in plan.tokens[done:]:
            missing = training.failure if tokens == plan.tokens[done] else f"not run: {plan.tokens[done]} did not"
            yield row(plan, model, tokens, None, missing)


class Training:
    """The processes of a plan, and what they write."""

    def __init__(self, plan: Plan, folder: Path, seconds: float) -> None:
        self.plan, self.folder, self.limit = plan, folder, seconds
        self.failure = ""

    def lengths(self) -> Iterator[list[dict[str, Any]]]:
        """The lines of all processes, of one length after the other; when they end, `failure` says what was wrong.

        None of the processes outlives this one, also where it is told to end."""
        done, began = 0, time.monotonic()
        with open(self.folder / "log", "wb") as log, interrupted_when_told_to_end():
            process = self._start(log)
            try:
                running = True
                while running:
                    running = process.poll() is None and time.monotonic() - began < self.limit
                    lines = [self._lines(rank) for rank in range(self.plan.gpus)]
                    while all(len(own) > done and "failed" not in own[done] for own in lines):
                        yield [own[done] for own in lines]
                        done += 1
                    time.sleep(0.2)
            finally:
                stopped = process.poll() is None
                end(process)
        failed = [line["failed"] for own in lines for line in own if "failed" in line]
        if stopped:
            failed = [f"stopped after {self.limit / 60:g} minutes"]
        self.failure = next(iter(failed), f"ended with {process.returncode}" if process.returncode else "")
        if done < self.plan.stages and self.failure != "out of memory":
            log_tail = (self.folder / "log").read_text(errors="replace").splitlines()[-60:]
            print("\n".join(log_tail), file=sys.stderr, flush=True)

    def _start(self, log: Any) -> subprocess.Popen:
        plan = self.folder / "plan.json"
        plan.write_text(json.dumps(self.plan.__dict__), encoding="utf-8")
        launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(self.plan.gpus)]
        threads = max(1, len(os.sched_getaffinity(0)) // self.plan.gpus)
        return subprocess.Popen(
            [sys.executable, "-m", *launch, "-m", "videonsa.bench.steps", str(plan), str(self.folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={"OMP_NUM_THREADS": str(threads), **environment()},
            start_new_session=True,
        )

    def _lines(self, rank: int) -> list[dict[str, Any]]:
        file = self.folder / f"{rank}.jsonl"
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def row(
    plan: Plan, model: Any, tokens: int, found: Sequence[dict[str, Any]] | None, status: str = ""
) -> dict[str, Any]:
    """A length's row, of the lines of all processes; without them with what is counted alone."""
    settings, sample = plan.settings, sample_of(plan, tokens)
    counted = work(model, sample, settings)
    made: dict[str, Any] = {
        "gpus": plan.gpus, "model": plan.model, "attention": plan.attention, "tokens": tokens,
        "data_parallel": plan.data_parallel, "sequence_parallel": plan.sequence_parallel, "status": status,
        "layers": model.config.text_config.num_hidden_layers, "sharding": settings.sharding, "tower": "trained",
        "deterministic": plan.deterministic,
        "forward_tflop": round(counted.forward / 1e12, 4),
        "counted_gib": round(sum(memory(model, sample, settings, plan.gpus).values()), 1),
    }  # fmt: skip
    if found is None:
        return made
    step = max(statistics.median(line["step_s"]) for line in found)
    forward, backward = (max(line[f"attention_{name}_s"] for line in found) for name in ("forward", "backward"))
    attention = made["layers"] * ((1 + settings.activation_checkpointing) * forward + backward)
    bound = bound_seconds(counted, settings, attention)
    seen = sample.tokens * plan.data_parallel
    return made | {
        "tokens_per_s": _short(seen / step),
        "mfu": _short(mfu(counted, plan.data_parallel, step, plan.gpus)),
        "peak_gib": round(max(line["peak_gib"] for line in found), 2),
        "step_s": _short(step),
        "data_s": _short(max(statistics.median(line["data_s"]) for line in found)),
        "first_s": _short(max(line["first_s"] for line in found)),
        "attention_s": _short(attention),
        "bound_step_s": _short(bound),
        "bound_tokens_per_s": _short(seen / bound),
        "steps": len(found[0]["step_s"]),
        "loss": _short(found[0]["losses"][-1]),
    }


def _short(number: float) -> float:
    """Five digits."""
    return float(f"{number:.5g}") if math.isfinite(number) else number


def line(row: dict[str, Any]) -> str:
    """A row for people."""
    asked = f"{row['model']} {row['attention']:>5} {row['tokens']:>7} on {row['gpus']}"
    if row["status"]:
        return f"{asked}: {row['status']}; {row['counted_gib']} GiB a GPU are counted"
    return (
        f"{asked}: {row['step_s']} s a step (bound {row['bound_step_s']}, its attention {row['attention_s']}), "
        f"{row['tokens_per_s']} tokens/s, MFU {row['mfu']}, {row['peak_gib']} GiB, counted {row['counted_gib']}; "
        f"loss {row['loss']}"
    )


if __name__ == "__main__":
    from videonsa.bootstrap import settle

    settle()
    sys.exit(main())
