"""The plan of a sweep: its cells, what is done, and the jobs for the rest. Imports no torch.

Done means that the record exists, is whole, and is this cell's: there is no other list of what has been done.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from ablations.cell import Cell, Probe, Training, make_cells, make_probe
from ablations.facts import Facts, facts_of_plan
from ablations.failures import INTERRUPTIONS
from ablations.gates import FILE as MEAN_GATES
from ablations.grid import Grid, find_grid, grid_names
from ablations.profile import Profile
from ablations.reference import find_reference
from ablations.sizes import questions_of
from videonsa.config import SuiteSettings
from videonsa.identity import code_version, identity
from videonsa.methods.registry import described
from videonsa.record import SCHEMA, read_record, without_paths, write_text

DONE, FAILED, INTERRUPTED, WAITING = "done", "failed", "interrupted", "waiting"
GONE = "done, weights gone"  # of a training: what was asked of them stands, and for more it is trained again
AMENDED = "amended.json"  # of a sweep's folder: ablations/amend.py
WORTH_A_JOB = 64  # answers: fewer are given sooner than another process has loaded its model
TOGETHER = (
    16  # jobs that have the same cells, where there are cells enough: a thousand jobs of a thousand are a million
)


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


@dataclass
class State:
    """What the records of a sweep say, read once."""

    cells: dict[str, str] = field(default_factory=dict)  # cell id -> DONE, FAILED, INTERRUPTED or WAITING
    trainings: dict[str, str] = field(default_factory=dict)
    probes: dict[str, str] = field(default_factory=dict)  # by training id
    errors: dict[str, str] = field(default_factory=dict)  # id of any of these -> one line
    seconds: dict[str, float] = field(default_factory=dict)  # id -> what it took

    def count(self, status: str) -> int:
        """Number of cells in this state."""
        return sum(value == status for value in self.cells.values())


@dataclass(frozen=True)
class Job:
    """One process: a training, or cells of one checkpoint, beside others that answer them too, or a probe."""

    name: str  # also its folder below the sweep's jobs/
    kind: str  # train, evaluate or probe
    training: Training
    cells: tuple[Cell, ...] = ()  # train: those that wait for it
    probe: Probe | None = None
    after: str | None = None  # the name of the training job that must succeed first

    @property
    def trains(self) -> bool:
        """It trains, on all processes that a training gets."""
        return self.kind == "train" and self.training.gates is None

    @property
    def needs(self) -> Training | None:
        """The training whose weights it works with."""
        return self.training.start if self.kind == "train" else self.training

    @property
    def measures(self) -> bool:
        """It trains nothing: it measures the mean gates of weights that are there, on one GPU."""
        return self.kind == "train" and self.training.gates is not None


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


def read_state(sweep: Sweep) -> State:
    """Read the records of every cell, training and probe of the sweep."""
    state = State()
    for key, training in sweep.trainings.items():
        record = None if training.exists else read_record(training_folder(sweep.out, key) / "record.json")
        good = record is not None and record.get("identities", {}).get("training") == key
        status = DONE if training.exists else _status(record if good else None)
        gone = status == DONE and not has_weights(sweep.out, training, record)
        state.trainings[key] = GONE if gone else status
        _note(state, key, record)
    for key, probe in sweep.probes.items():
        record = read_record(sweep.out / "probes" / probe.id / "record.json")
        state.probes[key] = _status(record)
        _note(state, probe.id, record)
    for cell in sweep.cells:
        if cell.id in state.cells:
            continue
        record = read_record(cell_folder(sweep.out, cell.id) / "record.json")
        state.cells[cell.id] = _status(record if record is None or is_of(record, cell) else None)
        _note(state, cell.id, record)
    return state


def has_weights(out: Path, training: Training, record: Mapping[str, Any] | None) -> bool:
    """What the training makes is there: records are kept where weights are too large to be. Of weights whose digest its
    record holds, files have to be there, too."""
    folder = training_folder(out, training.id)
    if training.exists:
        return True
    if training.gates is not None:
        return (folder / MEAN_GATES).is_file()
    if not ((record or {}).get("summary") or {}).get("weights"):
        return (folder / "final").is_dir()
    return (folder / "final" / "config.json").is_file() and any((folder / "final").glob("*.safetensors"))


def is_of(record: Mapping[str, Any], cell: Cell) -> bool:
    """The record answers for this cell: its id and the settings that it was made with."""
    settings = record.get("settings") or {}
    same = all(
        states(settings.get(key), cell.settings[key]) for key in ("nsa", "suite", "method") if key in cell.settings
    )
    return same and record.get("kind") == "evaluation" and (record.get("identities") or {}).get("cell") == cell.id


def states(recorded: Any, settings: Any) -> bool:
    """The recorded settings are these; fields that are newer than the record are left to the identity."""
    if isinstance(recorded, Mapping) and isinstance(settings, Mapping):
        return all(states(value, settings.get(key)) for key, value in recorded.items())
    return recorded == settings


def _status(record: Mapping[str, Any] | None) -> str:
    if record is None:
        return WAITING
    if record["status"] == DONE:
        return DONE
    return INTERRUPTED if (record.get("error") or {}).get("type") in INTERRUPTIONS else FAILED


def _note(state: State, key: str, record: Mapping[str, Any] | None) -> None:
    if record is None:
        return
    if error := record.get("error"):
        state.errors[key] = f"{error.get('type')}: {' '.join(str(error.get('message')).split())}"[:300]
    seconds = (record.get("summary") or {}).get("seconds")
    if record["status"] == DONE and isinstance(seconds, int | float):
        state.seconds[key] = float(seconds)


@dataclass(frozen=True)
class Busy:
    """What is queued or running already: not to be submitted again."""

    cells: frozenset[str] = frozenset()
    trainings: frozenset[str] = frozenset()
    probes: frozenset[str] = frozenset()


def make_jobs(
    sweep: Sweep, state: State, cells: Iterable[Cell], retry: bool, per_training: int, busy: Busy | None = None
) -> list[Job]:
    """The jobs that are still to run: trainings, evaluation jobs of several cells of one checkpoint, probes.

    `cells` are those asked for (--only); failed ones run again when `retry` says so, interrupted ones always.
    At most `per_training` evaluation jobs share the questions of a checkpoint's cells, whichever comes to the next
    video first. Probes go before: evaluations then end together.
    """
    busy = busy or Busy()
    again = (WAITING, INTERRUPTED) + ((FAILED,) if retry else ())
    chosen = {cell.id: cell for cell in cells}
    evaluation_jobs, probe_jobs = [], []
    waiting: dict[str, list[Cell]] = {}  # training id -> cells that wait for it
    for key, asked in by_training(chosen.values()).items():
        mine = [cell for cell in asked if state.cells[cell.id] in again and cell.id not in busy.cells]
        training = sweep.trainings[key]
        status = state.trainings[key]
        probe = sweep.probes.get(key)
        looked_at = any(cell.is_probed for cell in asked)
        probe_wanted = looked_at and probe is not None and state.probes[key] in again and probe.id not in busy.probes
        lacking = [] if status == DONE else [each.id for each in (training, *training.before)]
        lacking = [each for each in lacking if state.trainings[each] != DONE]
        if any(state.trainings[each] == FAILED for each in lacking) and not retry:
            continue
        after = None
        if status != DONE:
            if not mine and not probe_wanted:
                continue
            after = f"train-{key}"
        for each in lacking:
            waiting.setdefault(each, []).extend(mine)
        job = Job(f"evaluate-{key}", "evaluate", training, tuple(mine), after=after)
        evaluation_jobs += shared(job, per_training)
        if probe_wanted:
            probe_jobs.append(Job(f"probe-{key}", "probe", training, probe=probe, after=after))
    return [*_training_jobs(sweep, state, waiting, busy), *probe_jobs, *evaluation_jobs]


def _training_jobs(sweep: Sweep, state: State, waiting: Mapping[str, list[Cell]], busy: Busy) -> list[Job]:
    """A job for each training with the cells that wait for it, after the job of the training that it begins with."""
    jobs = []
    for key in sorted(waiting, key=lambda key: len(sweep.trainings[key].before)):
        training = sweep.trainings[key]
        start = training.start.id if training.start else None
        after = f"train-{start}" if start and state.trainings[start] != DONE else None
        jobs.append(Job(f"train-{key}", "train", training, tuple(waiting[key]), after=after))
    return [job for job in jobs if job.training.id not in busy.trainings]


def shared(job: Job, most: int) -> list[Job]:
    """The evaluation by so many jobs, at most, that share its questions; none where there are no cells."""
    known = [questions_of(cell.suite) for cell in job.cells]
    number = most if None in known else min(most, -(-sum(count or 0 for count in known) // WORTH_A_JOB))
    parts = deal(job.cells, -(-number // TOGETHER))
    return [replace(job, name=f"{job.name}-{place}", cells=parts[place % len(parts)]) for place in range(number)]


def deal(cells: Iterable[Cell], parts: int) -> list[tuple[Cell, ...]]:
    """The cells in so many parts, at most one a cell, that cut as few suites as can be: what is cut shares less."""
    order = [cell for group in by_suite(cells).values() for cell in group]
    parts = min(parts, len(order))
    bounds = [len(order) * part // parts for part in range(parts + 1)] if parts else [0]
    return [tuple(order[start:end]) for start, end in pairwise(bounds)]


def by_suite(cells: Iterable[Cell]) -> dict[SuiteSettings, list[Cell]]:
    """The cells of one checkpoint that are asked the same questions, in the order of the suites."""
    groups: dict[SuiteSettings, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.suite, []).append(cell)
    return groups


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
