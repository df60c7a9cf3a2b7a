"""Records of an out folder -> DataFrames. Nothing is computed here, and nothing is dropped in silence.

A failed cell stays a row with its error; a planned cell without a record is a row with status "missing"; a file that is
not a whole record of ours is named in `Results.problems` and left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from videonsa.config import NSASettings, SettingsError, from_dict
from videonsa.record import SCHEMA, read_record

SUMMARY = {  # names in the record -> columns
    "prefill_ms_p50": "prefill_ms",
    "latency_ms_p50": "latency_ms",
    "peak_memory_mib": "peak_memory_mib",
    "prefill_tokens_mean": "prefill_tokens",
    "vision_tokens_mean": "vision_tokens",
    "attention_fraction": "attention_fraction",
}
CELL_COLUMNS = [
    *(
        "id",
        "label",
        "suite",
        "status",
        "seed",
        "training",
        "probe",
        "metric",
        "accuracy",
        "correct",
        "questions",
        "errors",
    ),
    *(
        "chance",
        *SUMMARY.values(),
        "block_size",
        "block_count",
        "window",
        "branches",
        "gate_mode",
        "attention",
        "budget",
    ),
    *(
        "local_share",
        "train_block_count",
        "train_window",
        "frames",
        "fps",
        "tokens_per_frame",
        "limit",
        "model",
        "steps",
    ),
    *("error_type", "error", "traceback", "code", "commit"),
]
QUESTION_COLUMNS = [
    *("cell", "label", "suite", "doc_id", "prompt_hash", "answer", "prediction", "score", "latency_ms", "prefill_ms"),
    *("prefill_tokens", "vision_tokens", "peak_memory_mib", "error"),
]
GATE_COLUMNS = ["probe", "label", "suite", "layer", "branch", "mean", "q25", "median", "q75"]
SINK_COLUMNS = ["probe", "label", "suite", "layer", "branch", "ratio", "keys"]
POINT_COLUMNS = ["probe", "label", "suite", "layer", "branch", "position", "alpha", "v_norm", "sink"]


@dataclass(frozen=True)
class Results:
    """What an out folder holds. Accuracies are shares (0..1), times ms, memory MiB, lengths tokens."""

    cells: pd.DataFrame  # one row a cell, CELL_COLUMNS
    questions: (
        pd.DataFrame
    )  # one row a question of a finished cell, QUESTION_COLUMNS; score is NaN where it could not be asked
    gates: pd.DataFrame  # one row a probe, layer and branch
    sinks: pd.DataFrame  # the same, with branch "gated" for the sum
    points: pd.DataFrame  # sampled keys of the probes
    problems: tuple[str, ...]  # one line each: files left out, numbers that disagree


class NotAPlan(ValueError):
    """The sweep folder has no whole plan.json. The message is one line with the path."""


def read_plan(sweep: Path) -> dict[str, Any]:
    """The plan of a sweep folder (runs/sweeps/<profile>-<grid>); raises NotAPlan when it is missing or damaged."""
    path = sweep / "plan.json"
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NotAPlan(f"{path}: no plan of a sweep ({type(error).__name__})") from None
    cells = plan.get("cells") if isinstance(plan, dict) else None
    if not isinstance(cells, list) or not all(isinstance(cell, dict) and "id" in cell for cell in cells):
        raise NotAPlan(f"{path}: no plan of a sweep (it has no list of cells with ids)")
    return plan


def load(out: Path, plan: Mapping[str, Any] | None = None) -> Results:
    """Every record below `out`, or with a plan those of its cells, in its order, with rows for the missing ones."""
    problems: list[str] = []
    planned = {cell["id"]: cell for cell in plan["cells"]} if plan else {}
    names = list(planned) if plan else _folders(out / "cells")
    cells, questions = [], []
    for name in names:
        record = _record(out / "cells" / name / "record.json", "evaluation", problems)
        row = _cell_row(name, record, planned.get(name, {}), problems)
        if plan or record is not None:
            cells.append(row)
        if record is not None and row["status"] == "done":
            questions += _question_rows(row, record)
    probes = _probe_names(out, plan, planned)
    tables = _probe_tables(out, probes, problems)
    frame = _tell_seeds_apart(pd.DataFrame(cells, columns=CELL_COLUMNS))
    asked = pd.DataFrame(questions, columns=QUESTION_COLUMNS)
    asked["label"] = asked["cell"].map(dict(zip(frame["id"], frame["label"], strict=True)))
    asked["score"] = pd.to_numeric(asked["score"], errors="coerce")
    problems += _disagreements(frame, asked)
    return Results(frame, asked, *tables, tuple(problems))


def _folders(parent: Path) -> list[str]:
    return sorted(path.name for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []


def _record(path: Path, kind: str, problems: list[str]) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        record = read_record(path)
    except OSError as error:
        problems.append(f"{path}: cannot be read ({type(error).__name__})")
        return None
    if record is None:
        problems.append(f"{path}: not a whole record, left out")
    elif record["kind"] != kind or record.get("schema") != SCHEMA or record["status"] not in ("done", "failed"):
        given = f"kind {record['kind']!r}, schema {record.get('schema')!r}, status {record['status']!r}"
        problems.append(f"{path}: not a record of this kind ({given}), left out")
    else:
        return record
    return None


def _part(mapping: Mapping[str, Any] | None, name: str) -> dict[str, Any]:
    value = (mapping or {}).get(name)
    return value if isinstance(value, dict) else {}


def _cell_row(name: str, record: dict | None, planned: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    settings = _part(record, "settings")
    suite, train, scores = _part(settings, "suite"), _part(settings, "train"), _part(record, "scores")
    error, identities = _part(record, "error"), _part(record, "identities")
    status = record["status"] if record else "missing"
    if status == "done" and not isinstance(scores.get("accuracy"), int | float):
        problems.append(f"cell {name}: its record says done but has no accuracy; shown as failed")
        status = "failed"
    row = {key: scores.get(key) for key in ("metric", "accuracy", "correct", "questions", "errors", "chance")}
    row |= {column: _part(record, "summary").get(key) for key, column in SUMMARY.items()}
    row |= {key: suite.get(key) for key in ("frames", "fps", "tokens_per_frame", "limit")}
    row |= _attention(settings, _part(planned, "variant"))
    label = planned.get("label") or (record or {}).get("label") or name
    row |= {"id": name, "label": label, "suite": planned.get("suite") or suite.get("name") or "?", "status": status}
    row |= {"seed": settings.get("seed"), "model": train.get("model"), "steps": train.get("steps")}
    row |= {"training": planned.get("training") or identities.get("training"), "probe": planned.get("probe")}
    row |= {"error_type": error.get("type"), "error": error.get("message"), "traceback": error.get("traceback")}
    return row | {"code": identities.get("code"), "commit": _part(record, "provenance").get("commit")}


def _attention(settings: Mapping[str, Any], variant: Mapping[str, Any]) -> dict[str, Any]:
    """Attention at test time: the training's, the cell's own settings over it; of a missing cell what its plan says."""
    trained = _part(_part(settings, "train"), "nsa")
    known = NSASettings.__dataclass_fields__
    given = (
        trained | _part(settings, "nsa") if settings else {key: value for key, value in variant.items() if key in known}
    )
    try:
        nsa = from_dict(NSASettings, given)
    except (SettingsError, TypeError):
        return {}
    names = ("block_size", "block_count", "window", "gate_mode", "attention")
    row: dict[str, Any] = {name: getattr(nsa, name) if settings or name in given else None for name in names}
    row |= {"branches": "+".join(nsa.branches) if settings or "branches" in given else None}
    if settings:
        row |= {"budget": nsa.budget, "local_share": nsa.window / nsa.budget}
    return row | {"train_block_count": trained.get("block_count"), "train_window": trained.get("window")}


def _question_rows(row: Mapping[str, Any], record: Mapping[str, Any]) -> list[dict[str, Any]]:
    questions = record.get("questions")
    rows = [question for question in questions if isinstance(question, dict)] if isinstance(questions, list) else []
    about = {"cell": row["id"], "label": row["label"], "suite": row["suite"]}
    return [{**question, **about, "doc_id": str(question.get("doc_id"))} for question in rows]


def _tell_seeds_apart(cells: pd.DataFrame) -> pd.DataFrame:
    """Where a sweep has one variant under several seeds, each is a variant of its own: their questions are the same."""
    if cells.duplicated(["label", "suite"]).any():
        several = cells.groupby(["label", "suite"])["seed"].transform("nunique") > 1
        cells.loc[several, "label"] += " seed " + cells.loc[several, "seed"].astype(str)
    return cells


def _disagreements(cells: pd.DataFrame, questions: pd.DataFrame) -> list[str]:
    """Records whose accuracy is not the mean of their own questions' scores."""
    means = questions.groupby("cell")["score"].mean()
    done = cells[cells["status"] == "done"].set_index("id")["accuracy"].astype(float)
    gap = (done - means.reindex(done.index)).abs()
    return [
        f"cell {name}: the record says accuracy {done[name]:.4f}, its answered questions average {means[name]:.4f}"
        for name in gap[gap > 1e-6].index
    ]


def _probe_names(out: Path, plan: Mapping | None, planned: Mapping[str, Mapping]) -> dict[str, tuple[str, str]]:
    """Probe id -> (label, suite): of the plan's cells that point to it, else of the folder itself."""
    if not plan:
        return dict.fromkeys(_folders(out / "probes"), ("", ""))
    cells = [cell for cell in planned.values() if cell.get("probe")]
    labels: dict[str, list[Mapping]] = {}
    for cell in cells:
        labels.setdefault(cell["probe"], []).append(cell)
    return {
        name: (_joined(c["label"] for c in group), _joined(c["suite"] for c in group)) for name, group in labels.items()
    }


def _joined(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _probe_tables(out: Path, probes: Mapping[str, tuple[str, str]], problems: list[str]) -> tuple[pd.DataFrame, ...]:
    gates: list[dict] = []
    sinks: list[dict] = []
    points: list[dict] = []
    for name, (label, suite) in probes.items():
        path = out / "probes" / name / "record.json"
        record = _record(path, "probe", problems)
        if record is None or record["status"] != "done":
            continue
        asked = _part(_part(record, "settings"), "suite").get("name")
        about = {"probe": name, "label": label or record.get("label") or name, "suite": asked or suite}
        try:
            gates += _layer_rows(record, "gates", about)
            sinks += _layer_rows(record, "sinks", about)
            points += [{**about, **point} for point in record.get("points") or []]
        except (KeyError, TypeError, AttributeError) as error:
            problems.append(f"{path}: its layers are not as a probe writes them ({type(error).__name__}: {error})")
    frames = ((gates, GATE_COLUMNS), (sinks, SINK_COLUMNS), (points, POINT_COLUMNS))
    return tuple(pd.DataFrame(rows, columns=columns) for rows, columns in frames)


def _layer_rows(record: Mapping[str, Any], what: str, about: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {**about, "layer": layer["layer"], "branch": branch, **values}
        for layer in record.get("layers") or []
        for branch, values in (layer.get(what) or {}).items()
    ]
