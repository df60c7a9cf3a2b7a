"""Sweeps for pages to be looked at: many questions, all failed, none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from evals.media import sheet_of
from tests.analysis import synthetic
from videonsa.video import Video

KINDS = ("counting", "order of events", "relative direction")
SECONDS = (8.0, 45.0, 300.0, 2400.0, 5000.0)  # one in each of the page's lengths
VARIANTS = ("dense", "nsa", "fastv keep=0.5")
ODD = "</script><b>no markup</b> & שלום \u202eabc 🎥"


def many(out: Path, questions: int, pictures: int = 0, suites: int = 2) -> Path:
    """A sweep of three variants and so many questions in all, each with its prompt, some with pictures of frames."""
    each = questions // suites
    cells = []
    for number in range(suites):
        suite = synthetic.suite(f"suite_{number}")
        place = f"answers/suite_{number}-0123/media/abcd.json"
        _keep(out / place, each, pictures // suites, number)
        for label in VARIANTS:
            planned = synthetic.cell(label, suite["name"], {"block_count": 4})
            cells.append(planned)
            record = synthetic.evaluation(planned["id"], label, suite, synthetic.nsa(), 0.8)
            rows = _questions(each, label, number)
            right = sum(row["score"] or 0 for row in rows)
            record["questions"] = rows
            errors = sum(row["error"] is not None for row in rows)
            about = {"accuracy": right / (each - errors), "correct": right, "questions": each, "errors": errors}
            record["scores"] |= about | {"parts": _parts(rows)}
            synthetic.write(out / "cells" / planned["id"] / "record.json", record | {"media": place})
    return _sweep(out, "tiny-many", cells)


def failed(out: Path) -> Path:
    """A sweep of which nothing went well."""
    cells = []
    for label in ("dense", ODD):
        planned = synthetic.cell(label, "synth_order", {"block_count": 4})
        cells.append(planned)
        record = synthetic.evaluation(planned["id"], label, synthetic.suite("synth_order"), synthetic.nsa(), 0.8)
        lost = synthetic.failed(record)
        lost["error"]["traceback"] = f"Traceback ...\n  line of code, {ODD}\n" + "  deeper and deeper " * 20
        synthetic.write(out / "cells" / planned["id"] / "record.json", lost)
    return _sweep(out, "tiny-failed", cells)


def empty(out: Path) -> Path:
    """A sweep that has not begun."""
    return _sweep(out, "tiny-empty", [synthetic.cell("later", "synth_order", {"block_count": 4})])


def _sweep(out: Path, name: str, cells: list[dict[str, Any]]) -> Path:
    synthetic.write(out / "sweeps" / name / "plan.json", synthetic.plan(name, ["method"], cells, "dense"))
    return out / "sweeps" / name


def _questions(count: int, label: str, suite: int) -> list[dict[str, Any]]:
    draws = np.random.default_rng([suite, len(label)])
    right, wrong = draws.uniform(size=count) < 0.6, draws.integers(0, 3, count)
    rows = []
    for number in range(count):
        said = f"{'ABCD'[number % 4]}" if right[number] else f"{'BCDA'[wrong[number]]}. because of {number % 50}"
        row = {"doc_id": number, "prompt_hash": synthetic.identity(suite, number), "answer": "ABCD"[number % 4]}
        row |= {"prediction": said, "score": float(right[number]), "kind": KINDS[number % 3], "error": None}
        rows.append(row | {"parts": [KINDS[number % 3]], "video": f"v{number // 3}"})
    rows[0] |= {"prediction": ODD, "score": 0.0}
    rows[1] |= {"prediction": None, "score": None, "error": "VideoError: moov atom not found"}
    return rows


def _parts(rows: list[dict[str, Any]]) -> dict[str, Any]:
    found = {}
    for kind in KINDS:
        scores = [row["score"] for row in rows if row["kind"] == kind and row["score"] is not None]
        found[kind] = {"score": sum(scores) / len(scores), "questions": len(scores)}
    return found


def _keep(place: Path, count: int, pictures: int, suite: int) -> None:
    place.parent.mkdir(parents=True)
    draws = np.random.default_rng(suite)
    frames = np.repeat(np.repeat(draws.integers(0, 255, (8, 9, 16, 3), np.uint8), 8, 1), 8, 2)
    asked = {}
    for number in range(count):
        prompt = f"{number}: what happens after the ring was seen? {ODD if number == 0 else 'It was far away. ' * 12}"
        asked[str(number)] = {"prompt": prompt + "\nA. this\nB. that\nC. nothing\nD. both", "sheets": []}
        if number < pictures:
            name = f"{suite:04x}{number:08x}"
            video = Video.of(np.roll(frames, number, 1), 8 / SECONDS[number % len(SECONDS)])
            (place.parent / f"{name}.jpg").write_bytes(sheet_of(video))
            asked[str(number)]["sheets"] = [name]
    place.write_text(json.dumps(asked))
