"""A sweep's own run at W&B: its table, its figures, its questions with every variant's prediction."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from analysis.mirror.cell import NOTHING_ELSE
from analysis.mirror.content import Content
from analysis.mirror.tables import Rows, sweep_run_id
from videonsa.tracking import Tracker

OF_PLAN = ("sweep", "profile", "grid", "question", "asks", "axes", "reference")


def send_sweep(content: Content, out: Path) -> str | None:
    """Make the sweep's run; "online" or "offline": where it is now. None where it could not be made, which is said."""
    plan = content.plan
    with staged_below(out):
        run = Tracker(
            plan["sweep"],
            out,
            settings=NOTHING_ELSE,
            id=sweep_run_id(plan["sweep"]),
            group=plan["sweep"],
            job_type="sweep",
            tags=["sweep"],
            config={name: plan.get(name) for name in OF_PLAN},
        )
        run.log(lambda: _media(content.tables, content.figures), step=0)
        run.close(answer=" ".join(content.answer), cells=len(plan["cells"]))
    return run.kept


def _media(tables: Mapping[str, Rows], figures: Mapping[str, Path]) -> dict[str, Any]:
    import wandb

    shown: dict[str, Any] = {
        name: wandb.Table(columns=table.columns, data=table.data, allow_mixed_types=True)
        for name, table in tables.items()
    }
    return shown | {name: wandb.Image(str(path)) for name, path in figures.items()}


@contextmanager
def staged_below(out: Path) -> Iterator[None]:
    """What W&B keeps of tables until they are sent lies below the out folder, and not in the user's home."""
    name, place = "WANDB_DATA_DIR", out.resolve() / "wandb" / "data"
    if os.environ.get(name, "").strip():
        yield
        return
    os.environ[name] = str(place)
    try:
        yield
    finally:
        os.environ.pop(name, None)
