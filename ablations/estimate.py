"""How long a plan will take: by records of the same scale, else by rules, else by benchmarks/. Imports no torch.

The scale is the model, the benchmark, its sampling and the kind of attention; rates of one say nothing of another. Of
the small models there are rules of thumb, of questions to Qwen2.5-VL-7B's shape what was recorded on other machines
(recorded.py); everything else without a record of its scale is not known, and is said to be left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ablations import recorded
from ablations.cell import Cell, Probe
from ablations.jobs import Job
from ablations.plan import Sweep
from ablations.sizes import questions_of
from ablations.state import DONE, State
from ablations.training_data import steps_of
from videonsa.config import SettingsError, attention_differences
from videonsa.record import read_record
from videonsa.text import duration

LOOK_AT = 40  # newest records of each kind that are read
START_SECONDS = 12.0  # a job's imports, model and data
MEASURED = "from earlier records"
ELSEWHERE = "recorded elsewhere, not measured here"
NODE = 8  # GPUs: the time on as many is told where this machine has none
FULL = "each video fills its frames and each answer its tokens; the vision tower counts once for variants that share it"
READING = "reading videos not counted"

Scale = tuple[Any, ...]  # its first entry is the model
FRAMES, TOKENS = 2, 4  # of a question's scale


class Rate(NamedTuple):
    """Seconds a unit, and where they come from."""

    seconds: float
    basis: tuple[str, ...]
    tower: float = 0.0  # of the seconds, those that variants may share

    def among(self, variants: int) -> Rate:
        """A variant's part where so many share the tower's pass."""
        return self._replace(seconds=self.seconds - self.tower + self.tower / variants)


GPU = "one H200"


class Rule(NamedTuple):
    """Seconds of a small model's units, until there are records."""

    where: str  # a GPU, or cores
    step: float  # of a training
    question: float
    video: float  # that is probed
    token: float = 0.0  # of a question or a probed video

    def rate(self, unit: str, scale: Scale) -> Rate:
        """Of a unit of `step`, `question` or `video`."""
        tokens = 0 if unit == "step" else (scale[FRAMES] or 0) * scale[TOKENS] // 2
        return Rate(
            getattr(self, unit) + self.token * tokens, (f"rule of thumb of the {scale[0]} profile, {self.where}",)
        )


RULES = {
    "tiny": Rule("2 cores", step=0.08, question=0.03, video=2.0),
    # A step of a training that shares the GPU: 0.05 (dense) to 0.10 (release) in benchmarks/study; alone it takes 0.12.
    "study": Rule(GPU, step=0.08, question=0.04, video=1.0, token=3e-6),
}


@dataclass
class Rates:
    """What a unit takes at each scale that was measured."""

    measured: dict[tuple[str, Scale], Rate] = field(default_factory=dict)  # by unit: step, question, video

    def here(self, unit: str, scale: Scale) -> Rate | None:
        """Measured, or by the rule of thumb of a small model; None where neither is known."""
        if measured := self.measured.get((unit, scale)):
            return measured
        return RULES[scale[0]].rate(unit, scale) if scale[0] in RULES else None

    def of(self, unit: str, scale: Scale) -> Rate | None:
        """The same, or as it was recorded elsewhere, which says so."""
        return self.here(unit, scale) or (_recorded(scale) if unit == "question" else None)


def _recorded(scale: Scale) -> Rate | None:
    model, _, frames, _, tokens_per_frame, answer, kind = scale
    if model != recorded.MODEL or frames is None:
        return None
    found = recorded.question_seconds(frames, tokens_per_frame, answer, kind)
    return None if found is None else Rate(found.seconds, (ELSEWHERE, *found.where, FULL, READING), found.tower)


def model_of(train: Mapping[str, Any]) -> str:
    """What a model's size goes by: the model that weights come from, else their own name."""
    return str(train.get("model") or train.get("checkpoint"))


def question_scale(settings: Mapping[str, Any]) -> Scale:
    """What the time of a question, or of a probed video, goes by; `settings` as a record keeps them."""
    suite = settings["suite"]
    sampling = (suite.get(name) for name in ("name", "frames", "fps", "tokens_per_frame", "max_new_tokens"))
    kind = (settings.get("method") or {}).get("name") or _kind(settings["nsa"])
    return (model_of(settings["train"]), *sampling, kind)


def step_scale(train: Mapping[str, Any]) -> Scale:
    """What the time of a training step goes by; `train` as a record keeps it."""
    synthetic = train.get("data") == "synth"
    videos = tuple(train.get("frames") or ()) if synthetic else (train.get("fps"), train.get("max_tokens"))
    return model_of(train), synthetic, videos, train.get("batch_size"), _kind(train.get("nsa") or {})


def _kind(nsa: Mapping[str, Any]) -> str:
    """Which computation: dense, the paper's NSA, or the release's, which takes longer."""
    if nsa.get("attention") == "dense":
        return "dense"
    return "release" if attention_differences(nsa.get("semantics", "paper")) else "paper"


def measured_rates(out: Path) -> Rates:
    """From the newest records of an out folder, with the GPUs that they name."""
    found: dict[tuple[str, Scale], list[float]] = {}
    gpus: dict[tuple[str, Scale], set[str]] = {}
    for folder in ("trainings", "cells", "probes"):
        for record in _newest(out / folder):
            if rate := _rate(record):
                found.setdefault(rate[0], []).append(rate[1])
                gpus.setdefault(rate[0], set()).update(filter(None, [(record.get("provenance") or {}).get("gpu")]))
    return Rates({key: Rate(_median(values), (_measured_on(gpus[key]),)) for key, values in found.items()})


def _measured_on(gpus: set[str]) -> str:
    return f"{MEASURED} on {', '.join(sorted(gpus))}" if gpus else MEASURED


def _rate(record: Mapping[str, Any]) -> tuple[tuple[str, Scale], float] | None:
    """((unit, scale), seconds a unit) of one record; None where it does not say."""
    summary, settings, kind = record.get("summary") or {}, record.get("settings") or {}, record["kind"]
    units = {
        "training": summary.get("steps"),
        "evaluation": len(record.get("questions") or ()),
        "probe": (record.get("videos") or 0) * _looks(settings),
    }
    if not summary.get("seconds") or not units.get(kind):
        return None
    try:
        scale = step_scale(settings) if kind == "training" else question_scale(settings)
    except (KeyError, TypeError, AttributeError, SettingsError):
        return None  # an older form
    unit = {"training": "step", "evaluation": "question", "probe": "video"}[kind]
    placement = (record.get("provenance") or {}).get("placement") or {}
    sharing = placement.get("trainings_a_gpu") or 1  # which had the GPU's time together
    return (unit, scale), summary["seconds"] / units[kind] / sharing


def _looks(settings: Mapping[str, Any]) -> int:
    """Prefills of a probe a video, counted as of its own attention and one for each other method."""
    return 1 + len(settings.get("methods") or ())


@dataclass
class Work:
    """What jobs have to do: seconds, where these come from, and what they leave out."""

    seconds: float = 0.0
    by_suite: dict[str, float] = field(default_factory=dict)  # of these, those of questions
    endless: bool = False  # some number of units is not known
    bases: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)  # units without a rate

    def add(self, rate: Rate | None, count: int | None, what: str) -> None:
        """So many units, None: nobody knows how many."""
        if rate is None:
            self.strange.append(what)
            return
        self.bases += rate.basis
        self.endless |= count is None
        self.seconds += (count or 0) * rate.seconds


def estimate(sweep: Sweep, state: State, jobs: Iterable[Job], workers: int) -> str:
    """One line: the time that the jobs need on this many workers, and where the figure comes from."""
    jobs = list(jobs)
    if not jobs:
        return "nothing to run"
    training, spread = _work(jobs, measured_rates(sweep.out))
    if not training.bases + spread.bases:
        return f"not known: no earlier records at this scale ({(training.strange + spread.strange)[0]})"
    here = sweep.facts.device == "cuda"
    elsewhere = any(basis == ELSEWHERE or _of_gpu(basis) for basis in training.bases + spread.bases)
    gpus = (training.seconds + spread.seconds) / 3600 if here or elsewhere else None
    count, what = (NODE, "GPUs") if gpus and not here else (workers, "worker" + "s" * (workers != 1))
    seconds = training.seconds + max(spread.seconds / max(1, count), min(spread.seconds, START_SECONDS))
    amount = f"{gpus:.3g} GPU hours{_by_suite(spread)}, " if gpus else ""
    unknown = f"not known of {training.strange[0]}; the rest " if training.strange else ""
    return f"{unknown}about {amount}{duration(seconds)} on {count} {what} ({'; '.join(_notes(training, spread))})"


def _notes(*works: Work) -> list[str]:
    """Where the seconds come from, and what they leave out."""
    notes = list(dict.fromkeys(basis for work in works for basis in work.bases))
    strange = list(dict.fromkeys(what for work in works for what in work.strange))
    if any(work.endless for work in works):
        notes.append("without what has no known length (limit or steps not set)")
    if strange:
        notes.append(f"without what has no record at its scale: {', '.join(strange[:3])}{', ...' * (len(strange) > 3)}")
    return notes


def _by_suite(work: Work) -> str:
    """' (tomato 71.3, vsibench 14)': hours, where there are several suites."""
    parts = [f"{name} {seconds / 3600:.3g}" for name, seconds in work.by_suite.items()]
    return f" ({', '.join(parts)})" if len(parts) > 1 else ""


def _work(jobs: Iterable[Job], rates: Rates) -> tuple[Work, Work]:
    """What trains, and what is spread over the workers."""
    training, spread = Work(), Work()
    cells: dict[str, Cell] = {}  # several jobs give the answers to one
    for job in jobs:
        work = training if job.kind == "train" else spread
        work.seconds += START_SECONDS
        if job.kind == "train" and job.training.settings:
            scale = step_scale(job.training.record_settings)
            work.add(rates.of("step", scale), steps_of(job.training.settings), f"training {scale[0]}")
        elif job.kind == "train":  # mean gates of given weights
            work.strange.append(f"mean gates of {job.training.checkpoint}")
        cells |= {cell.id: cell for cell in job.cells} if job.kind == "evaluate" else {}
        if job.probe:
            rate, looks = rates.of("video", question_scale(job.probe.settings)), _looks(job.probe.settings)
            work.add(rate, job.probe.videos * looks, f"probing {_asked(job.probe)}")
    sharing = Counter(map(_watched, cells.values()))
    for cell in cells.values():
        rate, before = rates.of("question", question_scale(cell.settings)), spread.seconds
        spread.add(rate and rate.among(sharing[_watched(cell)]), questions_of(cell.suite), _asked(cell))
        spread.by_suite[cell.suite.name] = spread.by_suite.get(cell.suite.name, 0.0) + spread.seconds - before
    return training, spread


def _watched(cell: Cell) -> tuple[str, ...]:
    """What the tower sees of a cell's questions, and who looks on: variants that agree in it share its pass."""
    method = cell.method
    if method is None or not (method.sampling() or "dropping" in method.entry.parts):
        return (cell.run,)
    return cell.run, method.name, str(method.sampling())


def job_seconds(out: Path, job: Job, device: str) -> float | None:
    """What a job should take on this device; None where that is not known."""
    work, spread = _work([job], measured_rates(out))
    bases = work.bases + spread.bases
    return work.seconds + spread.seconds if bases and _holds_on(device, bases) else None


def _of_gpu(basis: str) -> bool:
    """It is a rule of thumb of a GPU."""
    return basis.endswith(GPU)


def _holds_on(device: str, bases: Iterable[str]) -> bool:
    """A GPU's rule of thumb says nothing of a CPU."""
    return device == "cuda" or not any(map(_of_gpu, bases))


def seconds_a_cell(out: Path, cells: Iterable[Cell], device: str) -> float | None:
    """What a cell should take on this device, before one is done; None where nothing is known."""
    rates, known = measured_rates(out), []
    for cell in cells:
        rate, count = rates.here("question", question_scale(cell.settings)), questions_of(cell.suite)
        if rate is not None and count is not None and _holds_on(device, rate.basis):
            known.append(rate.seconds * count)
    return sum(known) / len(known) if known else None


def _asked(what: Cell | Probe) -> str:
    """'timescope, 2048 frames of 64 tokens, Qwen/Qwen2.5-VL-7B-Instruct'."""
    suite = what.suite
    frames = f"{suite.frames} frames" if suite.frames else f"{suite.fps:g} frames a second"
    return f"{suite.name}, {frames} of {suite.tokens_per_frame} tokens, {model_of(what.settings['train'])}"


def _newest(folder: Path) -> Iterator[dict[str, Any]]:
    """The newest finished records of a folder."""
    paths = list(folder.glob("*/record.json")) if folder.is_dir() else []
    paths.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in paths[:LOOK_AT]:
        record = read_record(path)
        if record is not None and record["status"] == DONE:
            yield record


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
