"""The records of trainings, cells and probes: what is known before they run, and failures. Imports no torch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ablations.cell import Cell, Probe, Training
from ablations.failures import training_failure
from ablations.inputs import BY_CONTENT, identity_record
from ablations.jobs import Job
from ablations.plan import Sweep, cell_folder, training_folder
from ablations.state import DONE, FAILED, WAITING, State, agrees
from videonsa.config import TrainSettings
from videonsa.record import SCHEMA, provenance, read_record, write_record

KINDS = {Training: "training", Cell: "evaluation", Probe: "probe"}  # of records
FOLDERS = {"training": "trainings", "evaluation": "cells", "probe": "probes"}  # of an out folder, by kind of record


def record_of(what: Training | Cell | Probe) -> dict[str, Any]:
    """The part of a record that is known before it runs."""
    record = {"schema": SCHEMA, "kind": KINDS[type(what)], "status": FAILED, "id": what.id}
    record |= {"label": what.label} if isinstance(what, Cell) else {}
    settings = what.record_settings if isinstance(what, Training) else what.settings
    record |= {"settings": settings, "identities": what.identities, "identity": identity_record(what.inputs)}
    record |= {"scores": {}, "questions": []} if isinstance(what, Cell) else {}
    return record | {"summary": {}, "error": None}


def found_by(result: Mapping[str, Any]) -> dict[str, Any]:
    """What a record keeps of a stage's result: what it is of, and how it ended, it says itself."""
    return {key: value for key, value in result.items() if key not in ("schema", "kind", "status", "id")}


def folder_of(out: Path, what: Training | Cell | Probe) -> Path:
    """Where its files lie."""
    return out / FOLDERS[KINDS[type(what)]] / what.id


def is_asked(what: Training | Cell | Probe, settings: Mapping[str, Any]) -> bool:
    """A record's settings are those that are asked, as far as it states them and they change a number."""
    if isinstance(what, Training):
        return _is_trained_so(what, settings)
    same = all(agrees(settings.get(key), what.settings[key]) for key in what.settings if key not in ("train", "seed"))
    return same and _is_trained_so(what.training, settings.get("train") or {})


def _is_trained_so(training: Training, settings: Mapping[str, Any]) -> bool:
    if training.settings is None or "checkpoint" in settings:
        return settings.get("checkpoint") == training.checkpoint
    aside = [field.name for field in dataclasses.fields(TrainSettings) if field.metadata.get("no_effect")]
    stated = {key: value for key, value in settings.items() if key not in (*aside, *BY_CONTENT)}
    return agrees(stated, training.record_settings)


def fail_record(out: Path, what: Training | Cell | Probe, error: Mapping[str, str]) -> None:
    """Leave a failure record where there is no record, nor one that another process writes just now."""
    path = folder_of(out, what) / "record.json"
    if read_record(path) is not None:
        return
    record = record_of(what) | {"error": dict(error), "provenance": provenance()}
    with suppress(FileExistsError):
        write_record(path, record, replace=path.exists())  # what is there is no whole record


def fail_untrained(sweep: Sweep, state: State, cells: Iterable[Cell]) -> None:
    """Cells whose training has failed before get a record that says so."""
    for cell in cells:
        needed = (cell.training, *cell.training.before)
        key = next((each.id for each in needed if state.trainings[each.id] == FAILED), None)
        if key is not None and state.cells[cell.id] == WAITING:
            record = read_record(training_folder(sweep.out, key) / "record.json")
            if record is not None:
                fail_record(sweep.out, cell, training_failure(key, record["error"]))


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
                record = read_record(folder / "failure.json")
                if record is not None and record["status"] == DONE:  # another sweep has finished it just now
                    os.replace(folder / "failure.json", folder / "record.json")
