"""A job with all that it needs, wherever it runs. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablations.jobs import Job
from ablations.stages import Stages


@dataclass(frozen=True)
class Work:
    """A job with all that it needs, as ablations/job_*.py take it."""

    job: Job
    out: Path
    folder: Path  # of the job: progress.json
    sweep: str
    stages: Stages = field(default_factory=Stages)
    attempt: str = ""  # jobs that were started together share this name, and settle among them what is an error
    mirror: bool = True  # to W&B
    origin: Mapping[str, Any] = field(default_factory=dict)  # commit and state of the checkout that a snapshot is of
    sharing: float = 1.0  # trainings that have the GPU of a training, with it
