"""A made-up, realistic out folder: nine budgets x three suites, 200 questions each, one cell failed, one missing."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

SUITES = {"synth_needle": 0.95, "synth_order": 0.78, "synth_layout": 0.92}  # accuracy of the reference
BUDGETS = [(1, 24), (4, 12), (5, 8), (5, 4), (6, 2), (2, 4), (2, 8), (10, 16), (12, 4)]  # block count, window; s = 4
REFERENCE = "b=5 w=4"
QUESTIONS = 200
BRANCHES = ("cmp", "slc", "swa")


def write(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))


def nsa(**given: Any) -> dict[str, Any]:
    return {"block_size": 4, "block_count": 5, "window": 4, "branches": list(BRANCHES), **given}


TRAIN = {"model": "tiny", "nsa": nsa(), "frames": [8, 16, 32], "steps": 600}


def identity(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def evaluation(name: str, label: str, suite: dict, attention: dict, accuracy: float, errors: int = 0) -> dict[str, Any]:
    """A finished evaluation; the questions' difficulty is common to all variants of a suite, as with real ones."""
    common = np.random.default_rng(int(identity(suite["name"]), 16) % 2**32)
    difficulty = common.uniform(size=QUESTIONS)
    noise = np.random.default_rng(int(name, 16) % 2**32).normal(0, 0.08, QUESTIONS)
    correct = difficulty + noise < accuracy
    length = suite["frames"] * suite["tokens_per_frame"] // 2
    budget = attention["block_count"] * attention["block_size"] + attention["window"]
    questions = [
        {
            "doc_id": i,
            "prompt_hash": identity(suite["name"], i),
            "answer": "red",
            "prediction": None if i < errors else "red" if correct[i] else "blue",
            "score": None if i < errors else float(correct[i]),
            "latency_ms": 30.0 + budget / 10,
            "prefill_ms": 20.0 + budget / 10,
            "prefill_tokens": length + 40,
            "vision_tokens": length,
            "peak_memory_mib": 610.0 + budget,
            "error": "InvalidDataError: moov atom not found" if i < errors else None,
        }
        for i in range(QUESTIONS)
    ]
    right = int(correct[errors:].sum())
    fraction = min(1.0, 2 * budget / (length - 1)) if attention.get("attention") != "dense" else 1.0
    return {
        "schema": 1,
        "kind": "evaluation",
        "status": "done",
        "id": name,
        "label": label,
        "settings": {"train": TRAIN, "nsa": attention, "suite": suite, "seed": 0},
        "identities": {"cell": name, "training": "a" * 12, "code": "c" * 12},
        "scores": {
            "metric": "exact_match",
            "accuracy": right / (QUESTIONS - errors),
            "correct": right,
            "questions": QUESTIONS,
            "errors": errors,
            "chance": 0.25,
        },
        "questions": questions,
        "summary": {
            "prefill_ms_p50": 20.0 + budget / 10,
            "latency_ms_p50": 30.0 + budget / 10,
            "peak_memory_mib": 610.0 + budget,
            "prefill_tokens_mean": length + 40.0,
            "vision_tokens_mean": float(length),
            "attention_fraction": fraction,
            "density": min(1.0, 0.2 + 0.8 * fraction),
            "block_means": 0.01,
        },
        "error": None,
        "provenance": {"commit": "f" * 40},
    }


def failed(record: dict[str, Any]) -> dict[str, Any]:
    error = {"type": "OutOfMemoryError", "message": "asked for 128 GiB\nof 140", "traceback": "Traceback ...\n  line 1"}
    scores = {**record["scores"], "accuracy": None, "correct": None}
    return {**record, "status": "failed", "scores": scores, "questions": [], "summary": {}, "error": error}


def probe(name: str, suite: dict, layers: int = 6, points: int = 400) -> dict[str, Any]:
    generator = np.random.default_rng(int(name, 16) % 2**32)
    return {
        "schema": 1,
        "kind": "probe",
        "status": "done",
        "settings": {"train": TRAIN, "nsa": nsa(), "suite": suite, "seed": 0},
        "layers": [_layer(generator, layer, layers) for layer in range(layers)],
        "points": [_point(generator, layers) for _ in range(points)],
        "gate_content": {"shares": {branch: _of_all(place) for place, branch in enumerate(BRANCHES)}},
        "provenance": {"commit": "f" * 40},
        "error": None,
    }


@lru_cache
def observed() -> dict[str, np.ndarray]:
    """The arrays of observers, by OBSERVER/NAME: `sinks` and `maps` of a video of 640 tokens, and those of gates."""
    parts, random = (*BRANCHES, "gated", "dense"), np.random.default_rng(0)
    future = np.triu(np.full((16, 16), np.nan), 1)
    maps = {name: np.float32(10 ** random.uniform(-5, -1, (3, 16, 16)) + future) for name in parts}
    maps["swa"][np.tril(np.full((3, 16, 16), True), -2)] = 0.0
    about = {"layers": [0, 14, 27], "tokens": [640], "block_size": [64], "frame": [64]}
    about |= {"starts": [0], "text_at": [0, 640], "text_tokens": [21, 40]}
    sinks = {name: np.stack([random.poisson(3, (3, 64)), np.full((3, 64), 99)], 1) for name in parts}
    sinks["swa"][:, 0] = 0
    named = {f"maps/{name}": array for name, array in maps.items()} | {
        f"sinks/{name}": of for name, of in sinks.items()
    }
    named |= {f"maps/{name}": np.array(values) for name, values in about.items()}
    for name in BRANCHES:
        named[f"gate_similarity/{name}"] = np.stack([np.corrcoef(random.random((4, 9))) for _ in range(3)])
        named[f"gate_vectors/{name}"] = random.random((2, 3, 4))
    return named


def _layer(generator: np.random.Generator, layer: int, layers: int) -> dict[str, Any]:
    depth = layer / max(1, layers - 1)
    centres = {"cmp": 0.55 + 0.2 * depth, "slc": 0.5 - 0.25 * depth, "swa": 0.45 + 0.3 * np.sin(3 * depth)}
    gates = {}
    for branch, centre in centres.items():
        spread = generator.uniform(0.05, 0.15)
        gates[branch] = {"mean": centre + 0.01, "q25": centre - spread, "median": centre, "q75": centre + spread}
    ratios = {"cmp": 0.012 * (1 + depth), "slc": 0.0, "swa": 0.004 * (1 - depth), "gated": 0.003, "dense": 0.02}
    sinks = {branch: {"ratio": ratio, "keys": 4096} for branch, ratio in ratios.items()}
    content = {branch: _content(depth, place) for place, branch in enumerate(BRANCHES)}
    return {"layer": layer, "gates": gates, "sinks": sinks, "recall": _recall(generator), "gate_content": content}


def _content(depth: float, place: int) -> dict[str, Any]:
    """Of gates of a layer and branch: content explains more of the later layers."""
    shares = {"head": 0.5 - 0.1 * place, "position": 0.05, "content": 0.01 + 0.04 * depth, "shifted": 0.004}
    partial = {"time": 0.1, "row": -0.1 * depth, "column": 0.0, "motion": 0.3 * depth, "still": -0.2 * depth}
    return {"shares": shares, "partial": partial | {"cut": None, "edges": 0.05 * place}}


def _of_all(place: int) -> dict[str, float]:
    return {"layer": 0.4, "head": 0.3 - 0.1 * place, "position": 0.05, "content": 0.04, "shifted": 0.003}


def _recall(generator: np.random.Generator) -> dict[str, Any]:
    recall: dict[str, Any] = {}
    for method, parts in {"nsa": ("vision", "text", "slc", "swa"), "oracle keys=24": ("vision", "text")}.items():
        recall[method] = {}
        for part in parts:
            best = 1.0 if (method, part) == ("nsa", "text") else float(generator.uniform(0.7, 0.95))
            mass = best if method != "nsa" or part == "text" else best - float(generator.uniform(0.1, 0.3))
            about = {"density": 0.3, "queries": 512}
            recall[method][part] = {"mass": mass, "best": best, "keys": mass / best, **about}
    return recall


def _point(generator: np.random.Generator, layers: int) -> dict[str, Any]:
    sink = bool(generator.uniform() < 0.04)
    return {
        "layer": int(generator.integers(layers)),
        "branch": str(generator.choice(BRANCHES)),
        "position": float(generator.uniform(0, 0.1 if sink else 1)),
        "alpha": float(generator.uniform(0.1, 0.6) if sink else generator.lognormal(-6, 1.2)),
        "v_norm": float(generator.uniform(0.1, 0.3) if sink else generator.normal(1.5, 0.25)),
        "sink": sink,
    }


def suite(name: str, frames: int = 32, tokens: int = 4) -> dict[str, Any]:
    return {"name": name, "task": name, "frames": frames, "tokens_per_frame": tokens, "limit": QUESTIONS, "fps": None}


def plan(sweep: str, axes: list[str], cells: list[dict], reference: str | None, asks: str = "test") -> dict[str, Any]:
    profile, grid = sweep.split("-", 1)
    about = {"schema": 1, "sweep": sweep, "profile": profile, "grid": grid, "asks": asks, "axes": axes}
    return {**about, "question": "What does a question need?", "reference": reference, "cells": cells}


def cell(label: str, suite_name: str, variant: dict, probe_id: str | None = None) -> dict[str, Any]:
    name = identity(label, suite_name)
    about = {"id": name, "label": label, "suite": suite_name, "variant": variant}
    return {**about, "training": "a" * 12, "probe": probe_id}


def budget_sweep(out: Path) -> Path:
    """runs/ with the sweep tiny-budget; returns the sweep folder."""
    cells = []
    for count, window in BUDGETS:
        label = f"b={count} w={window}"
        probe_id = identity("probe", label)
        for name, base in SUITES.items():
            variant = {"block_count": count, "window": window}
            planned = cell(label, name, variant, probe_id)
            cells.append(planned)
            loss = 0.05 * abs(np.log2((count * 4 + window) / 24)) + 0.12 * (window / (count * 4 + window) - 0.17) ** 2
            errors = 3 if (label, name) == (REFERENCE, "synth_order") else 0
            record = evaluation(planned["id"], label, suite(name), nsa(**variant), base - loss, errors)
            if (label, name) == ("b=12 w=4", "synth_layout"):
                record = failed(record)
            if (label, name) != ("b=10 w=16", "synth_needle"):
                write(out / "cells" / planned["id"] / "record.json", record)
        write(out / "probes" / probe_id / "record.json", probe(probe_id, suite("synth_needle")))
    sweep = out / "sweeps" / "tiny-budget"
    write(sweep / "plan.json", plan("tiny-budget", ["block_count", "window"], cells, REFERENCE))
    return sweep


def pair_sweep(out: Path) -> Path:
    """Two variants of one suite, and a third that failed: the smallest sweep with all that a report shows."""
    cells, media = [], "answers/synth_order-0/media/0a.json"
    write(
        out / media, {str(number): {"prompt": f"Which comes first?\nA. {number}", "sheets": []} for number in range(9)}
    )
    for label, accuracy in (("b=5 w=4", 0.9), ("b=1 w=2", 0.6), ("b=12 w=4", 0.9)):
        planned = cell(label, "synth_order", {})
        cells.append(planned)
        record = evaluation(planned["id"], label, suite("synth_order"), nsa(), accuracy) | {"media": media}
        write(out / "cells" / planned["id"] / "record.json", failed(record) if label == "b=12 w=4" else record)
    sweep = out / "sweeps" / "tiny-pair"
    write(sweep / "plan.json", plan("tiny-pair", [], cells, "b=5 w=4"))
    return sweep


def seed_sweep(out: Path) -> Path:
    """Three variants of two suites under three seeds: a cell of the reference has not run, one of another variant
    failed. A fourth variant has one seed, as a given checkpoint has."""
    cells = []
    for label, base in ((REFERENCE, 0.85), ("b=1 w=2", 0.65), ("b=2 w=8", 0.8), ("given", 0.8)):
        for name in ("synth_order", "synth_layout"):
            for seed in (0, 1, 2) if label != "given" else (0,):
                about = {"label": label, "seed": seed, "training": identity(label, seed)}
                planned = cell(f"{label} {seed}", name, {}) | about
                cells.append(planned)
                record = evaluation(planned["id"], label, suite(name), nsa(), base + 0.04 * (seed - 1))
                record["settings"] = record["settings"] | {"seed": seed}
                record["summary"] = record["summary"] | {"prefill_ms_p50": 20.0 + seed**2}
                if (label, name, seed) == ("b=2 w=8", "synth_order", 1):
                    record = failed(record)
                if (label, name, seed) != (REFERENCE, "synth_layout", 2):
                    write(out / "cells" / planned["id"] / "record.json", record)
    sweep = out / "sweeps" / "tiny-seeds"
    write(sweep / "plan.json", plan("tiny-seeds", [], cells, REFERENCE, "train"))
    return sweep


def branch_sweep(out: Path) -> Path:
    """The seven subsets of the branches."""
    subsets = ["cmp", "slc", "swa", "cmp+slc", "cmp+swa", "slc+swa", "cmp+slc+swa"]
    cells = []
    for i, subset in enumerate(subsets):
        for name, base in SUITES.items():
            planned = cell(subset, name, {"branches": subset})
            cells.append(planned)
            attention = nsa(branches=subset.split("+"))
            record = evaluation(planned["id"], subset, suite(name), attention, max(0.3, base - 0.08 * (6 - i)))
            write(out / "cells" / planned["id"] / "record.json", record)
    sweep = out / "sweeps" / "tiny-branches"
    content = plan("tiny-branches", ["branches"], cells, "cmp+slc+swa")
    write(sweep / "plan.json", content | {"trainings": begun_trainings(out)})
    return sweep


def begun_trainings(out: Path) -> dict[str, Any]:
    """Two trainings that began with the weights of a third one, and their losses."""
    first, steps = "d" * 12, 30
    for name, begin in (("a" * 12, 1.5), ("b" * 12, 0.7), (first, 4.0)):
        lines = [json.dumps({"step": step, "loss": begin / step**0.5}) for step in range(1, steps + 1)]
        (out / "trainings" / name).mkdir(parents=True)
        (out / "trainings" / name / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    begun = {"model": "tiny", "start": {"id": first, "model": "tiny"}}
    return {"a" * 12: begun, "b" * 12: begun, first: {"model": "tiny"}}


def token_sweep(out: Path) -> Path:
    """Frames x tokens a frame, the two longest contexts at the largest frame not run."""
    cells = []
    for frames in (8, 16, 32, 64):
        for tokens in (4, 16, 36):
            label = f"frames={frames} tokens_per_frame={tokens}"
            for name, base in SUITES.items():
                planned = cell(label, name, {"frames": frames, "tokens_per_frame": tokens})
                cells.append(planned)
                accuracy = base - 0.07 * abs(np.log2(frames / 32)) - 0.05 * abs(np.log2(tokens / 4))
                record = evaluation(planned["id"], label, suite(name, frames, tokens), nsa(), max(0.25, accuracy))
                if (frames, tokens) == (64, 16):
                    record = failed(record)
                if (frames, tokens) != (64, 36):
                    write(out / "cells" / planned["id"] / "record.json", record)
    sweep = out / "sweeps" / "tiny-tokens"
    reference = "frames=32 tokens_per_frame=4"
    write(sweep / "plan.json", plan("tiny-tokens", ["frames", "tokens_per_frame"], cells, reference))
    return sweep


def measurements() -> pd.DataFrame:
    """Of kernels: forward and backward of two providers at three lengths."""
    rows = [
        {"provider": provider, "stage": stage, "mode": mode, "length": length, "ms_p20": 0.9 * ms, "ms_p50": ms}
        | {"ms_p80": 1.1 * ms, "peak_gib": length / 1e4, "block_count": 32 if provider == "triton" else None}
        for provider, stage in (("triton", "all"), ("triton", "select"), ("dense", "all"))
        for mode in ("fwd", "bwd")
        for length in (1024, 8192, 131072)
        for ms in [length / 1e3]
    ]
    return pd.DataFrame(rows)
