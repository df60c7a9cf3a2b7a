"""Tokens a second of a training with and without packing (train.packing): its own settings, data and code.

    python -m videonsa.bench.packing settings.json FOLDER --steps 20
    torchrun --nproc-per-node 8 -m videonsa.bench.packing settings.json FOLDER --steps 20

Two trainings of so many steps see the same samples, FOLDER/alone and FOLDER/packed; metrics.jsonl of each is what the
line here says. Without packing `micro_batch_size` samples lie padded in a batch. The first steps, which compile and
wait for the first videos, are left out of the rates. Losses must agree to rounding.
"""

# Surroundings first: torch and transformers read them as they are imported.

from __future__ import annotations

if __name__ == "__main__":
    from videonsa.bootstrap import settle

    settle()

import json
import os
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from videonsa.config import SettingsError, TrainSettings
from videonsa.options import Parser, folder, positive
from videonsa.training.run import read_settings, train

LEFT_OUT = 2  # first steps


def measured(settings: TrainSettings, place: Path, steps: int) -> list[dict[str, Any]]:
    """The lines of a training of so many steps."""
    short = replace(settings, steps=steps, save_every=steps + 1)
    train(short, place, on_progress=lambda done, total: None)
    return [json.loads(line) for line in (place / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def rate(lines: Sequence[dict[str, Any]]) -> float:
    """Tokens a second, padding not counted, without the first steps."""
    first, last = lines[LEFT_OUT - 1], lines[-1]
    return (last["tokens"] - first["tokens"]) / (last["seconds"] - first["seconds"])


def report(alone: Sequence[dict[str, Any]], packed: Sequence[dict[str, Any]]) -> str:
    """What both trainings say, in a line."""
    rates = rate(alone), rate(packed)
    apart = max(abs(ours["loss"] / theirs["loss"] - 1) for ours, theirs in zip(packed, alone, strict=True))
    each = (alone[-1]["tokens"] - alone[LEFT_OUT - 1]["tokens"]) / (len(alone) - LEFT_OUT)
    return (
        f"{rates[1]:,.0f} tokens/s packed, {rates[0]:,.0f} without ({rates[1] / rates[0]:.2f} x), "
        f"{len(alone) - LEFT_OUT} steps of {each:,.0f} tokens; losses at most {apart:.1g} apart"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0, or 2 for wrong input."""
    parser = Parser(
        prog="python -m videonsa.bench.packing", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", type=folder, metavar="settings.json")
    parser.add_argument("folder", type=folder, metavar="FOLDER")
    parser.add_argument("--steps", type=positive, default=20, help="of each training, the first two for warming up")
    options = parser.parse_args(arguments)
    if options.steps <= LEFT_OUT:
        parser.error(f"argument --steps: give more than {LEFT_OUT}")
    try:
        settings = read_settings(options.settings)
        alone, packed = (
            measured(replace(settings, packing=packing), options.folder / name, options.steps)
            for name, packing in (("alone", False), ("packed", True))
        )
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if os.environ.get("RANK", "0") == "0":
        print(report(alone, packed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
