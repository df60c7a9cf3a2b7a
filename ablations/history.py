"""Finished records that ask what a sweep asks, under another identity: why they do not count. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ablations.cell import Cell, Probe, Training
from ablations.evidence import shown
from ablations.jobs import Job
from ablations.plan import Sweep
from ablations.reasons import changes
from ablations.records import FOLDERS, KINDS, is_asked
from ablations.state import DONE, GONE, State
from videonsa.identity import VERSION
from videonsa.record import read_record


@dataclass(frozen=True)
class Earlier:
    """A finished record of the same question, and what its identity lacks of the one that is asked now."""

    what: Training | Cell | Probe
    folder: Path
    record: Mapping[str, Any]
    changed: tuple[str, ...]  # inputs that were others, in words
    missing: tuple[str, ...]  # inputs that the record does not show, in words

    @property
    def version(self) -> int:
        """Of the identity's form."""
        return version_of(self.record)

    @property
    def counts(self) -> bool:
        """All inputs are shown to be those that are asked."""
        return not self.changed and not self.missing


@dataclass(frozen=True)
class History:
    """The finished records of an out folder, read once."""

    out: Path
    planned: Mapping[str, str]  # a cell's place -> its id in the sweep's plan

    @cached_property
    def records(self) -> dict[str, dict[Path, dict[str, Any]]]:
        """Kind -> folder -> record."""
        return {kind: dict(_finished(self.out / folder)) for kind, folder in FOLDERS.items()}

    @cached_property
    def trainings(self) -> dict[str, dict[str, Any]]:
        """The records of trainings by every id that they have had."""
        found: dict[str, dict[str, Any]] = {}
        for record in self.records["training"].values():
            found |= {record["id"]: record, (record.get("adopted") or {}).get("id", record["id"]): record}
        return found

    def nearest(self, what: Training | Cell | Probe) -> Earlier | None:
        """The finished record of the same settings, or of the same place in the plan, that differs in fewest inputs."""
        found = self.records[KINDS[type(what)]]
        before = self.planned.get(what.place) if isinstance(what, Cell) else None
        earlier = (
            self.compare(what, folder, record)
            for folder, record in found.items()
            if folder.name != what.id and (record["id"] == before or is_asked(what, record["settings"]))
        )
        return min(earlier, key=lambda one: len(one.changed) + len(one.missing), default=None)

    def compare(self, what: Training | Cell | Probe, folder: Path, record: Mapping[str, Any]) -> Earlier:
        """The inputs that are asked now beside those that the record shows."""
        inputs, missing = shown(record, what.inputs, self.trainings)
        changed = changes(inputs, what.inputs, missing)
        said = (tuple(dict.fromkeys(words.values())) for words in (changed, missing))  # one cause, one line
        return Earlier(what, folder, record, *said)


def read_history(sweep: Sweep) -> History:
    """Of the sweep's out folder."""
    try:
        rows = json.loads((sweep.folder / "plan.json").read_text(encoding="utf-8"))["cells"]
        planned = {_place(row): str(row["id"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError):
        planned = {}
    return History(sweep.out, planned)


def open_ends(sweep: Sweep, state: State, cells: Iterable[Cell]) -> Iterator[Training | Cell | Probe]:
    """What is asked of the cells and is not done: trainings, the cells, probes."""
    cells = list(cells)
    for key in dict.fromkeys(cell.training.id for cell in cells):
        if state.trainings[key] not in (DONE, GONE):
            yield sweep.trainings[key]
        if key in sweep.probes and state.probes[key] != DONE:
            yield sweep.probes[key]
    yield from {cell.id: cell for cell in cells if state.cells[cell.id] != DONE}.values()


def again_lines(sweep: Sweep, state: State, cells: Iterable[Cell]) -> list[str]:
    """Why what was done once is to be done again: a line for each reason."""
    history, because = read_history(sweep), dict[str, list[Training | Cell | Probe]]()
    for what in open_ends(sweep, state, cells):
        earlier = history.nearest(what)
        if earlier is not None:
            because.setdefault(_reason(earlier), []).append(what)
    return [f"Again: {_named(whats)}: {reason}" for reason, whats in because.items()]


def remade_lines(sweep: Sweep, state: State, jobs: Iterable[Job]) -> list[str]:
    """Trainings that these jobs make again, as their weights are gone, and what stands of what was asked of those.

    On a GPU the new weights need not be the same bits, and only what was asked of the same ones is compared
    (analysis.compared.compare).
    """
    lines = []
    for key in (job.training.id for job in jobs if job.kind == "train" and state.trainings[job.training.id] == GONE):
        cells = {cell.id for cell in sweep.cells if cell.training.id == key}
        if done := sum(state.cells[cell] == DONE for cell in cells):
            lines.append(
                f"Again: training {key}: its weights are gone. What is done stands ({done} of {len(cells)} cells), and "
                "is compared with what is asked now only if they come out as the same bits (another --out asks all "
                "anew)"
            )
    return lines


def plan_changes(planned: Sweep, now: Sweep) -> list[str]:
    """What has changed since a sweep was planned, in words."""
    pairs = zip(planned.cells, now.cells, strict=True)
    found = [changes(then.inputs, cell.inputs) for then, cell in pairs if then.id != cell.id]
    return list(dict.fromkeys(words for change in found for words in change.values()))


def older_records(sweep: Sweep, state: State, cells: Iterable[Cell]) -> list[Earlier]:
    """Finished records in the form of an older version that ask what is to be done."""
    history = read_history(sweep)
    found = (history.nearest(what) for what in open_ends(sweep, state, cells))
    return [earlier for earlier in found if earlier is not None and earlier.version < VERSION]


def version_of(record: Mapping[str, Any]) -> int:
    """Of the form of the record's identity; records without inputs are of version 1."""
    return int((record.get("identity") or {}).get("version", 1))


def _reason(earlier: Earlier) -> str:
    parts = [*earlier.changed, *earlier.missing]
    if earlier.counts and earlier.version < VERSION:
        return f"its identity is of version {earlier.version}: --adopt gives it its new name"
    return "; ".join(parts) or "its record lies under another name: --adopt gives it its new one"


def _named(whats: list[Training | Cell | Probe]) -> str:
    counts = {kind: [what for what in whats if KINDS[type(what)] == kind] for kind in FOLDERS}
    names = {"training": "training", "evaluation": "cell", "probe": "probe"}
    said = [f"{len(found)} {names[kind]}{'s' * (len(found) > 1)}" for kind, found in counts.items() if found]
    only = str(whats[0]) if len(whats) == 1 and isinstance(whats[0], Cell) else None
    return only or " and ".join(said)


def _finished(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(folder.glob("*/record.json")):
        record = read_record(path)
        if record is not None and record["status"] == DONE and isinstance(record.get("settings"), dict):
            yield path.parent, {key: value for key, value in record.items() if key not in ("questions", "points")}


def _place(row: Mapping[str, Any]) -> str:
    seed = f" seed {row['seed']}" if row["seed"] else ""
    return f"{row['label']} · {row['suite']}{seed}"
