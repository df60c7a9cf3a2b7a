"""Where a training's placement comes from: grids and profiles, over them the machines' profile, over all --set.

Imports no torch.

A placement says how work is spread and changes no result but by rounding: it is no part of an identity, nor of a
sweep's name. `--set train.sharding=full` and a Slurm profile's `placement:` go on with the sweep that there is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from ablations.jobs import Job
from slurm.profile import SlurmProfile
from videonsa.config import SettingsError, TrainSettings, from_dict
from videonsa.limits import is_whole
from videonsa.placement import FIELDS, described, lanes
from videonsa.values import unknown


def find_placement(machines: SlurmProfile | None, changes: dict[str, Any]) -> dict[str, Any]:
    """The settings that go over a grid's: of the machines' profile, then of --set, from whose `changes` they are taken.

    Raises SettingsError for a setting of a machines' profile that is no placement, or has no valid value.
    """
    asked = {name: changes.pop(f"train.{name}") for name in FIELDS if f"train.{name}" in changes}
    return asked if machines is None else check_placement(machines.placement, f"{machines.where}: placement") | asked


def check_placement(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The settings as they are; SettingsError in one line for one that changes results, is unknown or not valid."""
    fields = {field.name for field in dataclasses.fields(TrainSettings)}
    for name in given:
        if name not in FIELDS:
            why = f"{name!r} changes results" if name in fields else f"unknown key {name!r}"
            raise SettingsError(f"{where}: {why}; known keys: {', '.join(FIELDS)}{unknown(name, FIELDS)}")
    size = given.get("micro_batch_size", 1)
    from_dict(TrainSettings, {"steps": 1, "batch_size": size if is_whole(size, 1) else 1, **given}, where)
    return dict(given)


def check_processes(jobs: Iterable[Job], processes: int) -> None:
    """Refuse a training of these jobs that cannot be laid over so many processes."""
    for settings in trained(jobs):
        try:
            lanes(settings, processes)
        except SettingsError as error:
            raise SettingsError(f"a training by {processes} processes: train.{error}") from None


def placement_lines(jobs: Iterable[Job], processes: int) -> list[str]:
    """How the trainings of these jobs will lie over so many processes, for people."""
    return [f"Placement: {line}" for line in dict.fromkeys(described(one, processes) for one in trained(jobs))]


def trained(jobs: Iterable[Job]) -> list[TrainSettings]:
    """The settings of what trains."""
    return [job.training.settings for job in jobs if job.trains and job.training.settings is not None]
