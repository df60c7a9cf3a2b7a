"""index.html: all sweeps of an out folder, from their plans, their tables and the first lines of their records."""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from analysis.page import Section, document, text
from analysis.page.tables import Cell, number, plain, table
from analysis.titles import sweep_question
from videonsa.commands import as_typed
from videonsa.record import SCHEMA, write_text

NAME = "index.html"
STATUS = re.compile(rf'\{{\s*"schema": {SCHEMA},\s*"kind": "evaluation",\s*"status": "(done|failed)"')
FIRST, LAST = 300, 8  # bytes of a record
HEADINGS = ("sweep", "what it asks", "benchmarks", "variants", "done", "failed", "missing", "reference", "made")


def write_index(out: Path) -> Path:
    """Write the page of an out folder; returns its path. A damaged plan or table costs its own numbers alone."""
    rows = [("", _row(path.parent)) for path in sorted((out / "sweeps").glob("*/plan.json"))]
    made = table("Every sweep, and how its reference does", HEADINGS, rows) if rows else _none()
    appendix = "paper/appendix.html"
    link = f'<p><a href="{appendix}">The paper\'s tables and figures, ours beside the published numbers</a></p>'
    sections = [Section("sweeps", "Sweeps", made + (link if (out / appendix).is_file() else ""))]
    about = f"{len(rows)} of them in this folder of records"
    write_text(out / NAME, document("Sweeps", about, sections))
    return out / NAME


def _none() -> str:
    first = as_typed("python ablations/run.py --grid smoke")
    return f'<p class="what">There is no sweep here yet: <code>{first}</code> makes one.</p>'


def _row(sweep: Path) -> list[Cell]:
    plan, lines = _plan(sweep), _table(sweep)
    cells = [cell for cell in plan.get("cells") or [] if isinstance(cell, dict)]
    states = Counter(_status(sweep.parent.parent / "cells" / str(cell.get("id")) / "record.json") for cell in cells)
    report = sweep / "report.html"
    place = f"sweeps/{sweep.name}/{report.name}"
    name = Cell(f'<a href="{text(place)}">{text(sweep.name)}</a>') if report.is_file() else plain(sweep.name)
    counts = [len({str(cell.get(key)) for cell in cells}) for key in ("suite", "label")]
    numbers = [*counts, *(states[state] for state in ("done", "failed", "missing"))]
    shown = [number(count, f"{count:,}") for count in numbers]
    if states["failed"]:
        shown[3] = shown[3]._replace(kind="n failed")
    question = Cell(text(sweep_question(plan) or "-"), kind="long")
    reference = Cell(text(_reference(lines)), kind="long")
    return [name, question, *shown, reference, plain(_time(report))]


def _status(record: Path) -> str:
    """Of a record, which says it before anything long; of half a record, or one of another version, as tables do."""
    try:
        with open(record, "rb") as file:
            found = STATUS.match(file.read(FIRST).decode(errors="replace"))
            file.seek(-min(LAST, record.stat().st_size), os.SEEK_END)
            whole = file.read().rstrip().endswith(b"}")
    except OSError:
        return "missing"
    return found[1] if found and whole else "missing"


def _plan(sweep: Path) -> dict[str, Any]:
    try:
        plan = json.loads((sweep / "plan.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        plan = None
    return plan if isinstance(plan, dict) else {"question": "its plan.json cannot be read"}


def _table(sweep: Path) -> list[Mapping[str, str]]:
    """The lines of table.csv; none where the sweep has no table yet."""
    try:
        with open(sweep / "table.csv", encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error):
        return []


def _reference(lines: list[Mapping[str, str]]) -> str:
    """'b=4 w=8: synth_needle 95.3, synth_order 85.9'; in a sweep of groups each group's."""
    here = [line for line in lines if line.get("is_reference") == "True" and line.get("accuracy")]
    scores: dict[str, list[str]] = {}
    for line in here:
        if line.get("unit") == "seed":  # analysis/pooled.py, which imports pandas
            continue
        try:
            score = f"{line['suite']} {100 * float(line['accuracy']):.1f}"
        except (KeyError, ValueError):
            continue
        scores.setdefault(str(line.get("variant")), []).append(score)
    return "; ".join(f"{variant}: {', '.join(of)}" for variant, of in scores.items()) or "-"


def _time(report: Path) -> str:
    """When the page was made, UTC."""
    try:
        return datetime.fromtimestamp(report.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M")
    except OSError:
        return "-"
