"""What a job runs: a training, questions of one checkpoint, or a probe; each leaves records. No torch at first."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

from ablations.cell import Cell, Training
from ablations.facts import check_here
from ablations.failures import DISK_ERROR, JobFailed, training_failure
from ablations.gates import FILE, read_gates
from ablations.inputs import PACKAGES, TRAIN_PACKAGES
from ablations.mirror import mirror
from ablations.plan import DONE, FAILED, Job, Sweep, answers_folder, by_suite, cell_folder, is_of, training_folder
from ablations.progress import Progress, launch, read_progress
from ablations.records import fail_record, record_of
from ablations.stages import Stages
from ablations.trained import (
    is_trained,
    made_before,
    of_weights,
    put_aside_remains,
    trained_folder,
    training_summary,
)
from evals.observers import registry
from slurm.executor import delayed, distributed_environment, leave, leave_when_told, told_to_leave
from videonsa.arrays import ARRAYS, write_arrays
from videonsa.config import TrainSettings, to_dict
from videonsa.disk import DiskError, disk_error
from videonsa.lock import Lock, LockHeld, claimed
from videonsa.names import SMALL_MODELS
from videonsa.placement import placed
from videonsa.process import is_alive
from videonsa.record import failure, provenance, read_record, without_paths, write_record, write_text
from videonsa.surroundings import settings_decide
from videonsa.training import skipped
from videonsa.training.watch import Left

Find = Callable[[], dict[str, Any]]  # finds what a record says


@dataclass(frozen=True)
class Parent:
    """The process that a local worker must not outlive."""

    pid: int
    started: str


@dataclass(frozen=True)
class Work:
    """A job with all that it needs; submitit pickles it. A requeued job simply starts again: its stages resume."""

    job: Job
    out: Path
    folder: Path  # of the job: progress.json
    sweep: str
    stages: Stages = field(default_factory=Stages)
    attempt: str = ""  # jobs that were started together share this name, and settle among them what is an error
    parent: Parent | None = None
    mirror: bool = True  # to W&B
    origin: Mapping[str, Any] = field(default_factory=dict)  # commit and state of the checkout that a snapshot is of
    sharing: float = 1.0  # trainings that have the GPU of a training, with it
    save_seconds: float = 30.0  # that a training has for its last step and for saving it, once Slurm interrupts it

    def __call__(self) -> None:
        """Run the job; raises JobFailed at the end when anything in it failed, DiskError when a disk did."""
        if self.parent is not None:
            _die_with(self.parent)
        trains = self.job.kind == "train" and not self.job.measures
        leave_when_told(self.save_seconds if trains else None)
        rank, processes = distributed_environment() if self.job.kind == "train" else (0, 1)
        try:
            with settings_decide(alone=processes == 1):
                return train_along(self) if rank > 0 else self._run()
        except Left:
            leave(on_slurm=self.parent is None)
            raise

    def _run(self) -> None:
        progress = Progress(self.folder)
        run = {"train": run_training, "evaluate": run_cells, "probe": run_probe}[self.job.kind]
        problems = run(self, progress)
        progress.write(phase="end", force=True)
        if problems:
            raise JobFailed("; ".join(problems))

    def checkpoint(self, *_: Any, **__: Any) -> Any:
        """Called by submitit before a preempted or timed-out job is requeued."""
        return delayed(self)


def make_work(sweep: Sweep, job: Job, stages: Stages, attempt: str) -> Work:
    """The picklable thing that a job runs; its folder is made, its earlier progress forgotten. attempt: see Work."""
    folder = job_folder(sweep, job)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "progress.json").unlink(missing_ok=True)
    return Work(job, sweep.out.resolve(), folder.resolve(), sweep.name, stages, attempt)


def job_folder(sweep: Sweep, job: Job) -> Path:
    """Where a job's logs and progress lie."""
    return sweep.folder / "jobs" / job.name


def run_training(work: Work, progress: Progress) -> list[str]:
    """Train into trainings/<id>/final and leave its record; returns what failed."""
    training, folder = work.job.training, training_folder(work.out, work.job.training.id)
    progress.begin("wait", "training")
    with claimed(folder) as claim:
        before = read_record(folder / "record.json")
        if is_trained(work.out, training):
            return []
        put_aside_remains(folder)
        report = progress.begin("train", "training" if training.gates is None else "mean gates", check=claim.check)
        record = record_of(training)
        started = time.time()
        try:
            summary = _train(work, folder, report, lambda text: progress.write(said=text))
            summary["seconds"] = round(max(time.time() - started, summary.get("seconds", 0.0)), 3)
            record |= {"status": DONE, "summary": summary}
            if made := made_before(before):
                record |= {"made_before": made}
                if made[-1] not in (None, summary.get("weights")):
                    progress.write(said=f"other weights than before: {summary.get('weights')}, not {made[-1]}")
        except Exception as error:
            record |= {"error": _word_of_another(folder) or _failure(error, folder)}
        claim.check()
        record |= {"skipped": skipped.summary(folder)} if training.gates is None else {}
        if record["status"] == DONE or before is None or before["status"] != DONE:  # what was done is not lost
            write_record(folder / "record.json", record | {"provenance": _provenance(work) | _placement(work)})
    if record["status"] == DONE:
        return []
    reason = record["error"]
    for cell in work.job.cells:
        fail_record(work.out, cell, training_failure(training.id, reason))
    return [_problem(f"training {training.id}", reason)]


def _train(work: Work, folder: Path, report: Callable[..., None], say: Callable[[str], None]) -> dict[str, Any]:
    """Train, or measure the mean gates of given weights; returns what the record says of it."""
    training = work.job.training
    stage = work.stages.get("train" if training.gates is None else "gates")
    check_here(training.facts, observed().get("device"), TRAIN_PACKAGES)
    if training.gates is None:
        words = {"on_words": say} if "on_words" in signature(stage).parameters else {}  # a stage of before has none
        stage(settings_here(training, work.out), folder, on_progress=report, **words)
        return training_summary(folder)
    given, asked = training.facts.location(str(training.checkpoint)), training.gates
    found = stage(given, to_dict(asked.nsa), settings_here(training, work.out), asked.samples, on_progress=report)
    write_text(folder / FILE, json.dumps(found) + "\n")
    return {name: found[name] for name in ("samples", "tokens")}


def _placement(work: Work) -> dict[str, Any]:
    """How a training lay over this job's processes."""
    settings = work.job.training.settings
    if not work.job.trains or settings is None:
        return {}
    shared = {"trainings_a_gpu": work.sharing} if work.sharing > 1 else {}
    return {"placement": placed(settings, distributed_environment()[1]) | shared}


def _word_of_another(folder: Path) -> dict[str, str] | None:
    """The error of the process of this training that failed first: this one only saw that it went."""
    record = read_record(folder / "record.json") if distributed_environment()[1] > 1 else None
    return record["error"] if record is not None and record["status"] == FAILED else None


def _has_begun(said: Mapping[str, Any]) -> bool:
    """The job's first process has its claim; not what it said before it was requeued."""
    return said.get("launch") == launch() and said.get("phase") not in (None, "wait")


def train_along(work: Work) -> None:
    """The part of every process but the first in a training on several GPUs.

    The first one keeps the record; but where another fails, it is ended with it and leaves none. Until it has the
    training's claim nothing begins: processes that wait for each other give up after some minutes, a claim does not.
    """
    training, folder = work.job.training, training_folder(work.out, work.job.training.id)
    while not _has_begun(read_progress(work.folder)):
        time.sleep(0.2)
    if is_trained(work.out, training):
        return
    try:
        train = work.stages.get("train")
        check_here(training.facts, observed().get("device"), TRAIN_PACKAGES)
        train(settings_here(training, work.out), folder)
    except Exception as error:
        if not told_to_leave():
            fail_record(work.out, training, _failure(error, folder))
        raise


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
    about, folder = _provenance(work, loaded), answers_folder(work.out, first)
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
                record |= {key: value for key, value in result.items() if key not in ("schema", "kind", "status", "id")}
                if (result.get("scores") or {}).get("accuracy") is None:
                    raise RuntimeError("no question could be scored")
                record |= {"status": DONE, "error": None} | of_weights(work.out, cell.training, record)
            except Exception as error:
                record |= {"status": FAILED, "error": _failure(error, folder)}
            claim.check()
            write_record(folder / "record.json", record | {"provenance": _provenance(work, loaded)})
    except LockHeld:
        return []
    if work.mirror:
        mirror(record, work.out, work.sweep, cell.label)
    return [] if record["status"] == DONE else [_problem(str(cell), record["error"])]


def has_record(out: Path, cell: Cell) -> bool:
    """A record of this cell is there: done, or failed since it was planned to be made."""
    record = read_record(cell_folder(out, cell.id) / "record.json")
    return record is not None and is_of(record, cell)


def _loaded(work: Work, cell: Cell, weights: dict[str, Any]) -> Any:
    """The checkpoint of the job's cells."""
    load = work.stages.get("load")
    check_here(cell.training.facts, observed().get("device"), PACKAGES)
    if "loaded" not in weights:
        weights["loaded"] = load(_checkpoint(work.out, cell))
        if cell.training.gates is not None:
            weights["loaded"].take_gates(read_gates(training_folder(work.out, cell.training.id)))
    return weights["loaded"]


def _raise(error: Exception) -> Any:
    raise error


def run_probe(work: Work, progress: Progress) -> list[str]:
    """Observe into probes/<id>/record.json, arrays into a file beside it; returns what failed."""
    probe = work.job.probe
    assert probe is not None
    folder = work.out / "probes" / probe.id
    progress.begin("wait", "probe")
    with claimed(folder) as claim:
        record = read_record(folder / "record.json")
        if record is not None and record["status"] == DONE:
            return []
        report = progress.begin("probe", ", ".join(probe.observers), check=claim.check)
        record = record_of(probe)
        started = time.time()
        try:
            measure, nsa = work.stages.get("probe"), to_dict(probe.nsa)
            check_here(probe.training.facts, observed().get("device"), PACKAGES)
            checkpoint = _checkpoint(work.out, work.job)
            more: dict[str, Any] = {"methods": probe.methods} if probe.methods else {}
            more |= {} if probe.observers == registry.USUAL else {"observers": probe.observers}
            result = measure(checkpoint, nsa, probe.suite, videos=probe.videos, data=work.out / "data", **more)
            report(1, 1)
            if arrays := result.pop("arrays", None):
                claim.check()
                record |= {"arrays": write_arrays(folder / ARRAYS, arrays)}
            record |= {key: value for key, value in result.items() if key not in ("schema", "kind", "status", "id")}
            record |= {"status": DONE, "summary": {"seconds": round(time.time() - started, 3)}, "error": None}
            record |= of_weights(work.out, probe.training, record)
        except Exception as error:
            record |= {"status": FAILED, "error": _failure(error, folder)}
        claim.check()
        write_record(folder / "record.json", record | {"provenance": _provenance(work)})
    return [] if record["status"] == DONE else [_problem(f"probe {probe.id}", record["error"])]


def _problem(name: str, error: Mapping[str, str]) -> str:
    """What failed, in a line. Raises DiskError where it was the disk: what comes after would fail in the same way."""
    if error["type"] == DISK_ERROR:
        raise DiskError(error["message"])
    return f"{name}: {error['message']}"


def _failure(error: Exception, folder: Path) -> dict[str, str]:
    """What a record says of an exception. Where a disk is to blame, in whatever library's words, it says which."""
    disk = disk_error(error, folder)
    told = {} if disk is None else {"type": DISK_ERROR, "message": without_paths(str(disk))}
    return failure(error) | told


def observed(loaded: Any = None) -> dict[str, Any]:
    """What computes here, as torch sees it, and the loaded model's dtype and hub revision; empty without torch."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    cuda = torch.cuda.is_available()
    seen = {"device": "cuda" if cuda else "cpu", "gpu": torch.cuda.get_device_name() if cuda else None}
    model = getattr(loaded, "model", None)
    if model is not None:
        seen |= {"device": model.device.type, "dtype": str(model.dtype).removeprefix("torch.")}
        seen["hub_revision"] = getattr(model.config, "_commit_hash", None)
    return seen


def settings_here(training: Training, out: Path) -> TrainSettings:
    """The settings of a training, or of one whose samples are used, with model and data where this job finds them."""
    settings = training.gates.train if training.gates else training.settings
    assert settings is not None
    if training.start is not None:
        settings = replace(settings, model=str(trained_folder(out, training.start)))
    elif settings.model not in SMALL_MODELS and training.gates is None:
        settings = replace(settings, model=training.facts.location(settings.model))
    if settings.data != "synth":
        folder = settings.video_folder and str(Path(settings.video_folder).resolve())
        settings = replace(settings, data=str(Path(settings.data).resolve()), video_folder=folder)
    return settings


def _provenance(work: Work, loaded: Any = None) -> dict[str, Any]:
    """Where and when; the commit is that of the checkout when the job runs from a snapshot of it."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return provenance() | observed(loaded) | dict(work.origin) | {"time": now}


def _checkpoint(out: Path, of: Cell | Job) -> str | Path:
    """The weights of a cell or job: its training's final folder, or the checkpoint that was given."""
    training = of.training
    given = training.checkpoint and training.facts.location(training.checkpoint)
    if training.exists:
        return str(given)
    folder = trained_folder(out, training)
    return given or folder


def _die_with(parent: Parent) -> None:
    """End this process within a second of the end of run.py, or of submitit's controller between the two."""
    controller = os.getppid()

    def watch() -> None:
        while is_alive(parent.pid, parent.started) is not False and os.getppid() == controller:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent watch").start()
