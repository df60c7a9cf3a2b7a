"""W&B shows what is on disk: one run a cell, grouped by sweep, made from the finished record. It never fails a cell.

Offline below <out>/wandb unless WANDB_API_KEY is set; `wandb sync <out>/wandb/offline-run-*` sends those runs later.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROJECT = "videonsa-bench"


def mirror(record: Mapping[str, Any], out: Path, sweep: str, label: str) -> None:
    """Make the W&B run of one cell. A problem is said on stderr and goes no further."""
    if os.environ.get("WANDB_MODE") == "disabled":
        return
    try:
        _mirror(record, out, sweep, label)
    except Exception as error:  # W&B is a mirror: whatever ails it, the record stands
        print(f"W&B: no run for {label}: {type(error).__name__}: {error}", file=sys.stderr)


def _mirror(record: Mapping[str, Any], out: Path, sweep: str, label: str) -> None:
    import wandb

    suite = record["settings"]["suite"]["name"]
    (out / "wandb").mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        id=f"{record['id']}-{record['status']}",
        name=f"{label} · {suite}",
        group=sweep,
        job_type="evaluation",
        tags=[suite, record["status"]],
        config=dict(record["settings"]) | {"identities": record["identities"]},
        dir=str(out),
        mode="online" if os.environ.get("WANDB_API_KEY") else "offline",
        settings=wandb.Settings(
            console="off",
            disable_git=True,
            disable_code=True,
            silent=True,
            x_disable_stats=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        ),
        reinit="finish_previous",
    )
    run.log(_numbers(record))
    run.summary["status"] = record["status"]
    if record.get("error"):
        run.summary["error"] = record["error"]["message"]
    run.finish(exit_code=0 if record["status"] == "done" else 1)


def _numbers(record: Mapping[str, Any]) -> dict[str, Any]:
    named = {**(record.get("scores") or {}), **(record.get("summary") or {})}
    return {key: value for key, value in named.items() if isinstance(value, int | float)}
