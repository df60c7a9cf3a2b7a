"""One record -> rows of a DataFrame: the only place that knows how records are laid out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from analysis.weights import weights_name
from videonsa.config import NSASettings, SettingsError, attention_differences, from_dict, to_dict

SUMMARY = {  # names in a record's summary -> columns
    "prefill_ms_p50": "prefill_ms",
    "tower_ms_p50": "tower_ms",
    "decoder_ms_p50": "decoder_ms",
    "decode_ms_p50": "decode_ms",
    "latency_ms_p50": "latency_ms",
    "peak_memory_mib": "peak_memory_mib",
    "prefill_tokens_mean": "prefill_tokens",
    "vision_tokens_mean": "vision_tokens",
    "attention_fraction": "attention_fraction",
    "density": "density",
    "block_means": "block_means",
    "choice_ms_p50": "choice_ms",
    "attention_ms_p50": "attention_ms",
}
SCORES = ("metric", "accuracy", "correct", "questions", "errors", "chance", "lmms_eval")
AGGREGATE = ("shares", "parts", "notes")  # a mapping, a mapping and a list; not for tables of numbers
SUITE = ("task", "frames", "fps", "tokens_per_frame", "max_new_tokens", "limit")
ATTENTION = ("block_size", "block_count", "window", "gate_mode", "gate_temperature", "attention", "semantics")
PAPER = to_dict(NSASettings())  # what older records' checkpoints count as made with
OF_PAGES = ("media", "provenance")  # where a record's prompts and pictures lie; a mapping. Not for tables
CELL_COLUMNS = [
    *("id", "label", "variant", "group", "name", "suite", "status", "seed", "training", "probe"),
    *SCORES,
    *AGGREGATE,
    *SUMMARY.values(),
    *ATTENTION,
    "method",
    *("branches", "budget", "local_share", "as_trained", "train_block_count", "train_window", "train_frames"),
    *SUITE,
    *("weights", "digest", "weights_mib", "packed_bits", "model", "steps"),
    *("error_type", "error", "traceback", "code", "commit"),
    "source",  # of a row that was not made here (analysis/joined.py)
    *OF_PAGES,
]
QUESTION_COLUMNS = [
    *("cell", "label", "suite", "doc_id", "prompt_hash", "answer", "prediction", "score", "latency_ms", "prefill_ms"),
    *("tower_ms", "decoder_ms", "decode_ms", "prefill_tokens", "vision_tokens", "peak_memory_mib", "error"),
    *("video", "kind", "parts"),  # what it is about, the kind it counts in, the sub-scores that it enters; older: none
]
GATE_COLUMNS = ["probe", "label", "suite", "layer", "branch", "mean", "q25", "median", "q75"]
SINK_COLUMNS = ["probe", "label", "suite", "layer", "branch", "ratio", "keys"]
RECALL_COLUMNS = [
    *("probe", "label", "suite", "layer", "method", "variant", "part"),
    *("mass", "best", "keys", "density", "queries"),
]
CONTENT_COLUMNS = [
    *("probe", "label", "suite", "layer", "branch"),
    *("share_layer", "share_head", "share_position", "share_content", "share_shifted"),
    *(f"partial_{name}" for name in ("time", "row", "column", "motion", "cut", "still", "edges")),
]
LATENCY_COLUMNS = ["probe", "label", "suite", "layer", "branch", "ms", "device", "tokens"]
POINT_COLUMNS = ["probe", "label", "suite", "layer", "branch", "position", "alpha", "v_norm", "sink"]


def each(frame: pd.DataFrame) -> Iterator[Any]:
    """The frame's rows as named tuples; typed Any, as pandas' stubs would make every value a union of everything."""
    return iter(frame.itertuples())


def groups_of(rows: pd.DataFrame) -> list[Any]:
    """The groups within which cells are compared, in order; [None] where there are none."""
    return list(dict.fromkeys(rows["group"].dropna())) or [None]


def part(mapping: Mapping[str, Any] | None, name: str) -> dict[str, Any]:
    """The mapping at this name; an empty one when there is none."""
    value = (mapping or {}).get(name)
    return value if isinstance(value, dict) else {}


def digest_of(record: Mapping[str, Any] | None) -> str | None:
    """The trained weights that a cell was asked of or a probe looked at; None where a record of before has none."""
    digest = part(record, "weights").get("digest")
    return digest if isinstance(digest, str) else None


def cell_row(
    name: str, record: Mapping[str, Any] | None, planned: Mapping[str, Any], trained: Mapping[str, Any]
) -> dict[str, Any]:
    """One cell: what its record says; of one without a record, what its plan says (`trained`: its training's)."""
    settings = part(record, "settings")
    suite, train = part(settings, "suite"), part(settings, "train") or dict(trained)
    error, identities = part(record, "error"), part(record, "identities")
    variant = part(planned, "variant")
    row: dict[str, Any] = {key: part(record, "scores").get(key) for key in (*SCORES, *AGGREGATE)}
    row |= {column: part(record, "summary").get(key) for key, column in SUMMARY.items()}
    row |= {key: suite.get(key, variant.get(key)) for key in SUITE}
    unknown = train.get("checkpoint") and "nsa" not in train
    trained_nsa = PAPER if unknown else part(train, "nsa")
    row |= _attention(trained_nsa, part(settings, "nsa") if settings else variant)
    if other := part(settings, "method").get("name") or variant.get("method"):
        row |= _other_method(str(other))
    label = planned.get("label") or (record or {}).get("label") or name
    row |= {"id": name, "label": label, "variant": label}
    row |= {"group": planned.get("group"), "name": planned.get("name") or label}  # compared within a group, if any
    row |= {
        "suite": planned.get("suite") or suite.get("name") or "?",
        "status": record["status"] if record else "missing",
    }
    row |= {
        "seed": settings.get("seed", planned.get("seed")),
        "weights": weights_name(train),
        "model": train.get("checkpoint") or train.get("model"),
        "steps": train.get("steps"),
    }
    loaded = part(record, "weights")
    row |= {"weights_mib": loaded.get("mib"), "packed_bits": part(loaded, "packed").get("bits")}
    row |= {"digest": digest_of(record)}
    row |= {"training": planned.get("training") or identities.get("training"), "probe": planned.get("probe")}
    row |= {"train_frames": max(train.get("frames") or [None])}
    row |= {"error_type": error.get("type"), "error": error.get("message"), "traceback": error.get("traceback")}
    origin = part(record, "provenance")
    row |= {"media": (record or {}).get("media"), "provenance": origin}
    return row | {"code": identities.get("code"), "commit": origin.get("commit")}


def _attention(trained: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Attention at test time: the training's, with the cell's own settings over it."""
    known = {field.name for field in dataclasses.fields(NSASettings)}
    try:
        base = from_dict(NSASettings, trained)
        nsa = from_dict(NSASettings, {**trained, **{key: value for key, value in given.items() if key in known}})
    except (SettingsError, TypeError):
        return {}
    row: dict[str, Any] = {name: getattr(nsa, name) for name in ATTENTION}
    row |= {"method": "dense" if nsa.attention == "dense" else _semantics(nsa.semantics)}
    row |= {"branches": "+".join(nsa.branches), "budget": nsa.budget, "local_share": nsa.window / nsa.budget}
    row |= {"train_block_count": trained.get("block_count"), "train_window": trained.get("window")}
    return row | {"as_trained": bool(trained) and dataclasses.replace(nsa, backend=base.backend) == base}


def _semantics(semantics: str) -> str:
    return "release" if attention_differences(semantics) else "paper"


def _other_method(name: str) -> dict[str, Any]:
    """Another method than NSA, by name: NSA's sizes say nothing of it. Of a plan the name may be one of NSA's."""
    if name in ("dense", "paper", "release"):
        return {"method": name}
    nothing = dict.fromkeys((*ATTENTION, "branches", "budget", "local_share"))
    return nothing | {"attention": name, "method": name, "as_trained": False}


def question_rows(row: Mapping[str, Any], record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The questions of a finished evaluation, with their cell's id, label and suite."""
    questions = record.get("questions")
    rows = [question for question in questions if isinstance(question, dict)] if isinstance(questions, list) else []
    about = {"cell": row["id"], "label": row["label"], "suite": row["suite"]}
    return [{**question, **about, "doc_id": str(question.get("doc_id"))} for question in rows]


def layer_rows(record: Mapping[str, Any], what: str, about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`gates` or `sinks` of a probe: one row a layer and branch. Raises KeyError or the like on another layout."""
    return [
        {**about, "layer": layer["layer"], "branch": branch, **values}
        for layer in record.get("layers") or []
        for branch, values in (layer.get(what) or {}).items()
    ]


def recall_rows(
    record: Mapping[str, Any], about: Mapping[str, Any], variants: Mapping[str, str]
) -> list[dict[str, Any]]:
    """`recall` of a probe: one row a layer, method and part; `variants`: what the sweep calls a method.

    Raises KeyError or the like on another layout.
    """
    return [
        {**about, "layer": layer["layer"], "method": method, "variant": variants.get(method, method), "part": name}
        | values
        for layer in record.get("layers") or []
        for method, parts in (layer.get("recall") or {}).items()
        for name, values in parts.items()
    ]


def content_rows(record: Mapping[str, Any], about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`gate_content` of a probe: one row a layer and branch, and one a branch of all layers together, as layer -1.

    Raises KeyError or the like on another layout.
    """
    whole = record.get("gate_content") or {}
    rows = [
        {**about, "layer": -1, "branch": branch, **_shares(of)} for branch, of in (whole.get("shares") or {}).items()
    ]
    for layer in record.get("layers") or []:
        for branch, of in (layer.get("gate_content") or {}).items():
            partial = {f"partial_{name}": value for name, value in of["partial"].items()}
            rows.append({**about, "layer": layer["layer"], "branch": branch, **_shares(of["shares"]), **partial})
    return rows


def _shares(shares: Mapping[str, float] | None) -> dict[str, float]:
    return {f"share_{name}": value for name, value in (shares or {}).items()}


def latency_rows(record: Mapping[str, Any], about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`latency` of a probe: one row a layer and branch, with the device. Raises as `layer_rows` does."""
    of = {name: part(record, "latency_of").get(name) for name in ("device", "tokens")}
    return [{**row, **of} for row in layer_rows(record, "latency", about)]


def point_rows(record: Mapping[str, Any], about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The sampled keys of a probe."""
    return [{**about, **point} for point in record.get("points") or []]
