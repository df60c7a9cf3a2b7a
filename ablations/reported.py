"""The report at W&B that ends a sweep where it is asked for. The sweep stands, whatever becomes of it."""

from __future__ import annotations

import sys
import traceback

from ablations.plan import Sweep
from videonsa.commands import as_typed
from videonsa.config import SettingsError


def require_report() -> None:
    """Raise SettingsError before anything runs where no report could be made in the end."""
    from analysis.mirror.refusals import ReportRefused, check_report

    try:
        check_report()
    except ReportRefused as error:
        raise SettingsError(f"--wandb-report: {error}") from None


def report(sweep: Sweep, questions: bool) -> None:
    """Make the report, and say where it is, or in a line why it is not."""
    try:
        from analysis.mirror.report import report_sweep

        made = report_sweep(sweep.out, sweep.folder, questions)
    except Exception as error:
        if not isinstance(error, OSError | ValueError):
            traceback.print_exc()
        again = as_typed("python analysis/run.py wandb")
        print(f"W&B report: {type(error).__name__}: {error}; `{again}` tries again", file=sys.stderr)
        return
    print("\n".join(f"  {line}" for line in [str(made.paths[0]), *made.lines]))
