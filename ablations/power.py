"""What difference a sweep can show, before it runs. Imports no torch, and none of what analysis needs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist, median
from typing import Any

from ablations.estimate import model_of
from ablations.plan import Sweep, cell_folder
from ablations.sizes import SIZES
from ablations.state import DONE, State
from evals.suites import get_suite
from videonsa.config import SuiteSettings
from videonsa.record import read_record

POWER, LEVEL = 0.8, 0.05  # how often a true difference is found; p below which it counts, two-sided
DISCORDANCE = 0.15  # share of questions that two variants answer differently, where no records say it
LOOK_AT = 6  # records a suite, each compared with the next
SCANNED = 40  # newest records of other sweeps among which they are looked for
TITLE = (
    f"What a comparison can show ({100 * POWER:.0f} % power, p < {LEVEL} two-sided, one test, not corrected for more):"
)
ASSUMED = (
    f"  at best: no records yet; assumed that {100 * DISCORDANCE:.0f} % of answers differ, questions independently"
)


@dataclass(frozen=True)
class Seen:
    """How two variants of a suite differ, by finished records (medians over pairs of them)."""

    records: int
    questions: int
    videos: int | None  # None: the records do not say
    discordance: float  # mean squared difference; of right/wrong scores the share of questions that differ
    effect: float  # design effect: what clusters and unequal weights do to the variance of the difference


def detectable(questions: float, discordance: float) -> float | None:
    """The smallest true difference that a paired test of so many independent questions finds with POWER; None: none.

    Connor's (1987) formula for McNemar's test, solved for the difference, which cannot exceed the discordance: where it
    would, so many more questions differ.
    """
    normal = NormalDist()
    needed, wanted = normal.inv_cdf(1 - LEVEL / 2), normal.inv_cdf(POWER)

    def found(difference: float) -> bool:
        differ = max(discordance, difference)
        spread = needed * math.sqrt(differ) + wanted * math.sqrt(differ - difference**2)
        return difference * math.sqrt(questions) >= spread

    low, high = 0.0, 1.0
    if 2 * 0.5**questions >= LEVEL or not found(high):  # even all of them, won, would not be enough
        return None
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if found(middle) else (middle, high)
    return high


def power_lines(sweep: Sweep, state: State) -> list[str]:
    """For each suite, what its number of questions and videos can show; from records where there are two at least."""
    suites = {cell.suite.name: cell.suite for cell in sweep.cells}
    if len({cell.label for cell in sweep.cells}) < 2:
        return []
    width = max(map(len, suites)) + 2 if len(suites) > 1 else 0  # the only suite stands in every cell's line
    known = {name: seen(sweep, state, suite) for name, suite in suites.items()}
    lines = [f"  {name if width else '':<{width}}{_line(suite, known[name])}" for name, suite in suites.items()]
    return [TITLE, *lines, *([ASSUMED] if None in known.values() else [])]


def _line(suite: SuiteSettings, known: Seen | None) -> str:
    size = SIZES.get(suite.name)
    asked = known.questions if known else size.questions if size else get_suite(suite.name).questions
    if suite.limit is not None:
        asked = min(suite.limit, asked or suite.limit)
    if asked is None:
        return "how many questions it has is not known"
    if known:
        videos = f", {known.videos:,} videos" if known.videos and asked == known.questions else ""
        seen_ = f"{known.records} records: {100 * known.discordance:.0f} % of answers differ"
        least = _points(asked / known.effect, known.discordance)
        return f"{asked:,} questions{videos}: {least} ({seen_}, design effect {known.effect:.1f})"
    line = f"{asked:,} questions: at best {_points(asked, DISCORDANCE)}"
    if size and size.videos and asked == size.questions:
        worst = detectable(size.videos, DISCORDANCE)
        line = line.replace(":", f", {size.videos:,} videos:", 1)
        line += f" ({100 * worst:.1f} where answers about one video always go together)" if worst else ""
    return line


def _points(questions: float, discordance: float) -> str:
    least = detectable(questions, discordance)
    return f"differences below {100 * least:.1f} points cannot be seen" if least else "no difference can be seen"


def seen(sweep: Sweep, state: State, suite: SuiteSettings) -> Seen | None:
    """What finished records say of a suite: the sweep's own, else the newest of the out folder of the same model."""
    mine = [cell for cell in sweep.cells if cell.suite.name == suite.name]
    done = [cell.id for cell in mine if state.cells.get(cell.id) == DONE]
    records = [record for name in done[:LOOK_AT] if (record := _asked(sweep, name))]
    if len(records) < 2:
        models = {model_of(cell.training.record_settings) for cell in mine}
        others = (_asked(sweep, name) for name in _newest(sweep))
        records = [record for record in others if record and _is_of(record, suite, models)][:LOOK_AT]
    pairs = [pair for first, second in pairwise(records) if (pair := compared(first, second))]
    if not pairs:
        return None
    largest = max(pairs, key=lambda pair: pair.questions)
    discordance, effect = median(pair.discordance for pair in pairs), median(pair.effect for pair in pairs)
    return Seen(len(pairs) + 1, largest.questions, largest.videos, discordance, effect)


def _asked(sweep: Sweep, cell: str) -> dict[str, Any] | None:
    record = read_record(cell_folder(sweep.out, cell) / "record.json")
    return record if record is not None and record.get("status") == "done" else None


def _newest(sweep: Sweep) -> list[str]:
    folders = [path.parent for path in (sweep.out / "cells").glob("*/record.json")]
    folders.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
    return [folder.name for folder in folders[:SCANNED]]


def _is_of(record: Mapping[str, Any], suite: SuiteSettings, models: set[str]) -> bool:
    settings = record.get("settings") or {}
    asked = settings.get("suite") or {}
    same = asked.get("name") == suite.name and asked.get("task") == suite.task
    return same and model_of(settings.get("train") or {}) in models


def compared(first: Mapping[str, Any], second: Mapping[str, Any]) -> Seen | None:
    """How two records of one suite differ on the questions that both answered; None where they never do."""
    ours, theirs = (
        {row.get("doc_id"): row for row in record.get("questions") or () if row.get("score") is not None}
        for record in (first, second)
    )
    rows = [row for name, row in ours.items() if name in theirs and _same(row, theirs[name])]
    shares = (first.get("scores") or {}).get("shares")
    kinds = Counter(row.get("kind") if shares else None for row in rows)
    weight = {kind: (shares.get(kind, 0.0) if shares else 1.0) / count for kind, count in kinds.items()}
    total, square = 0.0, 0.0
    by_video: dict[Any, float] = {}
    for place, row in enumerate(rows):
        counts, difference = weight[row.get("kind") if shares else None], row["score"] - theirs[row["doc_id"]]["score"]
        total, square = total + counts, square + counts * difference**2
        video = row.get("video") or place
        by_video[video] = by_video.get(video, 0.0) + counts * difference
    if not total or not square:
        return None
    videos = len(by_video) if any(row.get("video") for row in rows) else None
    together = sum(value**2 for value in by_video.values()) / total**2
    return Seen(2, len(rows), videos, square / total, max(1.0, together * len(rows) / (square / total)))


def _same(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """The same question, as far as the records say."""
    return row.get("prompt_hash") == other.get("prompt_hash")
