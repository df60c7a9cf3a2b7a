"""All evaluations and probes of an out folder, of whatever sweep, to be found by what they were asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from analysis.items.published import key
from analysis.paper.questions import Question, differing, our_question
from analysis.records import below_out, checked, folders, read_kind
from analysis.rows import CELL_COLUMNS, cell_row, part
from videonsa.arrays import ARRAYS


@dataclass(frozen=True)
class Asked:
    """One record, without its questions."""

    row: Any  # analysis.rows.cell_row
    question: Question
    method: Mapping[str, Any]  # settings of a method other than NSA
    layers: Sequence[Mapping[str, Any]] = ()  # of a probe
    points: int = 0  # of a probe
    videos: int = 0  # of a probe
    arrays: Mapping[str, Any] = field(default_factory=dict)  # what a probe's record says of those beside it


@dataclass(frozen=True)
class Found:
    """What an out folder holds."""

    out: Path
    measured: Path  # folder of measurements
    cells: Sequence[Asked]
    probes: Sequence[Asked]
    problems: list[str]  # a line each: files left out, numbers that disagree

    def answers(self, question: Question, method: Mapping[str, Any]) -> list[Asked]:
        """The evaluations that were asked this; of another method, with these settings."""
        same = self._by_question.get(key(question), ())
        return [asked for asked in same if all(asked.method.get(name) == value for name, value in method.items())]

    @cached_property
    def _by_question(self) -> dict[tuple[Any, ...], list[Asked]]:
        found: dict[tuple[Any, ...], list[Asked]] = {}
        for asked in self.cells:
            found.setdefault(key(asked.question), []).append(asked)
        return found

    def near(self, base: Question, vary: Sequence[str]) -> list[Asked]:
        """The evaluations that differ from this question in nothing but these fields."""
        return _near(self.cells, base, vary)

    def probes_near(self, base: Question, vary: Sequence[str]) -> list[Asked]:
        """The finished probes that do."""
        return _near(self.probes, base, vary)


def find(out: Path, measured: Path) -> Found:
    """Read the out folder once."""
    problems: list[str] = []
    cells = _read(out / "cells", "evaluation", problems, lambda record: True)
    probes = _read(out / "probes", "probe", problems, lambda record: record["status"] == "done")
    return Found(out, measured, cells, probes, problems)


def _near(several: Sequence[Asked], base: Question, vary: Sequence[str]) -> list[Asked]:
    return [asked for asked in several if not asked.method and set(differing(asked.question, base)) <= set(vary)]


def _read(folder: Path, kind: str, problems: list[str], wanted: Callable[[Mapping[str, Any]], bool]) -> list[Asked]:
    records = ((name, read_kind(folder / name / "record.json", kind, problems)) for name in folders(folder))
    return [
        _asked(folder / name, record, problems) for name, record in records if record is not None and wanted(record)
    ]


def _asked(folder: Path, record: Mapping[str, Any], problems: list[str]) -> Asked:
    settings, row_ = part(record, "settings"), cell_row(folder.name, record, {}, {})
    row_ = checked(row_, problems) if record["kind"] == "evaluation" else row_
    row = SimpleNamespace(**{**dict.fromkeys(CELL_COLUMNS), **row_})
    method = part(settings, "method")
    if not method:
        layers, points, videos = record.get("layers") or (), record.get("points") or (), record.get("videos")
        seen = videos if isinstance(videos, int) else 0
        return Asked(row, our_question(row), {}, layers, len(points), seen, _arrays(folder, record, problems))
    dense = SimpleNamespace(**{**vars(row), "attention": "dense", "semantics": part(settings, "nsa").get("semantics")})
    return Asked(row, {**our_question(dense), "attention": row.attention}, method)


def _arrays(folder: Path, record: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """What the record says of arrays beside it; nothing where these are gone: the probe is to be made again."""
    said = part(record, "arrays")
    if said and not (folder / ARRAYS).is_file():
        problems.append(f"{below_out(folder / ARRAYS)}: not there, though the record names it")
        return {}
    return said
