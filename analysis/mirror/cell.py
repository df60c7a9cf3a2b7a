"""W&B shows what is on disk: one run a cell, grouped by sweep, made from the finished record. It never fails a cell.

videonsa/tracking.py says when a run is online; an offline one waits below <out>/wandb for `wandb sync`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videonsa.tracking import Tracker

# The record has where and when a cell ran; what this machine does while its run is written says nothing of it. To list
# its packages takes W&B longer (0.4 s) than all the rest of such a run (0.03 s).
NOTHING_ELSE = dict.fromkeys(("x_disable_stats", "x_disable_meta", "x_disable_machine_info"), True)
NOTHING_ELSE |= {"x_save_requirements": False}


def mirror(record: Mapping[str, Any], out: Path, sweep: str, label: str) -> None:
    """Make the W&B run of one cell. A problem is said on stderr and goes no further."""
    suite = record["settings"]["suite"]["name"]
    run = Tracker(
        f"{label} · {suite}",
        out,
        settings=NOTHING_ELSE,
        id=f"{record['id']}-{record['status']}",
        group=sweep,
        job_type="evaluation",
        tags=[suite, record["status"]],
        config=dict(record["settings"]) | {"identities": record["identities"]},
    )
    run.log(_numbers(record))
    error = {"error": record["error"]["message"]} if record.get("error") else {}
    run.close(0 if record["status"] == "done" else 1, status=record["status"], **error)


def _numbers(record: Mapping[str, Any]) -> dict[str, Any]:
    named = {**(record.get("scores") or {}), **(record.get("summary") or {})}
    return {key: value for key, value in named.items() if isinstance(value, int | float)}
