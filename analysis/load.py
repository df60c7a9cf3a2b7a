"""Records of an out folder -> DataFrames. Nothing is computed here, and nothing is dropped in silence.

A failed cell stays a row with its error; a planned cell without a record is a row with status "missing"; a file that is
not a whole record of ours is named in `Results.problems` and left out.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import pandas as pd

from analysis.arrays import of_first
from analysis.losses import COLUMNS as LOSS_COLUMNS
from analysis.losses import read_losses
from analysis.numbers import SAME, by_cell, number_of
from analysis.rows import (
    CELL_COLUMNS,
    CONTENT_COLUMNS,
    GATE_COLUMNS,
    LATENCY_COLUMNS,
    POINT_COLUMNS,
    QUESTION_COLUMNS,
    RECALL_COLUMNS,
    SCORES,
    SINK_COLUMNS,
    SUMMARY,
    cell_row,
    content_rows,
    digest_of,
    each,
    latency_rows,
    layer_rows,
    part,
    point_rows,
    question_rows,
    recall_rows,
)
from analysis.shared import lead, served
from videonsa.record import SCHEMA, read_record

NUMBERS = (*(name for name in SCORES if name not in ("metric", "accuracy")), *SUMMARY.values())  # of cells, or None


@dataclass(frozen=True)
class Results:
    """What an out folder holds. Accuracies are shares (0..1), times ms, memory MiB, lengths tokens.

    Beside arrays stands the `label` of their probe, where there are several probes.
    """

    cells: pd.DataFrame  # one row a cell
    questions: pd.DataFrame  # one row a question of a finished cell; score is NaN where it ended in an error
    gates: pd.DataFrame  # one row a probe, layer and branch
    sinks: pd.DataFrame  # the same, with branch "gated" for the sum
    points: pd.DataFrame  # sampled keys of the probes
    problems: tuple[str, ...]  # one line each: files left out, numbers that disagree
    recall: pd.DataFrame = field(default_factory=pd.DataFrame)  # one row a probe, layer, method and part of the method
    content: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=CONTENT_COLUMNS))  # what gates follow
    latency: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=LATENCY_COLUMNS))  # a branch and layer
    losses: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=LOSS_COLUMNS))  # a training and step
    arrays: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by observer, of the first probe with any


class NotAPlan(ValueError):
    """The sweep folder has no whole plan.json. The message is one line with the path."""


def read_plan(sweep: Path) -> dict[str, Any]:
    """The plan of a sweep folder (runs/sweeps/<profile>-<grid>), its name added; NotAPlan when missing or damaged."""
    path = sweep / "plan.json"
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise NotAPlan(f"{path}: no plan of a sweep ({type(error).__name__})") from None
    cells = plan.get("cells") if isinstance(plan, dict) else None
    if not isinstance(cells, list) or not all(map(_is_cell, cells)):
        raise NotAPlan(f"{path}: no plan of a sweep (it has no list of cells with ids)")
    if not isinstance(plan.get("reference"), str | None):
        raise NotAPlan(f"{path}: no plan of a sweep (its reference is no variant's label)")
    return {**plan, "sweep": plan.get("sweep") or sweep.name}


def _is_cell(cell: object) -> bool:
    """Whether it is a cell as plans have them: its names are text, where it has them."""
    if not isinstance(cell, dict) or not isinstance(cell.get("id"), str):
        return False
    names = ("label", "suite", "training", "probe", "method")
    return all(isinstance(cell.get(name), str | None) for name in names)


def axes_of(plan: Mapping[str, Any]) -> set[str]:
    """The settings that a plan varies, without their group: {"block_count", "window"}."""
    return {str(axis).rpartition(".")[2] for axis in plan.get("axes") or []}


def load(out: Path, plan: Mapping[str, Any] | None = None) -> Results:
    """Every record below `out`, or with a plan those of its cells, in its order, with rows for the missing ones."""
    problems: list[str] = []
    planned = plan["cells"] if plan else [{"id": name} for name in folders(out / "cells")]
    cells: list[dict[str, Any]] = []
    questions: dict[str, list[dict[str, Any]]] = {}  # of a record: two variants that ask the same share one
    for place in planned:
        record = read_kind(out / "cells" / place["id"] / "record.json", "evaluation", problems)
        if record is None and not plan:
            continue
        training = part(plan, "trainings").get(str(place.get("training"))) or {}
        row = checked(cell_row(place["id"], record, place, training), problems)
        cells.append(row)
        if record is not None and row["status"] == "done":
            questions.setdefault(row["id"], question_rows(row, record))
    frame = _tell_seeds_apart(pd.DataFrame(cells, columns=CELL_COLUMNS))
    asked = pd.DataFrame(itertools.chain(*questions.values()), columns=QUESTION_COLUMNS)
    asked["label"] = asked["cell"].map(frame.drop_duplicates("id").set_index("id")["label"])
    asked["score"] = pd.to_numeric(asked["score"], errors="coerce")
    probes = _probe_labels(out, plan)
    records = read_probes(out, probes, problems)
    gates, sinks, points, recall, content, latency = probe_tables(records, probes, _probe_variants(plan), problems)
    arrays = _arrays(out, records, probes, problems)
    return Results(
        frame,
        asked,
        gates,
        sinks,
        points,
        tuple(problems + _disagreements(frame, asked) + _probes_of_other_weights(records, frame)),
        recall,
        content,
        latency,
        read_losses(out, plan),
        arrays,
    )


def find_reference(plan: Mapping[str, Any], cells: pd.DataFrame) -> str | None:
    """The variant that the others are compared with: the plan's, else the one that is asked as its model was trained.

    Of several such, the one whose model most variants share, then the one whose videos have the most frames and the
    tokens a frame of training; None when that does not leave exactly one, or when each variant was trained for itself.
    """
    if "reference" in plan:
        return plan["reference"]
    if plan.get("asks") == "train":
        return None
    trained = cells[cells["as_trained"].fillna(False).astype(bool)]
    shared = cells.groupby("training")["variant"].nunique()
    most = shared.index[shared == shared.max()]
    if len(most) == 1:
        trained = trained[trained["training"] == most[0]]
    if trained["variant"].nunique() > 1:
        same = (trained["frames"] == trained["train_frames"]) & (trained["tokens_per_frame"] == trained["block_size"])
        trained = trained[same]
    labels = trained["variant"].unique()
    return str(labels[0]) if len(labels) == 1 else None


def folders(parent: Path) -> list[str]:
    """Names of the folders in a folder, sorted; none where it is not there."""
    return sorted(path.name for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []


def below_out(path: Path) -> str:
    """A record's place as others are told it, from its out folder on: cells/0123abcd/record.json."""
    return "/".join(path.parts[-3:])


def read_kind(path: Path, kind: str, problems: list[str]) -> dict[str, Any] | None:
    """A whole record of this kind, done or failed; None where there is none: `problems` then says what else it is."""
    if not path.exists():
        return None
    try:
        record = read_record(path)
    except OSError as error:
        problems.append(f"{below_out(path)}: cannot be read ({type(error).__name__})")
        return None
    except RecursionError:
        record = None
    if record is None:
        problems.append(f"{below_out(path)}: not a whole record, left out")
    elif record["kind"] != kind or record.get("schema") != SCHEMA or record["status"] not in ("done", "failed"):
        given = f"kind {record['kind']!r}, schema {record.get('schema')!r}, status {record['status']!r}"
        problems.append(f"{below_out(path)}: not a record of this kind ({given}), left out")
    else:
        return record
    return None


def is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def checked(row: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """The row without numbers that are none; one that is done without an accuracy from 0 to 1 is shown as failed."""
    other = [name for name in NUMBERS if not (row.get(name) is None or is_number(row[name]))]
    parts = row.get("parts")
    if parts is not None and not (isinstance(parts, dict) and all(isinstance(one, dict) for one in parts.values())):
        other.append("parts")
    if other:
        problems.append(f"cell {row['id']}: its record's {', '.join(other)} cannot be read, left out")
        row = {**row, **dict.fromkeys(other)}
    accuracy = row["accuracy"]
    if row["status"] != "done" or (is_number(accuracy) and 0 <= accuracy <= 1):
        return row
    problems.append(f"cell {row['id']}: its record says done but has no accuracy; shown as failed")
    failed = {"status": "failed", "error_type": "NoAccuracy", "error": "the record has no accuracy"}
    return {**row, **failed, "accuracy": None}


def _tell_seeds_apart(cells: pd.DataFrame) -> pd.DataFrame:
    """Where a sweep has a variant under several seeds, each gets a label of its own; `variant` stays."""
    if cells.duplicated(["label", "suite"]).any():
        several = cells.groupby(["label", "suite"])["seed"].transform("nunique") > 1
        cells.loc[several, "label"] += " seed " + cells.loc[several, "seed"].astype(str)
    return cells


def _disagreements(cells: pd.DataFrame, questions: pd.DataFrame) -> list[str]:
    """Records whose accuracy is not what their own questions' scores come to, by the shares of their kinds."""
    asked = by_cell(questions)
    lines = []
    for row in each(cells[cells["status"] == "done"]):
        if row.id not in asked or asked[row.id]["score"].isna().all():
            continue
        mean = number_of(row, asked[row.id]).mean
        if not abs(row.accuracy - mean) <= SAME:
            lines.append(
                f"cell {row.id}: the record says accuracy {row.accuracy:.4f}, its answered questions come to {mean:.4f}"
            )
    return lines


def _probes_of_other_weights(records: Mapping[str, Mapping[str, Any]], cells: pd.DataFrame) -> list[str]:
    """Probes that looked at other weights than some of their cells were asked of, as a training was made again."""
    lines = []
    done = cells[cells["status"] == "done"].dropna(subset=["probe"])
    for probe, digests in done.groupby("probe")["digest"]:
        looked_at = digest_of(records.get(str(probe)))
        others = sorted(set(digests.dropna()) - {looked_at})
        if looked_at and others:
            lines.append(f"probe {probe} looked at weights {looked_at}; cells were asked of {', '.join(others)}")
    return lines


def _probe_labels(out: Path, plan: Mapping[str, Any] | None) -> dict[str, str]:
    """Probe id -> what the variants are called that it looks at; where all are other methods, those of the weights."""
    if not plan:
        return {name: f"probe {name[:6]}" for name in folders(out / "probes")}
    cells = [cell for cell in plan["cells"] if cell.get("probe")]
    labels, weights = served(cells, "probe"), served(plan["cells"], "training")
    own = {cell["probe"] for cell in cells if not cell.get("method")}
    asked = {cell["probe"]: weights.get(str(cell.get("training"))) for cell in cells}
    return {probe: label if probe in own else asked[probe] or label for probe, label in labels.items()}


def _probe_variants(plan: Mapping[str, Any] | None) -> dict[str, dict[str, str]]:
    """Probe id -> what the sweep calls each method that it looks at: NSA its variants' lead, if they have one."""
    variants: dict[str, dict[str, list[str]]] = {}
    for cell in (plan or {"cells": ()})["cells"]:
        if cell.get("probe"):
            of_method = variants.setdefault(cell["probe"], {}).setdefault(cell.get("method") or "nsa", [])
            of_method.append(str(cell.get("name") or cell.get("label")))
    named = {
        probe: {method: lead(labels) or ("" if method == "nsa" else labels[0]) for method, labels in of.items()}
        for probe, of in variants.items()
    }
    return {probe: {method: name for method, name in of.items() if name} for probe, of in named.items()}


def read_probes(out: Path, names: Iterable[str], problems: list[str]) -> dict[str, dict[str, Any]]:
    """The records of these probes, those that there are."""
    records = {name: read_kind(out / "probes" / name / "record.json", "probe", problems) for name in names}
    return {name: record for name, record in records.items() if record is not None}


def _arrays(
    out: Path, records: Mapping[str, Mapping[str, Any]], labels: Mapping[str, str], problems: list[str]
) -> dict[str, dict[str, Any]]:
    """Of the observers that figures of sweeps are drawn from, of labelled probes."""
    said = {name: part(record, "arrays") for name, record in records.items()}
    first = {observer: of_first(out, said, observer, problems) for observer in ("maps", "sinks")}
    label = {name: {"label": label} for name, label in labels.items()} if len(labels) > 1 else {}
    return {observer: arrays | label.get(probe, {}) for observer, (probe, arrays) in first.items()}


def probe_tables(
    records: Mapping[str, Mapping[str, Any]],
    labels: Mapping[str, str],
    variants: Mapping[str, Mapping[str, str]],
    problems: list[str],
) -> tuple[pd.DataFrame, ...]:
    """(gates, sinks, points, recall, content, latency) of labelled probes; `variants`: what each one's methods are
    called."""
    gates: list[dict] = []
    sinks: list[dict] = []
    points: list[dict] = []
    recall: list[dict] = []
    content: list[dict] = []
    latency: list[dict] = []
    for name, record in records.items():
        if record["status"] != "done":
            continue
        suite = part(part(record, "settings"), "suite").get("name") or ""
        about = {"probe": name, "label": labels[name], "suite": suite}
        try:
            gates += layer_rows(record, "gates", about)
            sinks += layer_rows(record, "sinks", about)
            points += point_rows(record, about)
            recall += recall_rows(record, about, variants.get(name) or {})
            content += content_rows(record, about)
            latency += latency_rows(record, about)
        except (KeyError, TypeError, AttributeError) as error:
            what = f"its layers are not as a probe writes them ({type(error).__name__}: {error})"
            problems.append(f"probes/{name}/record.json: {what}")
    frames = (
        *((gates, GATE_COLUMNS), (sinks, SINK_COLUMNS), (points, POINT_COLUMNS), (recall, RECALL_COLUMNS)),
        *((content, CONTENT_COLUMNS), (latency, LATENCY_COLUMNS)),
    )
    return tuple(pd.DataFrame(rows, columns=columns) for rows, columns in frames)
