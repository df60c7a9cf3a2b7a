"""The heavy functions that jobs call, by name: imported inside the job, so that planning stays light. No torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Stages:
    """The heavy functions by name, 'package.module:function'."""

    train: str = "videonsa.training.run:train"
    load: str = "evals.checkpoint:load"
    evaluate: str = "evals.run:SuiteRun"  # or a function as evals.run.evaluate, which is asked a cell at a time
    probe: str = "evals.probe:probe"
    gates: str = "videonsa.training.measure:measure_gates"
    media: str = "evals.media:kept"  # keeps what a SuiteRun reads for people to look at

    def get(self, name: str) -> Callable[..., Any]:
        """Import one of them."""
        module, _, function = getattr(self, name).partition(":")
        return getattr(importlib.import_module(module), function)
