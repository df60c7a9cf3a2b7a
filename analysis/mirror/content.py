"""What is to be shown of a sweep at W&B, gathered from its records, tables and figures. No W&B here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.answer import answer_lines
from analysis.load import load, read_plan
from analysis.mirror.spec import make_report
from analysis.mirror.tables import FIGURES, QUESTIONS, TABLE, Rows, cells_table, question_tables
from analysis.page.media import Media
from analysis.summary import sweep_data
from videonsa.record import without_paths


@dataclass(frozen=True)
class Content:
    """What is to be shown."""

    plan: Mapping[str, Any]
    rows: pd.DataFrame
    answer: list[str]
    tables: Mapping[str, Rows]
    figures: Mapping[str, Path]
    report: Mapping[str, Any]  # what a server is told, as FILE holds it


def gather(out: Path, sweep: Path, questions: bool) -> Content:
    """Of the sweep with this folder, whose figures are drawn. Raises NotAPlan."""
    plan = read_plan(sweep)
    results = load(out, plan)
    data = sweep_data(plan, results)
    rows = data["all rows"]
    answer = [without_paths(line) for line in answer_lines(rows)]
    tables = {TABLE: cells_table(rows)}
    if questions:
        tables |= {f"{QUESTIONS}/{suite}": table for suite, table in question_tables(results, rows, Media(out)).items()}
    figures = {f"{FIGURES}/{path.stem}": path for path in sorted((sweep / "figures").glob("*.png"))}
    report = make_report(plan, rows, answer, data["problems"], list(tables), list(figures))
    digest = hashlib.sha256(json.dumps([report, tables]).encode())
    for path in figures.values():
        digest.update(path.read_bytes())
    return Content(plan, rows, answer, tables, figures, report | {"content": digest.hexdigest()})
