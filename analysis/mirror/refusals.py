"""When no report can be made at all. A sweep asks before it begins: with a key in a variable this imports little."""

from __future__ import annotations

from importlib.util import find_spec

from videonsa.commands import to_install
from videonsa.wandb_rules import goes_online, has_key, is_disabled

NEEDS = "wandb-workspaces is not installed"
OFF = "W&B is switched off by WANDB_MODE or WANDB_DISABLED; WANDB_MODE=offline keeps runs and report here"
NO_KEY = (
    "W&B is to go online, and has no key: set WANDB_API_KEY, or WANDB_MODE=offline, which keeps runs and report here"
)


class ReportRefused(ValueError):
    """No report can be made. The message is one line."""


def check_report() -> None:
    """Raises ReportRefused where W&B is switched off or has no key, or its library for reports is missing."""
    if is_disabled():
        raise ReportRefused(OFF)
    if find_spec("wandb_workspaces") is None:
        raise ReportRefused(f"{NEEDS}: {to_install('report')}")
    if goes_online() and not has_key():
        raise ReportRefused(NO_KEY)
