"""The benchmarks: how each is asked, what it measures, and what guessing reaches. Imports no torch.

The paper's settings are those of its evaluation table (greedy, one beam); what it does not state is said to be ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from evals.aggregates import (
    LONGVIDEOBENCH,
    LSDBENCH,
    MLVU,
    SYNTHETIC,
    TIMESCOPE,
    TOMATO,
    VIDEOEVALPRO,
    VSIBENCH,
    Aggregate,
    Doc,
)
from videonsa import values
from videonsa.config import SettingsError, SuiteSettings
from videonsa.identity import NO_EFFECT
from videonsa.synth import LONG

OPTIONS = "options"  # questions have different numbers of options, which stand in their documents
JUDGED = ("answers are judged by GPT-4o (gpt-4o-2024-11-20)",)
MEDIA = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v")


@dataclass(frozen=True)
class Suite:
    """One benchmark."""

    settings: SuiteSettings
    metric: str  # lmms-eval's name of the metric that is reported
    aggregate: Aggregate  # what that metric makes of the questions
    chance: float | str | None  # accuracy of guessing; OPTIONS: to be counted; None: free text, or not told by the data
    family: str | None = None  # of our synthetic questions (videonsa/synth); None: a shipped lmms-eval task
    questions: int | None = None  # how many we make; None: as many as the benchmark has
    video: tuple[str, ...] = ("video",)  # the document's fields that name the video
    answer: Callable[[Doc], Any] | None = None  # what is right, where the task's own target does not say it
    judged: bool = False  # answers are judged by a language model
    mp4: bool = field(
        default=False, metadata={"before": False}
    )  # videos of a long family are files, too, and not drawn where they are asked about
    notes: tuple[str, ...] = field(default=(), metadata=NO_EFFECT)  # what the task does oddly; in every record

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def drawn(self) -> bool:
        """Its videos are scenes, which are drawn where they are asked about."""
        return self.family in LONG and not self.mp4

    def video_id(self, doc: Doc) -> str | None:
        """The name of the video that a question is about; no path: parts are joined by colons."""
        names = [str(doc[name]) for name in self.video if doc.get(name)]
        if len(names) < len(self.video):
            return None
        path = PurePosixPath(*names)
        path = path.with_suffix("") if path.suffix.lower() in MEDIA else path
        return path.name if path.is_absolute() else ":".join(path.parts)

    def right_answer(self, doc: Doc, target: Any) -> str | int | float:
        """What is right; `target` is what the task says."""
        right = target if self.answer is None else self.answer(doc)
        return right if isinstance(right, str | int | float) else str(right)


def _letter(field: str) -> Callable[[Doc], str]:
    return lambda doc: chr(ord("A") + int(doc[field]))


def _synthetic(family: str) -> Suite:
    # 192 questions: every kind of question with every answer equally often; half-width of a 95 % interval at most 7
    # points.
    name = f"synth_{family}"
    settings = SuiteSettings(name=name, task=name, frames=32, tokens_per_frame=4, max_new_tokens=4)
    return Suite(settings, "exact_match", SYNTHETIC, chance=0.25, family=family, questions=192)


def _long(family: str, mp4: bool = False) -> Suite:
    # As many tokens a frame patch as a block of keys has; 192 questions, of each kind with every answer equally often.
    name, task = f"synth_{family}{'_mp4' * mp4}", f"synth_{family}"
    settings = SuiteSettings(name=name, task=task, frames=256, tokens_per_frame=64, max_new_tokens=4)
    return Suite(settings, "exact_match", SYNTHETIC, chance=0.25, family=family, questions=192, mp4=mp4)


def _shipped(
    name: str,
    metric: str,
    aggregate: Aggregate,
    frames: int,
    tokens_per_frame: int,
    max_new_tokens: int = 16,
    chance: str | None = None,
    **more: Any,
) -> Suite:
    """The release's scripts give both caps to each benchmark: at most so many frames, at most 4 a second."""
    settings = SuiteSettings(name, name, frames, 4.0, tokens_per_frame, max_new_tokens)
    return Suite(settings, metric, aggregate, chance, **more)


SUITES = {
    suite.name: suite
    for suite in (
        _synthetic("needle"),
        _synthetic("order"),
        _synthetic("layout"),
        *map(_long, LONG),
        _long("long_order", mp4=True),
        _shipped(
            *("longvideobench_val_v", "lvb_acc", LONGVIDEOBENCH, 256, 512, 32, OPTIONS),
            video=("video_id",),
            answer=_letter("correct_choice"),
            notes=("an answer without a letter gets a random one, drawn from a generator seeded by the question",),
        ),
        _shipped("longtimescope", "timescope_perception_score", TIMESCOPE, 512, 128),
        _shipped("timescope", "timescope_perception_score", TIMESCOPE, 2048, 64),
        _shipped(
            *("mlvu_test", "mlvu_percetion_score", MLVU, 512, 128),  # spelled so in lmms-eval
            video=("video_name",),
            notes=("the question is asked bare, without a word on how to answer, and only letters A to D are read",),
        ),
        _shipped(
            *("tomato", "tomato_score", TOMATO, 256, 512, 1024, OPTIONS),
            video=("video_path",),
            answer=_letter("answer"),
            notes=("an answer without a letter counts as A",),
        ),
        _shipped("vsibench", "vsibench_overall", VSIBENCH, 128, 256, video=("dataset", "scene_name")),
        # The paper does not state the next two's sampling: our choice, near the recipe of training. LSDBench asks for
        # reasoning.
        _shipped("lsdbench", "accuracy", LSDBENCH, 512, 64, 2048, OPTIONS, video=("video_id",)),
        _shipped("videoevalpro", "videoevalpro_score", VIDEOEVALPRO, 512, 64, judged=True, notes=JUDGED),
    )
}


def get_suite(name: str) -> Suite:
    """The benchmark of this name. Raises SettingsError that lists the names."""
    if name not in SUITES:
        raise SettingsError(f"unknown suite {name!r}; choose one of {', '.join(SUITES)}{values.unknown(name, SUITES)}")
    return SUITES[name]


def suite_settings(name: str, **changes: Any) -> SuiteSettings:
    """The benchmark's settings with some changed. Raises SettingsError for an unknown name, field or value."""
    settings = get_suite(name).settings
    known = [field.name for field in dataclasses.fields(SuiteSettings) if field.name != "name"]
    unknown = [field for field in changes if field not in known]
    if unknown:
        near = values.unknown(unknown[0], known)
        raise SettingsError(f"suite {name}: unknown setting {unknown[0]!r}; known settings: {', '.join(known)}{near}")
    changed = dataclasses.replace(settings, **changes)
    if get_suite(name).family is not None and changed.task != settings.task:
        raise SettingsError(f"suite {name}: task={changed.task!r} is not valid: it asks {settings.task}, made here")
    return changed
