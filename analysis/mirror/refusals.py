"""When no report can be made at all. Imports nothing heavy: a sweep asks before it begins."""

from __future__ import annotations

from importlib.util import find_spec

from videonsa.commands import to_install
from videonsa.wandb_rules import is_disabled

NEEDS = "wandb-workspaces is not installed"
OFF = "W&B is switched off by WANDB_MODE or WANDB_DISABLED; WANDB_MODE=offline keeps runs and report here"


class ReportRefused(ValueError):
    """No report can be made. The message is one line."""


def check_report() -> None:
    """Raises ReportRefused where W&B is switched off, or its library for reports is missing."""
    if is_disabled():
        raise ReportRefused(OFF)
    if find_spec("wandb_workspaces") is None:
        raise ReportRefused(f"{NEEDS}: {to_install('report')}")
