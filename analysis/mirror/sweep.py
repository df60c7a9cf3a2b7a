"""A sweep's own run at W&B: its table, its figures, its questions with every variant's prediction."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any

from analysis.mirror.cell import NOTHING_ELSE
from analysis.mirror.content import Content
from analysis.mirror.tables import Rows, sweep_run_id
from videonsa.record import without_paths
from videonsa.tracking import Tracker

OF_PLAN = ("sweep", "profile", "grid", "question", "asks", "axes", "reference")


def send_sweep(content: Content, out: Path) -> str | None:
    """Make the sweep's run; "online" or "offline": where it is now. None where it is not whole, which is said.

    Offline parts of before are removed then: `wandb sync` would put them in its place, and send what it leaves out.
    """
    plan, older = content.plan, offline_parts(out, sweep_run_id(content.plan["sweep"]))
    staged = out / "wandb" / "staged" / sweep_run_id(plan["sweep"])
    older += [path for path in staged.glob("*") if path.is_dir()]
    with _staged_in(staged / uuid.uuid4().hex[:8]):
        run = Tracker(
            plan["sweep"],
            out,
            settings=NOTHING_ELSE,
            id=sweep_run_id(plan["sweep"]),
            group=plan["sweep"],
            job_type="sweep",
            tags=["sweep"],
            config=json.loads(without_paths(json.dumps({name: plan.get(name) for name in OF_PLAN}))),
        )
        run.log(lambda: _media(content.tables, content.figures), step=0)
        run.close(answer=" ".join(content.answer), cells=len(plan["cells"]))
    if run.kept is None or run.full:
        return None
    for path in older:
        shutil.rmtree(path, ignore_errors=True)
    return run.kept


def offline_parts(out: Path, run: str) -> list[Path]:
    """The folders of this run below an out folder that wait for `wandb sync`."""
    return [path.parent for path in (out / "wandb").glob(f"offline-run-*/run-{escape(run)}.wandb")]


def _media(tables: Mapping[str, Rows], figures: Mapping[str, Path]) -> dict[str, Any]:
    import wandb

    shown: dict[str, Any] = {
        name: wandb.Table(columns=table.columns, data=table.data, allow_mixed_types=True)
        for name, table in tables.items()
    }
    return shown | {name: wandb.Image(str(path)) for name, path in figures.items()}


@contextmanager
def _staged_in(folder: Path) -> Iterator[None]:
    """W&B keeps tables here until they are sent, beside the runs and not in the user's home; unless WANDB_DATA_DIR says
    where."""
    name = "WANDB_DATA_DIR"
    if os.environ.get(name, "").strip():
        yield
        return
    os.environ[name] = str(folder.resolve())
    try:
        yield
    finally:
        os.environ.pop(name, None)
