"""Places that evaluations fill: a table's scores and sub-scores, and how benchmarks are asked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from analysis.items import Item
from analysis.items.found import Asked, Found
from analysis.items.places import ALONE, DONE, FAILED, MISSING, Ours, Place, sweep_command
from analysis.items.published import WHOLE, Number, numbers, question_of, sampling
from analysis.paper.questions import SAMPLING, Question, plain, suite_of

PLANE = {"tokens_per_frame": "{} tokens a frame", "frames": "{} frames", "fps": "{} frames a second"}
LABELS = {**PLANE, "block_count": "b = {}", "window": "w = {}"}
SAMPLED = dict(zip(SAMPLING, ("{} tokens a frame", "{} frames", "{} frames a second", "{} new tokens"), strict=True))
LACKING = "our record lacks this sub-score: it was made before records had them, or its questions have another kind"


def scores(item: Item, found: Found) -> list[Place]:
    """A place for each published number of the item's tables."""
    return [_score(item, found, number) for number in sorted(_numbers(item), key=_sizes)]


def settings(item: Item, found: Found) -> list[Place]:
    """A place for each benchmark: how it is asked. Any evaluation of VideoNSA that is asked so fills it."""
    places = []
    for number in numbers([item.number]):
        row, question = number.row, number.question or {}
        stated = {name: plain(getattr(row, name, None)) for name in SAMPLING} | {"max_new_tokens": plain(row.value)}
        place = Place(row.benchmark, "how it is asked", ALONE, sampled(stated), marks=number.marks)
        place = _filled(place, found.answers(question, {}), "", sweep_command(item, found.out))
        places.append(replace(place, ours=tuple(Ours(None, sampled(question), cell) for cell in place.cells[:1])))
    return places


def base_questions(tables: Sequence[int]) -> dict[str, Question]:
    """Our suite -> how VideoNSA is asked on the benchmarks of these tables."""
    usual = dict.fromkeys(("tokens_per_frame", "frames", "fps", "block_count", "window", "context"))
    rows = [number.row._replace(method="videonsa", **usual) for number in numbers(tables)]
    return {suite_of(row.benchmark): question_of(row, sampling()) or {} for row in rows}


def _numbers(item: Item) -> list[Number]:
    """The item's own; of one that has another's rows, the questions alone."""
    tables = item.of.get("like", item.number)
    several = numbers(tables if isinstance(tables, list) else [tables])
    if benchmark := item.of.get("benchmark"):
        rows = [number.row._replace(benchmark=benchmark, value=None) for number in several]
        several = [Number(row, question_of(row, sampling())) for row in rows]
    return several


def _sizes(number: Number) -> tuple[float, ...]:
    """Tokens a frame and frames, by which a plane of them is read; else the order of the file."""
    values = [plain(getattr(number.row, name)) for name in PLANE]
    return tuple(value for value in values if value is not None)


def _score(item: Item, found: Found, number: Number) -> Place:
    row, of = number.row, item.of
    place = Place(
        row=_label(row, of.get("rows", LABELS)),
        column=_label(row, of.get("columns", ["benchmark"])),
        state=ALONE,
        published="" if row.value is None else number.text,
        value=plain(row.value),
        detail=", ".join(f"{name}={value}" for name, value in number.method.items()),
        marks=number.marks,
    )
    if number.question is None:
        return place
    metric = "" if row.metric in WHOLE else of.get("rename", {}).get(row.metric, row.metric)
    command = sweep_command(item, found.out, row.method)
    return _filled(place, found.answers(number.question, number.method), metric, command)


def _filled(place: Place, answers: Sequence[Asked], metric: str, command: str) -> Place:
    finished = [asked for asked in answers if asked.row.status == "done"]
    parts = {asked.row.id: _part(asked, metric) for asked in finished}
    if cells := tuple(cell for cell, part in parts.items() if part is not None):
        return replace(place, state=DONE, cells=cells, part=parts[cells[0]] or "")
    if finished:
        return replace(place, state=MISSING, marks=(*place.marks, LACKING))
    if answers:
        return replace(place, state=FAILED, command=f"{command} --retry-failed")
    return replace(place, state=MISSING, command=command)


def _part(asked: Asked, metric: str) -> str | None:
    """What a record calls this sub-score, "" where it is the whole; None where it has none."""
    names = asked.row.parts if isinstance(asked.row.parts, dict) else {}
    return next((name for name in names if _plain_name(name) == _plain_name(metric)), None) if metric else ""


def _plain_name(name: str) -> str:
    """'18000/ocr' and '18000_OCR' alike."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower())


def _label(row: Any, names: Iterable[str]) -> str:
    known = {name: plain(getattr(row, name)) for name in names}
    return ", ".join(LABELS.get(name, "{}").format(value) for name, value in known.items() if value is not None)


def sampled(known: Mapping[str, Any]) -> str:
    """'64 tokens a frame, 512 frames, 4 frames a second, 16 new tokens'."""
    return ", ".join(form.format(known[name]) for name, form in SAMPLED.items() if known.get(name) is not None)
