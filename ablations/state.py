"""What of a sweep is done, as its records say. Imports no torch.

Done means that the record exists, is whole, and is this cell's: there is no other list of what has been done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablations.cell import Cell, Training
from ablations.failures import INTERRUPTIONS
from ablations.gates import FILE as MEAN_GATES
from ablations.plan import Sweep, cell_folder, training_folder
from videonsa.record import read_record

DONE, FAILED, INTERRUPTED, WAITING = "done", "failed", "interrupted", "waiting"
GONE = "done, weights gone"  # of a training: what was asked of them stands, and for more it is trained again


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
        agrees(settings.get(key), cell.settings[key]) for key in ("nsa", "suite", "method") if key in cell.settings
    )
    return same and record.get("kind") == "evaluation" and (record.get("identities") or {}).get("cell") == cell.id


def agrees(recorded: Any, settings: Any) -> bool:
    """The recorded settings are these; fields that are newer than the record are left to the identity."""
    if isinstance(recorded, Mapping) and isinstance(settings, Mapping):
        return all(agrees(value, settings.get(key)) for key, value in recorded.items())
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
