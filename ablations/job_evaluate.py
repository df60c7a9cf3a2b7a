"""The job that asks questions of one checkpoint, beside others of the same cells. No torch at first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from ablations.cell import Cell
from ablations.facts import check_here
from ablations.failures import error_of, line_of_failure
from ablations.gates import read_gates
from ablations.here import checkpoint_of, observed, provenance_here
from ablations.inputs import PACKAGES
from ablations.jobs import by_suite
from ablations.mirror import mirror
from ablations.plan import answers_folder, cell_folder, training_folder
from ablations.progress import Progress
from ablations.records import found_by, record_of
from ablations.state import DONE, FAILED, is_of
from ablations.trained import of_weights
from ablations.work import Work
from videonsa.config import to_dict
from videonsa.lock import Lock, LockHeld
from videonsa.record import read_record, write_record

Find = Callable[[], dict[str, Any]]  # finds what a record says


def run_cells(work: Work, progress: Progress) -> list[str]:
    """Ask the cells' questions, beside other jobs of the same cells, and give each cell its record once it has all
    answers, whoever gave them; returns what failed.

    First what nobody else is at; then, suite by suite, what others left or are still at: so the last job to end leaves
    nothing undone.
    """
    weights: dict[str, Any] = {}
    problems: list[str] = []
    for wait in (False, True):
        for suite, cells in by_suite(work.job.cells).items():
            progress.write(force=True, cells=len(work.job.cells))
            left = [cell for cell in cells if not has_record(work.out, cell)]
            if left:
                report = progress.begin("evaluate", f"{suite.name}, {len(left)} variants", left[0].run)
                problems += run_suite(work, left, weights, report, wait)
    return problems


def run_suite(
    work: Work, cells: list[Cell], weights: dict[str, Any], report: Callable[..., None], wait: bool
) -> list[str]:
    """Ask one suite under the variants of these cells, and close those that are whole; returns what failed.

    `weights` keeps the loaded checkpoint from suite to suite.
    """
    try:
        found = _ask(work, cells, weights, report, wait)
    except Exception as error:
        found = dict.fromkeys((cell.id for cell in cells), partial(_raise, error))
    whole = [cell for cell in cells if cell.id in found]
    return [line for cell in whole for line in close_cell(work, cell, found[cell.id], weights.get("loaded"), wait)]


def _ask(
    work: Work, cells: list[Cell], weights: dict[str, Any], report: Callable[..., None], wait: bool
) -> dict[str, Find]:
    """What finds the scores of each cell that is whole, or raises why it has none."""
    first = cells[0]
    loaded, suite = _loaded(work, first, weights), work.stages.get("evaluate")
    about, folder = provenance_here(work, loaded), answers_folder(work.out, first)
    if not isinstance(suite, type):
        return {cell.id: partial(_evaluate, suite, work, cell, loaded, folder, report) for cell in cells}
    run = suite(first.suite, folder, data=work.out / "data", about=about, attempt=work.attempt)
    found: dict[str, Find] = {}
    asked = {}
    for cell in cells:
        try:
            asked[cell.id] = run.under(loaded, to_dict(cell.nsa), cell.method)
        except Exception as error:
            found[cell.id] = partial(_raise, error)
    with _media_kept(work, run, loaded, asked.values()) as media:
        run.ask(loaded, list(asked.values()), on_progress=report, wait=wait)
    for key, one in asked.items():
        if one.error is not None:
            found[key] = partial(_raise, one.error)
        elif run.complete(one):
            found[key] = partial(_scored, run, one, media)
    return found


def _scored(run: Any, one: Any, media: Mapping[str, str]) -> dict[str, Any]:
    """What the answers come to, and where the prompts and pictures of what was asked lie, below the out folder."""
    place = {"media": f"answers/{run.answers.folder.name}/media/{media[one.key]}"} if one.key in media else {}
    return run.score(one) | place


def _media_kept(work: Work, run: Any, loaded: Any, asked: Iterable[Any]) -> AbstractContextManager[dict[str, str]]:
    """Keeps what is read meanwhile for people to look at; of what reads no videos there is nothing to keep."""
    return work.stages.get("media")(run, loaded, asked) if hasattr(loaded, "readers") else nullcontext({})


def _evaluate(
    evaluate: Callable[..., Any], work: Work, cell: Cell, loaded: Any, folder: Path, report: Callable[..., None]
) -> Any:
    """What a function that asks and scores at once finds."""
    method = {} if cell.method is None else {"method": cell.method}
    return evaluate(loaded, to_dict(cell.nsa), cell.suite, folder, report, data=work.out / "data", **method)


def close_cell(work: Work, cell: Cell, find: Find, loaded: Any, wait: bool) -> list[str]:
    """Give a cell the record of what `find` finds, or of the exception that it raises; unless another process has, or,
    without `wait`, is about to. Returns what failed."""
    folder = cell_folder(work.out, cell.id)
    try:
        with Lock(folder / "claim", wait) as claim:
            if has_record(work.out, cell):
                return []
            record = record_of(cell)
            try:
                result = find()
                record |= found_by(result)
                if (result.get("scores") or {}).get("accuracy") is None:
                    raise RuntimeError("no question could be scored")
                record |= {"status": DONE, "error": None} | of_weights(work.out, cell.training, record)
            except Exception as error:
                record |= {"status": FAILED, "error": error_of(error, folder)}
            claim.check()
            write_record(folder / "record.json", record | {"provenance": provenance_here(work, loaded)})
    except LockHeld:
        return []
    if work.mirror:
        mirror(record, work.out, work.sweep, cell.label)
    return [] if record["status"] == DONE else [line_of_failure(str(cell), record["error"])]


def has_record(out: Path, cell: Cell) -> bool:
    """A record of this cell is there: done, or failed since it was planned to be made."""
    record = read_record(cell_folder(out, cell.id) / "record.json")
    return record is not None and is_of(record, cell)


def _loaded(work: Work, cell: Cell, weights: dict[str, Any]) -> Any:
    """The checkpoint of the job's cells."""
    load = work.stages.get("load")
    check_here(cell.training.facts, observed().get("device"), PACKAGES)
    if "loaded" not in weights:
        weights["loaded"] = load(checkpoint_of(work.out, cell))
        if cell.training.gates is not None:
            weights["loaded"].take_gates(read_gates(training_folder(work.out, cell.training.id)))
    return weights["loaded"]


def _raise(error: Exception) -> Any:
    raise error
