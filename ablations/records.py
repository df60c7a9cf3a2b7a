"""Records of cells, trainings and probes that failed. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ablations.cell import Cell
from ablations.failures import training_failure
from ablations.plan import DONE, FAILED, WAITING, Job, State, Sweep, cell_folder, training_folder
from videonsa.record import SCHEMA, provenance, read_record, write_record


def cell_record(cell: Cell) -> dict[str, Any]:
    """The part of a cell's record that is known before it runs."""
    return {
        "schema": SCHEMA,
        "kind": "evaluation",
        "status": FAILED,
        "id": cell.id,
        "label": cell.label,
        "settings": cell.settings,
        "identities": cell.identities,
        "scores": {},
        "questions": [],
        "summary": {},
        "error": None,
    }


def fail_cell(out: Path, cell: Cell, error: Mapping[str, str]) -> None:
    """Leave a failure record where there is no finished one."""
    path = cell_folder(out, cell.id) / "record.json"
    record = read_record(path)
    if record is None or record["status"] != DONE:
        write_record(path, cell_record(cell) | {"error": dict(error), "provenance": provenance()})


def fail_record(folder: Path, kind: str, key: str, settings: Mapping[str, Any], error: Mapping[str, str]) -> None:
    """Leave a failure record of a training or probe where there is no record."""
    path = folder / "record.json"
    if read_record(path) is None:
        record = {"schema": SCHEMA, "kind": kind, "status": FAILED, "id": key, "settings": dict(settings)}
        record |= {"identities": {kind: key}, "summary": {}, "error": dict(error), "provenance": provenance()}
        write_record(path, record)


def fail_untrained(sweep: Sweep, state: State, cells: Iterable[Cell]) -> None:
    """Cells whose training has failed before get a record that says so."""
    for cell in cells:
        key = cell.training.id
        if state.trainings[key] == FAILED and state.cells[cell.id] == WAITING:
            record = read_record(training_folder(sweep.out, key) / "record.json")
            if record is not None:
                fail_cell(sweep.out, cell, training_failure(key, record["error"]))


def set_aside(sweep: Sweep, jobs: Iterable[Job]) -> None:
    """Failure records of what runs again are kept as failure.json: a new record then is the new run's."""
    for job in jobs:
        folders = [cell_folder(sweep.out, cell.id) for cell in job.cells]
        if job.kind == "train":
            folders.append(training_folder(sweep.out, job.training.id))
        elif job.probe is not None:
            folders.append(sweep.out / "probes" / job.probe.id)
        for folder in folders:
            record = read_record(folder / "record.json")
            if record is not None and record["status"] != DONE:
                os.replace(folder / "record.json", folder / "failure.json")
