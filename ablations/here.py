"""What a job finds where it runs: what computes, the weights, and what records say of both. Imports no torch."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ablations.cell import Cell
from ablations.jobs import Job
from ablations.trained import trained_folder
from ablations.work import Work
from videonsa.record import provenance


def observed(loaded: Any = None) -> dict[str, Any]:
    """What computes here, as torch sees it, and the loaded model's dtype and hub revision; empty without torch."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    cuda = torch.cuda.is_available()
    seen = {"device": "cuda" if cuda else "cpu", "gpu": torch.cuda.get_device_name() if cuda else None}
    model = getattr(loaded, "model", None)
    if model is not None:
        seen |= {"device": model.device.type, "dtype": str(model.dtype).removeprefix("torch.")}
        seen["hub_revision"] = getattr(model.config, "_commit_hash", None)
    return seen


def provenance_here(work: Work, loaded: Any = None) -> dict[str, Any]:
    """Where and when; the commit is that of the checkout when the job runs from a snapshot of it."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return provenance() | observed(loaded) | dict(work.origin) | {"time": now}


def checkpoint_of(out: Path, of: Cell | Job) -> str | Path:
    """The weights of a cell or job: its training's final folder, or the checkpoint that was given."""
    training = of.training
    given = training.checkpoint and training.facts.location(training.checkpoint)
    if training.exists:
        return str(given)
    folder = trained_folder(out, training)
    return given or folder
