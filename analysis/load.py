"""Records of an out folder -> DataFrames. Nothing is computed here, and nothing is dropped in silence.

A failed cell stays a row with its error; a planned cell without a record is a row with status "missing"; a file that is
not a whole record of ours is named in `Results.problems` and left out.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.losses import COLUMNS as LOSS_COLUMNS
from analysis.losses import read_losses
from analysis.numbers import SAME, by_cell, number_of
from analysis.probes import of_other_weights, probe_arrays, probe_labels, probe_tables, probe_variants, read_probes
from analysis.records import checked, folders, read_kind
from analysis.rows import (
    CELL_COLUMNS,
    CONTENT_COLUMNS,
    LATENCY_COLUMNS,
    QUESTION_COLUMNS,
    cell_row,
    each,
    part,
    question_rows,
)


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
    probes = probe_labels(out, plan)
    records = read_probes(out, probes, problems)
    gates, sinks, points, recall, content, latency = probe_tables(records, probes, probe_variants(plan), problems)
    arrays = probe_arrays(out, records, probes, problems)
    return Results(
        frame,
        asked,
        gates,
        sinks,
        points,
        tuple(problems + _disagreements(frame, asked) + of_other_weights(records, frame)),
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
