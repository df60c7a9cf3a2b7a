"""Time training steps over samples of uneven lengths: one by one, padded to the longest, and packed (train.packing).

    python -m videonsa.bench.packing --model 3b --out benchmarks/packing.csv

Random weights and videos as in videonsa/bench/training.py, the product's own Trainer, one GPU. The samples of a step
have the lengths --tokens, in that order, --times over. layout: `alone`, a sample at a time; `padded`,
`micro_batch_size` neighbours in a batch, as long as the longest; `packed`, as many as `row_tokens` hold one after the
other in a row. tokens_per_s are of the samples, padding not counted; step_s is the median of the steps after the first.
Losses must agree to rounding: the last line says how far they are apart at most.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from videonsa.bench import command, shapes
from videonsa.bench.resuming import Failed, most_apart, train
from videonsa.bench.steps import Plan
from videonsa.bench.training import can_run, sample_of, wrong_length
from videonsa.options import positive

NAME = "videonsa.bench.packing"
COLUMNS = (
    *("gpu", "model", "attention", "layout", "tokens", "samples", "micro_batch_size", "row_tokens"),
    *("tokens_per_s", "step_s", "data_s", "peak_gib", "steps", "layers", "loss", "torch", "triton", "transformers"),
    "commit",
)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = command.parser(NAME, __doc__)
    parser.add_argument("--model", choices=shapes.NAMES, default="3b")
    parser.add_argument("--attention", choices=("nsa", "dense"), default="nsa")
    parser.add_argument("--tokens", nargs="+", type=positive, default=[2048, 8192, 4096, 12288], help="of videos")
    parser.add_argument("--times", type=positive, default=2, help="that a step has these samples")
    parser.add_argument("--micro-batch-size", type=positive, default=2, help="where samples are padded")
    parser.add_argument("--row-tokens", type=positive, default=32768, help="where samples are packed")
    parser.add_argument("--repeats", type=positive, default=3, help="steps after the first")
    parser.add_argument("--layers", type=positive, help="of the decoder; fewer are for a try")
    parser.add_argument("--vision-layers", type=positive, help="of the tower")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print and append a row a layout; 0 when all came to their end, 1 when not, 2 when it cannot begin."""
    options = parse(arguments)
    plans = planned(options)
    if refused := refusal(plans["alone"], options):
        print(refused, file=sys.stderr)
        return 2
    if not can_run(list(plans.values()), NAME):
        return 2
    table = command.table(COLUMNS, options.out, command.software(options.commit, "transformers"))
    if table is None:
        return 2
    losses = []
    try:
        for layout, plan, found in measured(plans):
            made = row(layout, plan, found)
            print(line(made), flush=True)
            table.add(made)
            losses.append(found["losses"])
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    print(f"losses at most apart: {max(most_apart(losses[0], others) for others in losses[1:]):.3g}")
    return 0


def refusal(plan: Plan, options: argparse.Namespace) -> str:
    """What is wrong with the options, or ''."""
    if wrong := wrong_length([plan]):
        return wrong
    if options.micro_batch_size < 2 or plan.batch % options.micro_batch_size:
        return f"micro_batch_size={options.micro_batch_size} is not valid: 2 or more that divide {plan.batch} samples"
    around = zip(plan.tokens, [*plan.tokens[1:], plan.tokens[0]], strict=True)
    least = min(sum(sample_of(plan, tokens).tokens for tokens in pair) for pair in around)
    if options.row_tokens < least:
        return f"row_tokens={options.row_tokens} is not valid: {least} or more, so that a row holds two neighbours"
    return ""


def planned(options: argparse.Namespace) -> dict[str, Plan]:
    """The same samples, laid out in each way."""
    alone = Plan(
        options.model, options.attention, tuple(options.tokens), repeats=options.repeats, layers=options.layers,
        vision_layers=options.vision_layers, samples=options.times * len(options.tokens), times_attention=False,
        uneven=True,
    )  # fmt: skip
    return {
        "alone": alone,
        "padded": replace(alone, micro_batch_size=options.micro_batch_size),
        "packed": replace(alone, row_tokens=options.row_tokens),
    }


def measured(plans: dict[str, Plan]) -> Iterator[tuple[str, Plan, dict[str, Any]]]:
    """(layout, plan, what its first process says), as each is done. Raises Failed."""
    with tempfile.TemporaryDirectory() as place:
        for layout, plan in plans.items():
            yield layout, plan, train(plan, Path(place, layout))


def row(layout: str, plan: Plan, found: dict[str, Any]) -> dict[str, Any]:
    """A layout's row."""
    step = statistics.median(found["step_s"])
    tokens = sum(sample_of(plan, tokens).tokens for tokens in plan.tokens) * plan.batch // len(plan.tokens)
    return {
        "model": plan.model, "attention": plan.attention, "layout": layout,
        "tokens": " ".join(map(str, plan.tokens)), "samples": plan.batch,
        "micro_batch_size": None if plan.row_tokens else plan.micro_batch_size, "row_tokens": plan.row_tokens,
        "tokens_per_s": round(tokens / step, 1), "step_s": round(step, 4),
        "data_s": round(statistics.median(found["data_s"]), 4), "peak_gib": round(found["peak_gib"], 2),
        "steps": len(found["step_s"]), "layers": plan.layers, "loss": found["losses"][-1],
    }  # fmt: skip


def line(row: dict[str, Any]) -> str:
    """A row for people."""
    asked = f"{row['model']} {row['attention']} {row['layout']:>6}"
    return (
        f"{asked}: {row['step_s']} s a step of {row['samples']} samples, {row['tokens_per_s']:,.0f} tokens/s, "
        f"{row['peak_gib']} GiB; loss {row['loss']:.5g}"
    )


if __name__ == "__main__":
    from videonsa.bootstrap import settle

    settle()
    sys.exit(main())
