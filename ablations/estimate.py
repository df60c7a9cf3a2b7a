"""How long a plan will take: from the records of earlier runs where there are any, else by stated rules. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ablations.cell import Cell
from ablations.plan import Job, State, Sweep
from videonsa.record import read_record

LOOK_AT = 40  # newest records that are read
START_SECONDS = 12.0  # a job's imports, model and data
QUESTION_SECONDS = 0.03  # one question of the tiny model on one CPU core
STEP_SECONDS = 0.08  # one optimizer step of the tiny model on two CPU cores
PROBE_SECONDS = 20.0


@dataclass(frozen=True)
class Rates:
    """Seconds a unit, and whether they were measured."""

    step: float
    question: float
    measured: tuple[str, ...]  # of "training", "evaluation"


def measured_rates(out: Path) -> Rates:
    """Seconds a training step and a question, from the newest records of an out folder."""
    steps, questions = [], []
    for record in _newest(out / "trainings"):
        summary = record.get("summary") or {}
        if summary.get("seconds") and summary.get("steps"):
            steps.append(summary["seconds"] / summary["steps"])
    for record in _newest(out / "cells"):
        seconds, asked = (record.get("summary") or {}).get("seconds"), len(record.get("questions") or ())
        if seconds and asked:
            questions.append(seconds / asked)
    measured = [name for name, values in (("training", steps), ("evaluation", questions)) if values]
    return Rates(_median(steps) or STEP_SECONDS, _median(questions) or QUESTION_SECONDS, tuple(measured))


def estimate(sweep: Sweep, state: State, jobs: Iterable[Job], workers: int) -> str:
    """One line: the time that the jobs need on this many workers, and where the figure comes from."""
    jobs = list(jobs)
    if not jobs:
        return "nothing to run"
    rates = measured_rates(sweep.out)
    if not rates.measured and any(
        job.training.settings is None or job.training.settings.model != "tiny" for job in jobs
    ):
        return "not known: no earlier records at this scale"
    training, spread, unknown = 0.0, 0.0, False
    for job in jobs:
        if job.kind == "train":
            steps = job.training.settings.steps if job.training.settings else None
            unknown |= steps is None
            training += START_SECONDS + (steps or 0) * rates.step
        elif job.kind == "evaluate":
            limits = [_questions(cell) for cell in job.cells]
            unknown |= None in limits
            spread += START_SECONDS + sum(limit or 0 for limit in limits) * rates.question
        else:
            spread += PROBE_SECONDS
    seconds = training + spread / max(1, workers)
    basis = (
        "from earlier records" if rates.measured else "no earlier records: rule of thumb of the tiny profile, 2 cores"
    )
    more = ", without what has no known length (limit or steps not set)" if unknown else ""
    return f"about {duration(seconds)} on {workers} worker{'s' if workers != 1 else ''} ({basis}{more})"


def seconds_a_cell(out: Path, cells: Iterable[Cell]) -> float | None:
    """What a cell should take, before one is done; None where nothing is known."""
    rates, known = measured_rates(out), [count for cell in cells if (count := _questions(cell)) is not None]
    return rates.question * sum(known) / len(known) if known else None


def _questions(cell: Cell) -> int | None:
    """How many questions a cell asks; None when it is the whole of a benchmark of unknown size."""
    from evals.suites import SUITES

    return cell.suite.limit or SUITES[cell.suite.name].questions


def duration(seconds: float) -> str:
    """'45 s', '3 min 20 s', '2 h 05 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _newest(folder: Path) -> list[dict]:
    if not folder.is_dir():
        return []
    paths = list(folder.glob("*/record.json"))
    paths.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    records = (read_record(path) for path in paths[:LOOK_AT])
    return [record for record in records if record is not None and record["status"] == "done"]


def _median(values: list[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None
