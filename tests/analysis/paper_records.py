"""Made-up records of whole sweeps of the paper's grids: every cell finished, its sub-scores by lmms-eval's names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from ablations.cell import Cell, Probe
from ablations.grid import load_grid
from ablations.plan import Sweep, cell_folder, make_sweep, write_plan
from ablations.profile import load_profile
from ablations.records import folder_of, record_of
from evals.aggregates import MLVU, VSIBENCH
from evals.suites import SUITES
from tests.analysis.synthetic import observed
from videonsa.arrays import ARRAYS, write_arrays

QUESTIONS = 12
BRANCHES = ("cmp", "slc", "swa")


def finished(name: str, out: Path, **changes: Any) -> Sweep:
    """The sweep of a grid of the paper's, or of this much of it, with a record of every cell and probe."""
    sweep = make_sweep(load_grid(name, "paper", changes), load_profile("paper"), out, name, changes)
    write_plan(sweep)
    for cell in sweep.cells:
        write(cell_folder(out, cell.id), made_up(cell))
    for probe in sweep.probes.values():
        arrays = write_arrays(folder_of(out, probe) / ARRAYS, observed())
        write(folder_of(out, probe), probed(probe) | {"arrays": arrays})
    return sweep


def write(folder: Path, record: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "record.json").write_text(json.dumps(record))


def made_up(cell: Cell) -> dict:
    """A finished record of this cell."""
    right = [float((number * 7 + int(cell.id[:6], 16)) % 5 > 1) for number in range(QUESTIONS)]
    parts = parts_of(cell.suite.name)
    rows = [
        {"doc_id": number, "prompt_hash": f"p{number}", "score": score, "vision_tokens": 8, "error": None}
        | {"parts": parts if number % 2 else []}
        for number, score in enumerate(right)
    ]
    scores = {"metric": "m", "accuracy": sum(right) / QUESTIONS, "questions": QUESTIONS, "errors": 0, "chance": None}
    odd = right[1::2]
    scores |= {"parts": {name: {"score": sum(odd) / len(odd), "questions": len(odd)} for name in parts}}
    return record_of(cell) | {"status": "done", "scores": scores, "questions": rows}


def probed(probe: Probe) -> dict:
    """A finished record of this probe."""
    gates = {name: {"mean": 0.5, "q25": 0.4, "median": 0.5, "q75": 0.6} for name in BRANCHES}
    sinks = {name: {"ratio": 0.01, "keys": 9} for name in (*BRANCHES, "gated", "dense")}
    layers = [{"layer": layer, "gates": gates, "sinks": sinks} for layer in range(3)]
    points = [
        {"layer": 0, "branch": name, "position": place / 8, "alpha": 0.01 * (place + 1), "v_norm": 1.0, "sink": False}
        for name in BRANCHES
        for place in range(8)
    ]
    return record_of(probe) | {"status": "done", "layers": layers, "points": points, "videos": 2}


@lru_cache
def parts_of(suite: str) -> list[str]:
    """The sub-scores of questions as the real benchmark has them."""
    parts = SUITES[suite].aggregate.parts_of
    return list(dict.fromkeys(name for document in documents(suite) for name in parts(document)))


def documents(suite: str) -> Iterator[dict]:
    """What of its documents says the kind, as the data sets spell it."""
    if suite == "longvideobench_val_v":
        kinds = [
            "TOS",
            "S2E",
            "E3E",
            "S2A",
            "SAA",
            "O3O",
            "T3O",
            "T3E",
            "O2E",
            "T2O",
            "S2O",
            "TAA",
            "T2E",
            "E2O",
            "SSS",
            "T2A",
            "SOS",
        ]
        yield from (
            {"duration_group": group, "question_category": kind} for group in (15, 60, 600, 3600) for kind in kinds
        )
    elif suite in ("timescope", "longtimescope"):
        lengths = (60, 120, 180, 300, 600, 1200, 1800, 3600, 7200, 10800, 18000, 28800, 36000)
        yield from ({"length": length, "type": kind} for length in lengths for kind in ("OCR", "QA", "temporal"))
    elif suite == "tomato":
        kinds = ("direction", "count", "rotation", "shape&trend", "velocity&frequency", "visual_cues")
        shown = ("human", "simulated", "object")
        yield from ({"reason_type": kind, "demonstration_type": one} for kind in kinds for one in shown)
    elif suite == "mlvu_test":
        yield from ({"task_type": kind} for kind in MLVU.kinds)
    elif suite == "vsibench":
        yield from ({"question_type": kind} for kind in VSIBENCH.kinds)
    elif suite == "videoevalpro":
        yield from ({"qa_type": f"{one} {two}"} for one in ("Local", "Holistic") for two in ("Perception", "Reasoning"))
