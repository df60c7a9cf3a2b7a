"""The disk that a plan's trainings need, before any of them begins. Imports no torch.

A checkpoint to resume from holds the weights that learn, in float32, and AdamW's two numbers of each; while the newest
is saved the ones before are still there; then final/ comes, whole, and they go. Records and answers are small.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ablations.jobs import Job
from ablations.plan import Sweep, training_folder
from videonsa.config import TrainSettings
from videonsa.counts import count_weights, learning
from videonsa.disk import existing, mount_point, space

CHECKPOINT = 12  # bytes a weight that learns
FINAL = {"bf16": 2, "fp32": 4}


@dataclass(frozen=True)
class Need:
    """Bytes of one training."""

    model: str
    weights: int  # numbers, of the whole model
    learning: int  # of these, and of adapters
    precision: str  # of final/
    keep: int  # checkpoints that stay

    @property
    def checkpoint(self) -> int:
        """One to resume from."""
        return CHECKPOINT * self.learning

    @property
    def final(self) -> int:
        """The trained model."""
        return FINAL[self.precision] * self.weights

    @property
    def most(self) -> int:
        """While it trains, or as it ends."""
        return self.keep * self.checkpoint + max(self.checkpoint, self.final)

    def __str__(self) -> str:
        part = "" if self.learning == self.weights else f", {self.learning:.3g} learn"
        told = f"{amount(self.checkpoint)} a checkpoint of {self.model} ({self.weights:.3g} weights{part})"
        return f"{told}, {self.keep + 1} while one is saved; final/ {amount(self.final)} in {self.precision}"


def disk_lines(sweep: Sweep, jobs: Iterable[Job], at_once: int) -> list[str]:
    """What the trainings among the jobs need at the most, and what is free; a warning where it does not fit."""
    trainings = [job.training for job in jobs if job.kind == "train" and job.training.settings]
    needs = [need for training in trainings if (need := _need(training.settings))]
    if not trainings:
        return []
    models = dict.fromkeys(training.settings.model for training in trainings if training.settings)
    unknown = [name for name in models if name not in {need.model for need in needs}]
    note = [f"not known of {name}: neither here nor a model whose size is known" for name in unknown]
    if not needs:
        return [f"Disk: {'; '.join(note)}"]
    running = sorted((need.most - need.final for need in needs), reverse=True)[:at_once]
    there = sum(_size(training_folder(sweep.out, training.id)) for training in trainings)
    most = sum(need.final for need in needs) + sum(running) - there
    place = existing(sweep.out)
    free, disk = space(place)[0], mount_point(place)
    count = f"{len(needs)} training{'s' * (len(needs) > 1)}, {len(running)} at once"
    told = [*dict.fromkeys(map(str, needs)), *note]
    lines = [f"Disk: {'; '.join(told)}; {count}: at most {amount(most)}; {amount(free)} are free on {disk}"]
    if most > free:
        ways = "make room, give another --out" + ", or let fewer train at once" * (len(running) > 1)
        lines.append(f"Warning: {amount(most - free)} are missing on {disk}, the disk of {sweep.out}: {ways}")
    return lines


def amount(count: int) -> str:
    """4.32 MB, 104 GB: decimal, as models' sizes are told."""
    value, unit = float(count), 0
    while value >= 999.5 and unit < 4:
        value, unit = value / 1000, unit + 1
    return f"{value:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[unit]}"


def _need(settings: TrainSettings | None) -> Need | None:
    found = count_weights(settings.model) if settings else None
    if settings is None or found is None:
        return None
    parts, shape = found
    moved = learning(settings, parts, shape)
    return Need(settings.model, sum(parts.values()), moved, settings.precision, settings.keep_checkpoints)


def _size(folder: Path) -> int:
    """Bytes that a training has already written."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
