"""What trainings have made: where it lies, and which bits it is. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ablations.cell import Training
from ablations.failures import TrainingFailed
from ablations.plan import training_folder
from ablations.state import DONE, has_weights
from videonsa.record import read_record


def is_trained(out: Path, training: Training) -> bool:
    """The training is done, and what it made is there."""
    record = read_record(training_folder(out, training.id) / "record.json")
    done = training.exists or (record is not None and record["status"] == DONE)
    return done and has_weights(out, training, record)


def trained_folder(out: Path, training: Training) -> Path:
    """The weights that a training has made. Raises TrainingFailed where it has not, or where they are gone."""
    folder = training_folder(out, training.id)
    record = read_record(folder / "record.json")
    if record is None or record["status"] != DONE:
        reason = (record or {}).get("error", {}).get("message", "it has no record")
        raise TrainingFailed(f"training {training.id} is not done: {reason}")
    if not has_weights(out, training, record):
        raise TrainingFailed(f"training {training.id} is done, but its weights are gone: its folder has no final/")
    return folder / "final"


def put_aside_remains(folder: Path) -> None:
    """What is left of weights that are no longer whole: a training takes any final/ for its end."""
    final, remains = folder / "final", folder / "final.incomplete"
    if os.path.lexists(final):
        shutil.rmtree(remains, ignore_errors=True)
        os.replace(final, remains)


def training_summary(folder: Path) -> dict[str, Any]:
    """Steps, last loss and tokens of a training, from its metrics, what it started from, and which weights it made."""
    last: dict[str, Any] = {}
    for line in _json_lines(folder / "metrics.jsonl"):
        last |= line
    wanted = {"step": "steps", "loss": "final_loss", "tokens": "tokens", "seconds": "seconds"}  # of all its parts
    start = {key: value for found in _json_lines(folder / "start.json") for key, value in found.items()}
    digest = weights_digest(folder / "final")
    return (
        {name: last[key] for key, name in wanted.items() if key in last}
        | start
        | ({"weights": digest} if digest else {})
    )


def weights_digest(folder: Path) -> str | None:
    """12 hexadecimal digits of the weights' files, all bits of them; None where there are none."""
    files = sorted(folder.glob("*.safetensors"))
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12] if files else None


def of_weights(out: Path, training: Training, record: Mapping[str, Any]) -> dict[str, Any]:
    """What the record of a cell or a probe says of its weights, with the digest of those that were trained."""
    trained = None if training.exists else read_record(training_folder(out, training.id) / "record.json")
    digest = ((trained or {}).get("summary") or {}).get("weights")
    return {"weights": {**(record.get("weights") or {}), "digest": digest}} if digest else {}


def made_before(record: Mapping[str, Any] | None) -> list[str | None]:
    """The weights that a training has made before, of whose records this is the last: oldest first; None: not known.

    A training whose weights are gone is made again for more questions. To the same bits on the same kind of machine, or
    nearly to them: its records say which.
    """
    if record is None or record["status"] != DONE:
        return []
    return [*record.get("made_before", []), (record["summary"] or {}).get("weights")]


def _json_lines(file: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, json.JSONDecodeError):
        return []
