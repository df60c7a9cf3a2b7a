"""The jobs that a sweep still needs: trainings, evaluations of cells of one checkpoint, probes. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from ablations.cell import Cell, Probe, Training
from ablations.plan import Sweep, by_training
from ablations.sizes import questions_of
from ablations.state import DONE, FAILED, INTERRUPTED, WAITING, State
from videonsa.config import SuiteSettings

WORTH_A_JOB = 64  # answers: fewer are given sooner than another process has loaded its model
TOGETHER = 16  # jobs that have the same cells, where there are enough: a thousand jobs of a thousand are a million


@dataclass(frozen=True)
class Job:
    """One process: a training, or cells of one checkpoint, beside others that answer them too, or a probe."""

    name: str  # also its folder below the sweep's jobs/
    kind: str  # train, evaluate or probe
    training: Training
    cells: tuple[Cell, ...] = ()  # train: those that wait for it
    probe: Probe | None = None
    after: str | None = None  # the name of the training job that must succeed first

    @property
    def trains(self) -> bool:
        """It trains, on all processes that a training gets."""
        return self.kind == "train" and self.training.gates is None

    @property
    def needs(self) -> Training | None:
        """The training whose weights it works with."""
        return self.training.start if self.kind == "train" else self.training

    @property
    def measures(self) -> bool:
        """It trains nothing: it measures the mean gates of weights that are there, on one GPU."""
        return self.kind == "train" and self.training.gates is not None


@dataclass(frozen=True)
class Busy:
    """What is queued or running already: not to be submitted again."""

    cells: frozenset[str] = frozenset()
    trainings: frozenset[str] = frozenset()
    probes: frozenset[str] = frozenset()


def make_jobs(
    sweep: Sweep, state: State, cells: Iterable[Cell], retry: bool, per_training: int, busy: Busy | None = None
) -> list[Job]:
    """The jobs that are still to run: trainings, evaluation jobs of several cells of one checkpoint, probes.

    `cells` are those asked for (--only); failed ones run again when `retry` says so, interrupted ones always.
    At most `per_training` evaluation jobs share the questions of a checkpoint's cells, whichever comes to the next
    video first. Probes go before: evaluations then end together.
    """
    busy = busy or Busy()
    again = (WAITING, INTERRUPTED) + ((FAILED,) if retry else ())
    chosen = {cell.id: cell for cell in cells}
    evaluation_jobs, probe_jobs = [], []
    waiting: dict[str, list[Cell]] = {}  # training id -> cells that wait for it
    for key, asked in by_training(chosen.values()).items():
        mine = [cell for cell in asked if state.cells[cell.id] in again and cell.id not in busy.cells]
        training = sweep.trainings[key]
        status = state.trainings[key]
        probe = sweep.probes.get(key)
        looked_at = any(cell.is_probed for cell in asked)
        probe_wanted = looked_at and probe is not None and state.probes[key] in again and probe.id not in busy.probes
        lacking = [] if status == DONE else [each.id for each in (training, *training.before)]
        lacking = [each for each in lacking if state.trainings[each] != DONE]
        if any(state.trainings[each] == FAILED for each in lacking) and not retry:
            continue
        after = None
        if status != DONE:
            if not mine and not probe_wanted:
                continue
            after = f"train-{key}"
        for each in lacking:
            waiting.setdefault(each, []).extend(mine)
        job = Job(f"evaluate-{key}", "evaluate", training, tuple(mine), after=after)
        evaluation_jobs += shared(job, per_training)
        if probe_wanted:
            probe_jobs.append(Job(f"probe-{key}", "probe", training, probe=probe, after=after))
    return [*_training_jobs(sweep, state, waiting, busy), *probe_jobs, *evaluation_jobs]


def _training_jobs(sweep: Sweep, state: State, waiting: Mapping[str, list[Cell]], busy: Busy) -> list[Job]:
    """A job for each training with the cells that wait for it, after the job of the training that it begins with."""
    jobs = []
    for key in sorted(waiting, key=lambda key: len(sweep.trainings[key].before)):
        training = sweep.trainings[key]
        start = training.start.id if training.start else None
        after = f"train-{start}" if start and state.trainings[start] != DONE else None
        jobs.append(Job(f"train-{key}", "train", training, tuple(waiting[key]), after=after))
    return [job for job in jobs if job.training.id not in busy.trainings]


def shared(job: Job, most: int) -> list[Job]:
    """The evaluation by so many jobs, at most, that share its questions; none where there are no cells."""
    known = [questions_of(cell.suite) for cell in job.cells]
    number = most if None in known else min(most, -(-sum(count or 0 for count in known) // WORTH_A_JOB))
    parts = deal(job.cells, -(-number // TOGETHER))
    return [replace(job, name=f"{job.name}-{place}", cells=parts[place % len(parts)]) for place in range(number)]


def deal(cells: Iterable[Cell], parts: int) -> list[tuple[Cell, ...]]:
    """The cells in so many parts, at most one a cell, that cut as few suites as can be: what is cut shares less."""
    order = [cell for group in by_suite(cells).values() for cell in group]
    parts = min(parts, len(order))
    bounds = [len(order) * part // parts for part in range(parts + 1)] if parts else [0]
    return [tuple(order[start:end]) for start, end in pairwise(bounds)]


def by_suite(cells: Iterable[Cell]) -> dict[SuiteSettings, list[Cell]]:
    """The cells of one checkpoint that are asked the same questions, in the order of the suites."""
    groups: dict[SuiteSettings, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.suite, []).append(cell)
    return groups
