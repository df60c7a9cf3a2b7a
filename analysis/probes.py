"""Records of probes -> DataFrames, and what a sweep calls its probes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.arrays import of_first
from analysis.records import folders, read_kind
from analysis.rows import (
    CONTENT_COLUMNS,
    GATE_COLUMNS,
    LATENCY_COLUMNS,
    POINT_COLUMNS,
    RECALL_COLUMNS,
    SINK_COLUMNS,
    content_rows,
    digest_of,
    latency_rows,
    layer_rows,
    part,
    point_rows,
    recall_rows,
)
from analysis.shared import lead, served


def of_other_weights(records: Mapping[str, Mapping[str, Any]], cells: pd.DataFrame) -> list[str]:
    """Probes that looked at other weights than some of their cells were asked of, as a training was made again."""
    lines = []
    done = cells[cells["status"] == "done"].dropna(subset=["probe"])
    for probe, digests in done.groupby("probe")["digest"]:
        looked_at = digest_of(records.get(str(probe)))
        others = sorted(set(digests.dropna()) - {looked_at})
        if looked_at and others:
            lines.append(f"probe {probe} looked at weights {looked_at}; cells were asked of {', '.join(others)}")
    return lines


def probe_labels(out: Path, plan: Mapping[str, Any] | None) -> dict[str, str]:
    """Probe id -> what the variants are called that it looks at; where all are other methods, those of the weights."""
    if not plan:
        return {name: f"probe {name[:6]}" for name in folders(out / "probes")}
    cells = [cell for cell in plan["cells"] if cell.get("probe")]
    labels, weights = served(cells, "probe"), served(plan["cells"], "training")
    own = {cell["probe"] for cell in cells if not cell.get("method")}
    asked = {cell["probe"]: weights.get(str(cell.get("training"))) for cell in cells}
    return {probe: label if probe in own else asked[probe] or label for probe, label in labels.items()}


def probe_variants(plan: Mapping[str, Any] | None) -> dict[str, dict[str, str]]:
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


def probe_arrays(
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
