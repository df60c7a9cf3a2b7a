"""The plan of a sweep: a grid's cells under a profile, and the folder that they lie in. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ablations.cell import Cell, Probe, Training, make_cells, make_probe
from ablations.facts import Facts, facts_of_plan
from ablations.grid import Grid, find_grid, grid_names
from ablations.profile import Profile
from ablations.reference import find_reference
from videonsa.identity import code_version, identity
from videonsa.methods.registry import described
from videonsa.record import SCHEMA, without_paths, write_text

AMENDED = "amended.json"  # of a sweep's folder: ablations/amend.py


@dataclass(frozen=True)
class Sweep:
    """A grid under a profile in an out folder."""

    grid: Grid
    profile: Profile
    out: Path
    name: str  # of the folder below out/sweeps
    cells: tuple[Cell, ...]
    changes: tuple[str, ...] = ()  # of the grid, key=value: those of --set

    @property
    def folder(self) -> Path:
        """Where the plan, the jobs, the table and the figures lie."""
        return self.out / "sweeps" / self.name

    @property
    def facts(self) -> Facts:
        """What its identities go by besides settings."""
        return self.cells[0].training.facts

    @cached_property
    def trainings(self) -> dict[str, Training]:
        """The trainings that the cells need, by id."""
        return {each.id: each for cell in self.cells for each in (cell.training, *cell.training.before)}

    @cached_property
    def probes(self) -> dict[str, Probe]:
        """The probe of each training that is asked with its gates, or by methods that choose keys, by training id."""
        made = {key: make_probe(of, self.profile, self.reference) for key, of in by_training(self.cells).items()}
        return {key: probe for key, probe in made.items() if probe is not None}

    @cached_property
    def reference(self) -> str | None:
        """The label of the variant that the others are compared with."""
        return find_reference(self.grid, self.profile, self.cells)


def make_sweep(
    grid: Grid,
    profile: Profile,
    out: Path,
    source: str,
    changes: Mapping[str, Any],
    facts: Facts | None = None,
    as_planned: bool = False,
    amended: Mapping[str, Mapping[str, Any]] | None = None,
) -> Sweep:
    """Cells and folder. `amended`: settings of single cells; None: those that its folder lists.

    With `as_planned` the cells are those of its plan.json, whatever has changed since: what its jobs are making.
    """
    name = sweep_name(grid.name, source, profile, changes)
    folder = out / "sweeps" / name
    facts = (as_planned and facts_of_plan(folder)) or facts
    profile = replace(profile, **grid.probe)
    amended = read_amended(folder) if amended is None else amended
    changed = tuple(without_paths(f"{key}={_value(value)}") for key, value in changes.items())
    return Sweep(grid, profile, out, name, tuple(make_cells(grid, profile, facts, amended)), changed)


def _value(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def sweep_name(grid: str, source: str, profile: Profile, changes: Mapping[str, Any]) -> str:
    """The folder's name. A sweep with --set, or of a foreign file named as a grid of ours, has one of its own."""
    name = f"{profile.name}-{grid}"
    foreign = find_grid(source, profile.name).resolve() if grid != source else None
    if changes or (foreign and grid in grid_names(profile.name)):
        name += "-" + identity({"changes": dict(changes), "file": str(foreign or "")})[:6]
    return name


def read_amended(folder: Path) -> dict[str, dict[str, Any]]:
    """The cells that were given other settings when they were retried, by their place in the grid."""
    try:
        return json.loads((folder / AMENDED).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}


def by_training(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    """The cells of each training, by its id, in the order of the cells."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.training.id, []).append(cell)
    return groups


def write_plan(sweep: Sweep) -> None:
    """plan.json: what this sweep is, for people and for analysis."""
    probes = {key: probe.id for key, probe in sweep.probes.items()}
    grouped = [variant for variant in sweep.grid.variants if variant.group is not None]
    groups = {variant.label: {"group": variant.group, "name": variant.name} for variant in grouped}
    content = {
        "schema": SCHEMA,
        "kind": "plan",
        "grid": sweep.grid.name,
        "profile": sweep.profile.name,
        "question": sweep.grid.question,
        **({"changes": list(sweep.changes)} if sweep.changes else {}),
        "asks": sweep.grid.asks,
        "reference": sweep.reference,
        **({"within": sweep.grid.within} if sweep.grid.within else {}),
        "axes": list(sweep.grid.axes),
        "trainings": {key: training.record_settings for key, training in sweep.trainings.items()},
        "cells": [
            {
                "id": cell.id,
                "label": cell.label,
                "suite": cell.suite.name,
                "seed": cell.seed,
                "training": cell.training.id,
                "probe": probes.get(cell.training.id) if cell.is_probed else None,
                "method": None if cell.method is None else described(cell.method),
                "variant": {key.rpartition(".")[2]: value for key, value in cell.varied.items()},
                **groups.get(cell.label, {}),
            }
            for cell in sweep.cells
        ],
    }
    content["facts"] = sweep.facts.as_dict()  # last: the identities above have asked for all of them
    text = json.dumps(content, indent=1) + "\n"
    path = sweep.folder / "plan.json"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def fingerprint(sweep: Sweep) -> str:
    """Changes when a record of the sweep does, or the code that makes tables and figures of them."""
    digest = hashlib.sha256((sweep.folder / "plan.json").read_bytes())
    digest.update(code_version("analysis").encode())
    paths = [cell_folder(sweep.out, cell.id) for cell in sweep.cells]
    paths += [sweep.out / "probes" / probe.id for probe in sweep.probes.values()]
    for folder in paths:
        path = folder / "record.json"
        digest.update(f"{path.name} {path.stat().st_mtime_ns if path.is_file() else None}".encode())
    return digest.hexdigest()


def training_folder(out: Path, key: str) -> Path:
    """Where a training's files lie."""
    return out / "trainings" / key


def cell_folder(out: Path, key: str) -> Path:
    """Where a cell's files lie."""
    return out / "cells" / key


def answers_folder(out: Path, cell: Cell) -> Path:
    """Where the answers of a cell lie, beside those of others."""
    return out / "answers" / cell.run
