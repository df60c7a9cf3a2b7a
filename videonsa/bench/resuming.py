"""Losses of a training that was stopped and went on, beside those of one that was not, and of that one again.

    python -m videonsa.bench.resuming --gpus 2 --resume-on 2 --out benchmarks/resumed.csv

Random weights and videos as in videonsa/bench/training.py, the Trainer's own checkpoints; of fewer layers than the
model's by default, as a checkpoint of all is 49 GB. loss and again: two trainings of the same work; resumed: one that
was stopped after half of the steps and goes on in other processes, on --resume-on GPUs. The last line says how far the
losses are apart at most; what --deterministic costs is measured by videonsa.bench.training, which has the option too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from videonsa.bench import command, shapes
from videonsa.bench.steps import Plan
from videonsa.bench.training import Training, can_run, wrong_length
from videonsa.options import positive

NAME = "videonsa.bench.resuming"
COLUMNS = (
    *("gpu", "gpus", "resumed_on", "model", "layers", "attention", "tokens", "deterministic", "step", "loss", "again"),
    *("resumed", "torch", "triton", "transformers", "commit"),
)
SECONDS = 600.0  # that a training has


class Failed(RuntimeError):
    """A training did not come to its end."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = command.parser(NAME, __doc__)
    parser.add_argument("--model", choices=shapes.NAMES, default="3b")
    parser.add_argument("--attention", choices=("nsa", "dense"), default="nsa")
    parser.add_argument("--tokens", type=positive, default=8192)
    parser.add_argument("--gpus", type=positive, default=2)
    parser.add_argument("--resume-on", type=positive, help="GPUs; as many as before, where it is not given")
    parser.add_argument("--steps", type=positive, default=6, help="of which half come before the stop")
    parser.add_argument("--layers", type=positive, default=4)
    parser.add_argument("--vision-layers", type=positive, default=4)
    parser.add_argument("--deterministic", action="store_true", help="equal bits from equal work")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print and append a row a step; 0 when all trainings came to their end, 1 when not, 2 when it cannot begin."""
    options = parse(arguments)
    half, resume_on = options.steps // 2, options.resume_on or options.gpus
    work = options.gpus * resume_on  # samples a step, for either number
    plan = Plan(
        options.model, options.attention, (options.tokens,), options.gpus, repeats=options.steps - 1,
        layers=options.layers, vision_layers=options.vision_layers, deterministic=options.deterministic,
        times_attention=False, samples=work,
    )  # fmt: skip
    after = replace(plan, data_parallel=resume_on)
    if refused := wrong_length([plan]):
        print(refused, file=sys.stderr)
        return 2
    if not can_run([plan, after], NAME):
        return 2
    table = command.table(COLUMNS, options.out, command.software(options.commit, "transformers"))
    if table is None:
        return 2
    try:
        with tempfile.TemporaryDirectory() as place:
            whole, again = (train(plan, Path(place, name)) for name in ("whole", "again"))
            saved = {"training": str(Path(place, "training")), "save_every": half}
            first = train(replace(plan, **saved, stop_after=half), Path(place, "first"))
            then = train(replace(after, **saved), Path(place, "then"))
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    resumed = first["losses"][:half] + then["losses"]
    shared = {
        "gpus": options.gpus, "resumed_on": resume_on, "model": options.model, "layers": options.layers,
        "attention": options.attention, "tokens": options.tokens, "deterministic": options.deterministic,
    }  # fmt: skip
    for step, losses in enumerate(zip(whole["losses"], again["losses"], resumed, strict=True), 1):
        print(f"step {step}: {', '.join(map(str, losses))}", flush=True)
        table.add({**shared, "step": step, **dict(zip(("loss", "again", "resumed"), losses, strict=True))})
    apart = [most_apart(whole["losses"], others) for others in (again["losses"], resumed)]
    print(f"at most apart: {apart[0]:.3g} again, {apart[1]:.3g} resumed")
    return 0


def train(plan: Plan, folder: Path) -> dict:
    """What a training's first process says. Raises Failed."""
    folder.mkdir()
    training = Training(plan, folder, SECONDS)
    lines = list(training.lengths())
    if not lines:
        raise Failed(f"{folder.name}: {training.failure}")
    return lines[0][0]


def most_apart(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The largest relative difference."""
    return max(abs(one / other - 1) for one, other in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    from videonsa.bootstrap import settle

    settle()
    sys.exit(main())
