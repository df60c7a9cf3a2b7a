"""The job of a training: weights, or the mean gates of given ones, and their record. No torch at first."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

from ablations.cell import Training
from ablations.facts import check_here
from ablations.failures import error_of, line_of_failure, training_failure
from ablations.gates import FILE
from ablations.here import observed, provenance_here
from ablations.inputs import TRAIN_PACKAGES
from ablations.plan import training_folder
from ablations.progress import Progress, launch, read_progress
from ablations.records import fail_record, record_of
from ablations.state import DONE, FAILED
from ablations.trained import is_trained, made_before, put_aside_remains, trained_folder, training_summary
from ablations.work import Work
from slurm.executor import distributed_environment, told_to_leave
from videonsa.config import TrainSettings, to_dict
from videonsa.lock import claimed
from videonsa.names import SMALL_MODELS
from videonsa.placement import placed
from videonsa.record import read_record, write_record, write_text
from videonsa.training import skipped


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
            record |= {"error": _word_of_another(folder) or error_of(error, folder)}
        claim.check()
        record |= {"skipped": skipped.summary(folder)} if training.gates is None else {}
        if record["status"] == DONE or before is None or before["status"] != DONE:  # what was done is not lost
            write_record(folder / "record.json", record | {"provenance": provenance_here(work) | _placement(work)})
    if record["status"] == DONE:
        return []
    reason = record["error"]
    for cell in work.job.cells:
        fail_record(work.out, cell, training_failure(training.id, reason))
    return [line_of_failure(f"training {training.id}", reason)]


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
            fail_record(work.out, training, error_of(error, folder))
        raise


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
