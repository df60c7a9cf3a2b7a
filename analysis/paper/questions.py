"""What a published number, and a cell of ours, was asked: two numbers stand side by side only where nothing differs.

A question is {field: value} over FIELDS; a field that does not matter to it (blocks under dense attention) is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.weights import OWN_VIDEONSA, TWIN
from videonsa.config import NSASettings, differences
from videonsa.names import POSITION_DIFFERENCES

Question = dict[str, Any]

VIDEONSA, QWEN = "Enxin/VideoNSA", "Qwen/Qwen2.5-VL-7B-Instruct"
SUITES = {"longvideobench": "longvideobench_val_v"}  # the paper's name -> our suite and its task, where they differ
OWN = {TWIN: TWIN, OWN_VIDEONSA: VIDEONSA}  # weights trained here -> the paper's, whose recipe they repeat

FIELDS = {  # -> how a value is told; in the order of telling
    "task": "the task {}",
    "weights": "{}",
    "attention": "{} attention",
    "semantics": "semantics {}",
    "time": "{} between patches",
    "block_size": "blocks of {}",
    "block_count": "{} blocks",
    "window": "a window of {}",
    "branches": "branches {}",
    "gate_mode": "{} gates",
    "gate_temperature": "gate temperature {}",
    "frames": "{} frames",
    "fps": "{} frames a second",
    "tokens_per_frame": "{} tokens a frame",
    "max_new_tokens": "{} new tokens",
    "limit": "the first {} questions",
}
NSA_FIELDS = ("block_size", "block_count", "window", "gate_mode", "gate_temperature")
SAMPLING = ("tokens_per_frame", "frames", "fps", "max_new_tokens")


@dataclass(frozen=True)
class Method:
    """One of the paper's: whose weights, under which attention. Its numbers were made with the release's code."""

    weights: str
    nsa: NSASettings


SPARSE = NSASettings(semantics="release")
DENSE = replace(SPARSE, attention="dense")
METHODS = {
    **dict.fromkeys(("qwen2_5_vl_7b", "dense"), Method(QWEN, DENSE)),
    **dict.fromkeys(("qwen2_5_vl_7b_awq", "awq"), Method(f"{QWEN}-AWQ", DENSE)),
    **dict.fromkeys(("qwen2_5_vl_7b_sft", "dense_sft"), Method(TWIN, DENSE)),
    "dense_nsa": Method(VIDEONSA, DENSE),
    "videonsa": Method(VIDEONSA, SPARSE),
    "videonsa_static_gate": Method(VIDEONSA, replace(SPARSE, gate_mode="static")),
    **{
        subset: Method(VIDEONSA, replace(SPARSE, branches=tuple(subset.split("+"))))
        for subset in ("cmp", "slc", "swa", "cmp+slc", "cmp+swa", "slc+swa", "cmp+slc+swa")
    },
}


def suite_of(benchmark: str) -> str:
    """Our suite of a benchmark that the paper names; lmms-eval's task has that name too."""
    return SUITES.get(benchmark, benchmark)


def load_settings() -> dict[tuple[str, str | None], dict[str, Any]]:
    """How the paper asks a benchmark where a number's own row does not say: by (benchmark, context or None)."""
    table = pd.read_csv(Path(__file__).parent / "settings.csv")
    rows = [{key: plain(value) for key, value in row.items()} for row in table.to_dict("records")]
    return {(row["benchmark"], row["context"]): {key: row[key] for key in SAMPLING} for row in rows}


def published_question(row: Any, settings: Mapping[tuple[str, str | None], Mapping[str, Any]]) -> Question | None:
    """What a row of reference.csv was asked; None for another's method, and where the paper does not say it."""
    method, usual = METHODS.get(row.method), settings.get((row.benchmark, plain(row.context)))
    if method is None or usual is None:
        return None
    own = {name: plain(getattr(row, name)) for name in ("tokens_per_frame", "frames", "fps")}
    sampling = {**usual, **{name: value for name, value in own.items() if value is not None}}
    nsa = method.nsa
    if plain(row.block_count) is not None:
        nsa = replace(nsa, block_count=int(row.block_count), window=int(row.window))
    asked = {"task": suite_of(row.benchmark), **sampling, "limit": None}
    return _question(method.weights, {**vars(nsa), "branches": "+".join(nsa.branches)}, asked)


def our_question(row: Any) -> Question:
    """What a row of the tidy table was asked."""
    values = {name: plain(getattr(row, name, None)) for name in (*NSA_FIELDS, "task", *SAMPLING, "limit")}
    values["task"] = values["task"] or row.suite
    nsa = {**values, "attention": row.attention, "semantics": row.semantics, "branches": row.branches}
    weights = plain(row.weights) or "weights of no known name"
    return _question(OWN.get(weights, weights), nsa, values)


def differing(ours: Question, theirs: Question) -> list[str]:
    """The fields in which they differ, in the order of FIELDS."""
    return [name for name in FIELDS if ours.get(name) != theirs.get(name)]


def tell(question: Question, fields: list[str]) -> str:
    """'32 frames, the first 4 questions'."""
    return ", ".join(_told(name, question.get(name)) for name in fields if name in question)


def plain(value: Any) -> Any:
    """The value as Python's own; None for a gap in a table; whole numbers without a point."""
    if value is None or value is pd.NA or value != value:
        return None
    value = value.item() if hasattr(value, "item") else value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _question(weights: str, nsa: Mapping[str, Any], sampling: Mapping[str, Any]) -> Question:
    question = {"weights": weights, "attention": nsa["attention"]}
    if nsa["attention"] == "dense":
        release_time = set(POSITION_DIFFERENCES) <= differences(nsa["semantics"])
        question["time"] = "the release's time" if release_time else "the true time"
    else:
        question |= {name: plain(nsa[name]) for name in ("semantics", "branches", *NSA_FIELDS)}
    return question | {name: plain(sampling[name]) for name in ("task", *SAMPLING, "limit")}


def _told(name: str, value: Any) -> str:
    if name == "limit" and value is None:
        return "all questions"
    return FIELDS[name].format(f"{value:,}" if isinstance(value, int) else "no number of" if value is None else value)
