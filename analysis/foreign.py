"""What lmms-eval wrote elsewhere with --log_samples: the samples of each task, and what the run says of itself.

A run of lmms-eval leaves <output_path>/<model>/<date>_samples_<task>.jsonl, a line a question, and <date>_results.json
beside it. Of several runs the latest of each task counts. Nothing here knows our benchmarks: `analysis.joined` does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.files import read_mapping
from analysis.rows import part
from videonsa.text import line_of

EXPECTED = "expected <date>_samples_<task>.jsonl, as lmms-eval writes with --log_samples --output_path"
FILE = re.compile(r"(\d{8}_\d{6})_samples_(.+)\.jsonl")
FOLDERS = re.compile(r"(?<![\w.:/])~?/(?:[^\s/:,='\"]+/)+")  # of a path: tables are shared between people
SECRET = re.compile(r"(?i)([\w.]*(?:key|token|secret|password)\w*)([=:]\s*)[^,;\s}]+")
Sample = Mapping[str, Any]


class NotForeign(ValueError):
    """The folder holds no samples that can be read as one row. The message is one line."""


@dataclass(frozen=True)
class Task:
    """The samples of one task."""

    name: str
    date: str  # of the run, as its files are named
    samples: Mapping[str, Sample]  # by document number
    notes: tuple[str, ...]  # what was passed over, a line each
    results: Mapping[str, Any] = field(default_factory=dict)  # of the run; empty where its file is not there

    @property
    def about(self) -> str:
        """The model with its arguments, the date and lmms-eval's version, without folders and secrets."""
        config = part(self.results, "config")
        model = " ".join(str(config[name]) for name in ("model", "model_args") if config.get(name))
        day, time = self.date.split("_")
        when = f"{day[:4]}-{day[4:6]}-{day[6:]} {time[:2]}:{time[2:4]}"
        version = self.results.get("lmms_eval_version")
        told = [model or "a model that no results file names", when, f"lmms-eval {version}" if version else ""]
        return SECRET.sub(r"\1\2...", FOLDERS.sub("", line_of("; ".join(filter(None, told)))))


@dataclass(frozen=True)
class Foreign:
    """One model as lmms-eval asked it, as a row of a table."""

    label: str
    source: str  # the folder's name
    tasks: Mapping[str, Task]


def read_foreign(given: str) -> Foreign:
    """`FOLDER` or `FOLDER=LABEL`, as --join takes it. Raises NotForeign; OSError when a file cannot be read."""
    folder, label = _split(given)
    files = sorted(path for pattern in ("*", "*/*") for path in folder.glob(pattern) if FILE.fullmatch(path.name))
    models = sorted({path.parent for path in files})
    if not models:
        results = any(folder.glob("*_results.json")) or any(folder.glob("*/*_results.json"))
        why = "has results, but no samples" if results else "has no samples"
        raise NotForeign(f"--join {given}: the folder {why} of lmms-eval: {EXPECTED}")
    if len(models) > 1:
        names = ", ".join(model.name or "." for model in models)
        raise NotForeign(f"--join {given}: samples of several models, a row is one: give one of its folders {names}")
    tasks = {name: _latest(name, paths) for name, paths in _by_task(files).items()}
    label = label or _model(tasks) or models[0].name
    return Foreign(f"foreign: {line_of(label)}", models[0].name, tasks)


def _split(given: str) -> tuple[Path, str]:
    """The folder and its label, "" where none is given. Both may hold a =: the longest folder that is there counts."""
    ends = [len(given), *(at for at in range(len(given) - 1, -1, -1) if given[at] == "=")]
    for end in ends:
        if (folder := _folder(given[:end])) is not None:
            return folder, given[end + 1 :].strip()
    place = given[: ends[-1]]  # without a label, whatever it holds
    raise NotForeign(f"--join {given}: no folder {place}; give FOLDER or FOLDER=LABEL, {EXPECTED}")


def _folder(place: str) -> Path | None:
    try:
        path = Path(place).expanduser()
        return path if path.is_dir() else None
    except (OSError, RuntimeError):  # a name longer than any, as with a label; ~ of nobody
        return None


def _by_task(files: list[Path]) -> dict[str, list[Path]]:
    """Task -> its files, by date."""
    tasks: dict[str, list[Path]] = {}
    for path in files:
        if found := FILE.fullmatch(path.name):
            tasks.setdefault(found[2], []).append(path)
    return tasks


def _latest(name: str, paths: list[Path]) -> Task:
    *older, path = paths
    date = path.name[: len("20251002_120000")]
    samples, notes = _samples(path)
    if older:
        dates = ", ".join(before.name[: len(date)] for before in older)
        notes.insert(0, f"of {date}, the latest run; passed over: {dates}")
    return Task(name, date, samples, tuple(notes), read_mapping(path.parent / f"{date}_results.json"))


def _samples(path: Path) -> tuple[dict[str, Sample], list[str]]:
    """Samples by document number; those that stand twice and differ are left out, as it is not known which counts."""
    samples: dict[str, Sample] = {}
    differ: set[str] = set()
    damaged = 0
    for line in path.read_bytes().splitlines():
        sample = _sample(line)
        if sample is None:
            damaged += bool(line.strip())
            continue
        number = str(sample["doc_id"])
        if samples.setdefault(number, sample) != sample:
            differ.add(number)
    notes = [f"damaged lines, left out: {damaged}"] if damaged else []
    notes += [f"questions that stand there twice with different answers, left out: {len(differ)}"] if differ else []
    return {number: sample for number, sample in samples.items() if number not in differ}, notes


def _sample(line: bytes) -> Sample | None:
    try:
        sample = json.loads(line)
    except (ValueError, RecursionError):  # half a line, of a run that was stopped
        return None
    return sample if isinstance(sample, dict) and {"doc_id", "target"} <= set(sample) else None


def _model(tasks: Mapping[str, Task]) -> str:
    """The model's name without its folders, as the latest run has it."""
    latest = max(tasks.values(), key=lambda task: task.date)
    return str(latest.results.get("model_name") or "").rstrip("/").rpartition("/")[2]
