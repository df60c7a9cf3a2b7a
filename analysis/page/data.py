"""A sweep's numbers and questions as the page reads them: compact JSON, texts once each, columns in place of rows."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import pandas as pd

from analysis.cell_text import costs_of
from analysis.load import Results
from analysis.page.media import MOST, Media
from analysis.pooled import shown
from analysis.rows import each
from videonsa.text import line_of

LIMIT = 30_000_000  # bytes of a page
OF_TEXT = 18_000_000  # of these, for all but figures and pictures
LONGEST = (4000, 1000, 200, 40)  # letters of a prompt or an answer: the first with which the texts have room
ASKED = ("doc_id", "prompt_hash", "answer", "prediction", "score", "error", "kind", "parts")  # columns of a question
POINT = ("accuracy", "low", "high", "answered", "difference", "difference_low", "difference_high", "p_holm", "chance")


class Texts:
    """Each text once; -1 stands for none."""

    def __init__(self, longest: int) -> None:
        self.longest, self.all = longest, list[str]()
        self._numbers: dict[str, int] = {}

    def number(self, text: object) -> int:
        """Of a text, which is cut where it is too long."""
        if text is None or (isinstance(text, float) and math.isnan(text)):
            return -1
        whole = str(text)
        if len(whole) > self.longest:
            whole = f"{whole[: self.longest]} … ({len(whole) - self.longest:,} letters more)"
        if whole not in self._numbers:
            self._numbers[whole] = len(self.all)
            self.all.append(whole)
        return self._numbers[whole]


def page_data(results: Results, rows: pd.DataFrame, media: Media, room: int, pictures: bool = True) -> dict[str, Any]:
    """Everything that the page's script reads.

    room: bytes for the texts and pictures, LIMIT less what the page holds beside them. pictures: with those of at most
    MOST questions, and the names of all, which lie beside the answers.
    """
    data: dict[str, Any] = {"variants": [line_of(label) for label in dict.fromkeys(rows["label"])]}
    data |= {"suites": [line_of(suite) for suite in dict.fromkeys(rows["suite"])], "costs": _costs(rows)}
    data["references"] = [data["variants"].index(line_of(name)) for name in _references(rows)]
    data |= {"cells": _cells(rows), "layers": _layers(results), "cut": None, "texts": [], "questions": [], "sheets": {}}
    for longest in LONGEST:
        texts = Texts(longest)
        data["questions"] = _questions(results, rows, media, texts)
        data["texts"] = texts.all
        if size_of(data) < min(room, OF_TEXT):
            break
        data["cut"] = LONGEST[min(LONGEST.index(longest) + 1, len(LONGEST) - 1)]
    else:
        return data | {"questions": [], "texts": [], "cut": 0}
    if pictures:
        data["sheets"] = _sheets(data["questions"], media, room - size_of(data))
    else:
        for suite in data["questions"]:
            suite["shown"] = []
    return data


def to_json(data: Mapping[str, Any]) -> str:
    """JSON that can stand inside of a script element whatever the texts say."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def size_of(data: Mapping[str, Any]) -> int:
    """Bytes of its JSON as it is written: a letter may be several."""
    return len(to_json(data).encode("utf-8", "backslashreplace"))


def _number(value: Any) -> float | None:
    """As JSON has it, with six digits: one that is not finite is none."""
    if not isinstance(value, Real) or not math.isfinite(value):
        return None
    return float(f"{value:.6g}")


def _references(rows: pd.DataFrame) -> list[str]:
    """Labels of the reference, and of each of its seeds."""
    return list(dict.fromkeys(rows.loc[rows["is_reference"], "label"]))


def _costs(rows: pd.DataFrame) -> list[str]:
    return [heading.replace("\n", " ") for heading, _ in costs_of(rows).values()]


def _cells(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """One a variant and benchmark: where it stands in the lists, its numbers, its costs in the order of `costs`."""
    labels, suites = (list(dict.fromkeys(rows[name])) for name in ("label", "suite"))
    factors = {name: factor for name, (_, factor) in costs_of(rows).items()}
    found = []
    for row in each(shown(rows)):
        about = {"v": labels.index(row.label), "s": suites.index(row.suite), "status": row.status}
        numbers = {name: _number(getattr(row, name)) for name in POINT}
        costs = [_number(getattr(row, name)) for name in factors]
        scaled = [None if cost is None else cost * factor for cost, factor in zip(costs, factors.values(), strict=True)]
        found.append({**about, **numbers, "reference": bool(row.is_reference), "costs": scaled})
    return found


def _layers(results: Results) -> list[dict[str, Any]]:
    """What probes found by layer: a chart each, of lines [[layer, value], ...] by name."""
    recall = results.recall[results.recall["part"] == "vision"] if len(results.recall) else results.recall
    sources = (
        ("gate, mean", 1, results.gates, "branch", "mean"),
        ("sinks, % of keys", 100, results.sinks, "branch", "ratio"),
        ("dense attention kept, % (vision queries)", 100, recall, "variant", "mass"),
    )
    found = []
    for what, factor, frame, name, value in sources:
        for (_, label, suite), group in frame.groupby(["probe", "label", "suite"], sort=False) if len(frame) else ():
            lines: dict[str, list] = {}
            for row in each(group[[name, "layer", value]].dropna()):
                lines.setdefault(line_of(row[1]), []).append([int(row[2]), _number(factor * row[3])])
            found.append({"what": what, "of": line_of(f"{label}, {suite}"), "lines": lines})
    return found


def _questions(results: Results, rows: pd.DataFrame, media: Media, texts: Texts) -> list[dict[str, Any]]:
    """One entry a benchmark, of columns that have a place for each question; `given` has those of each variant."""
    labels = list(dict.fromkeys(rows["label"]))
    asked = {str(cell): group for cell, group in results.questions.groupby("cell")}
    found = []
    for number, (_, cells) in enumerate(rows.groupby("suite", sort=False)):
        there = [row for row in each(cells) if row.id in asked]
        groups = [(labels.index(row.label), _place(row), asked[row.id]) for row in there]
        if groups:
            found.append({"s": number, **_suite(groups, media, texts)})
    return found


def _place(row: Any) -> str:
    """Where a cell's prompts and pictures lie; empty where its record does not say."""
    return row.media if isinstance(row.media, str) else ""


class Places:
    """The questions of a benchmark in the order in which they are found.

    Two variants were asked the same where number and prompt are the same; one that ended in an error before it had a
    prompt is the one of that number.
    """

    def __init__(self) -> None:
        self.first: list[Any] = []  # a row of each
        self._known: dict[str, list[int]] = {}

    def of(self, row: Any) -> int:
        """Where a row's question stands."""
        known = self._known.setdefault(row.doc_id, [])
        for place in known:
            other = self.first[place].prompt_hash
            if isinstance(other, str) and isinstance(row.prompt_hash, str) and other != row.prompt_hash:
                continue
            if not isinstance(other, str):
                self.first[place] = row
            return place
        known.append(len(self.first))
        self.first.append(row)
        return known[-1]


def _suite(groups: list[tuple[int, Any, pd.DataFrame]], media: Media, texts: Texts) -> dict[str, Any]:
    places, parts = Places(), Texts(200)
    at = {v: [(places.of(row), row) for row in each(group[list(ASKED)])] for v, _, group in groups}
    first, samplings = places.first, list(dict.fromkeys(place for _, place, _ in groups))
    shown = [[media.question(place, row.doc_id) for row in first] for place in samplings]
    known = [next((one for one in of if one.prompt is not None), of[0]) for of in zip(*shown, strict=True)]
    return {
        "doc": [row.doc_id for row in first],
        "answer": [texts.number(row.answer) for row in first],
        "prompt": [texts.number(one.prompt) for one in known],
        "parts": [[parts.number(name) for name in _parts(row)] for row in first],
        "seconds": [media.seconds(one) for one in known],
        "names": parts.all,
        "given": {str(v): _given(rows, len(first), texts) for v, rows in at.items()},
        "sampling": {str(v): samplings.index(place) for v, place, _ in groups},
        "shown": [
            {"folder": next((one.folder for one in of if one.folder), ""), "sheets": [media.there(one) for one in of]}
            for of in shown
        ],
    }


def _given(rows: list[tuple[int, Any]], count: int, texts: Texts) -> dict[str, list[Any]]:
    """A variant's answers: `score` (none: an error), `text` and `error`, which are numbers of texts."""
    score: list[float | None] = [None] * count
    text, error = [-1] * count, [-1] * count
    for place, row in rows:
        score[place], text[place] = _number(row.score), texts.number(row.prediction)
        error[place] = texts.number(row.error)
    given: dict[str, list[Any]] = {"score": [int(value) if value in (0, 1) else value for value in score], "text": text}
    return given | ({"error": error} if max(error, default=-1) >= 0 else {})


def _parts(row: Any) -> list[str]:
    """The sub-scores and the kind that a question counts in."""
    names = row.parts if isinstance(row.parts, list) else []
    return list(dict.fromkeys(str(name) for name in [*names, row.kind] if isinstance(name, str)))


def _sheets(suites: list[dict[str, Any]], media: Media, room: int) -> dict[str, Any]:
    """The pictures of at most MOST questions by name, as many as have room: first of those that variants answer
    differently, the benchmarks in turn."""
    queues = [_by_interest(suite) for suite in suites]
    turns = [(turn, number) for number, queue in enumerate(queues) for turn in range(len(queue))]
    found: dict[str, Any] = {}
    questions = 0
    for turn, number in sorted(turns):
        suite, place = suites[number], queues[number][turn]
        wanted = {name: of["folder"] for of in suite["shown"] for name in of["sheets"][place]}
        new = {name: media.sheet(folder, name) for name, folder in wanted.items() if name not in found}
        new = {name: sheet for name, sheet in new.items() if sheet}
        room -= sum(len(name) + len(json.dumps(sheet)) + 8 for name, sheet in new.items())
        if questions == MOST or room < 0:
            break
        found |= new
        questions += any(name in found for name in wanted)
    return found


def _by_interest(suite: Mapping[str, Any]) -> list[int]:
    """The questions that have pictures, first those about which the variants are most divided."""
    pictured = [place for place in range(len(suite["doc"])) if any(of["sheets"][place] for of in suite["shown"])]

    def agreement(place: int) -> float:
        scores = [given["score"][place] for given in suite["given"].values()]
        known = [score for score in scores if score is not None]
        return abs(sum(known) / len(known) - 0.5) if known else 1.0

    return sorted(pictured, key=agreement)
