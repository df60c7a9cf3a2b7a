"""Losses of a sweep's trainings, step by step, from the metrics.jsonl of each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.shared import served

COLUMNS = ["training", "label", "variant", "seed", "is_reference", "start", "step", "loss"]


def read_losses(out: Path, plan: Mapping[str, Any] | None) -> pd.DataFrame:
    """One row a step of each training that has begun; `start`: the training whose weights it began with, or None.

    `variant`: the label without the seed; `seed`: None of what others only begin with.
    """
    rows = []
    cells = (plan or {}).get("cells") or []
    labels, reference = served(cells, "training"), _trainings_of((plan or {}).get("reference"), cells)
    variants = served(cells, "training", seeded=False)
    seeds = {str(cell.get("training")): cell.get("seed") for cell in cells}
    for name, settings in ((plan or {}).get("trainings") or {}).items():
        start = (settings.get("start") or {}).get("id")
        about = {"training": name, "label": labels.get(name, name), "seed": seeds.get(name), "start": start}
        about |= {"variant": variants.get(name, name), "is_reference": name in reference}
        rows += [about | line for line in _steps(out / "trainings" / name / "metrics.jsonl")]
    return pd.DataFrame(rows, columns=COLUMNS)


def _trainings_of(label: str | None, cells: Iterable[Mapping[str, Any]]) -> set[str]:
    return {str(cell.get("training")) for cell in cells if cell.get("label") == label}


def _steps(file: Path) -> list[dict[str, Any]]:
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError):
        return []
    return [{key: line[key] for key in ("step", "loss")} for line in lines if {"step", "loss"} <= line.keys()]
