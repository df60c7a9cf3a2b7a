"""The benchmarks: how each is asked, what it measures, and what guessing reaches. Imports no torch.

The paper's settings are those of its evaluation table (greedy, one beam); what it does not state is said to be ours.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from videonsa.config import SettingsError, SuiteSettings

OPTIONS = "options"  # questions have different numbers of options, which stand in their documents


@dataclass(frozen=True)
class Suite:
    """One benchmark."""

    settings: SuiteSettings
    metric: str  # lmms-eval's name of the metric that is reported
    chance: float | str | None  # accuracy of guessing; OPTIONS: to be counted; None: free text, or not told by the data
    family: str | None = None  # of our synthetic questions (videonsa/synth); None: a shipped lmms-eval task
    questions: int | None = None  # how many we make; None: as many as the benchmark has

    @property
    def name(self) -> str:
        return self.settings.name


def _synthetic(family: str) -> Suite:
    # 192 questions: every kind of question with every answer equally often; half-width of a 95 % interval at most 7
    # points.
    name = f"synth_{family}"
    settings = SuiteSettings(name=name, task=name, frames=32, tokens_per_frame=4, max_new_tokens=4)
    return Suite(settings, metric="exact_match", chance=0.25, family=family, questions=192)


def _shipped(name: str, metric: str, chance: float | str | None, **settings: Any) -> Suite:
    return Suite(SuiteSettings(name=name, task=name, **settings), metric, chance)


SUITES = {
    suite.name: suite
    for suite in (
        _synthetic("needle"),
        _synthetic("order"),
        _synthetic("layout"),
        _shipped("longvideobench_val_v", "lvb_acc", OPTIONS, frames=256, tokens_per_frame=512, max_new_tokens=32),
        _shipped("longtimescope", "timescope_perception_score", None, frames=512, tokens_per_frame=128),
        _shipped("timescope", "timescope_perception_score", None, frames=2048, tokens_per_frame=64),
        _shipped(
            "mlvu_test", "mlvu_percetion_score", None, frames=512, tokens_per_frame=128
        ),  # spelled so in lmms-eval
        # Tokens a frame are not stated for the table's row; 64 is the training value.
        _shipped("tomato", "tomato_score", OPTIONS, frames=256, fps=4.0, tokens_per_frame=64, max_new_tokens=1024),
        _shipped("vsibench", "vsibench_overall", None, frames=128, tokens_per_frame=256),
        # The next two are not stated at all: our choice, near the recipe of training. LSDBench asks for reasoning.
        _shipped("lsdbench", "accuracy", OPTIONS, frames=512, tokens_per_frame=64, max_new_tokens=2048),
        _shipped("videoevalpro", "videoevalpro_score", None, frames=512, tokens_per_frame=64),
    )
}


def get_suite(name: str) -> Suite:
    """The benchmark of this name. Raises SettingsError that lists the names."""
    if name not in SUITES:
        raise SettingsError(f"unknown suite {name!r}; choose one of {', '.join(SUITES)}")
    return SUITES[name]


def suite_settings(name: str, **changes: Any) -> SuiteSettings:
    """The benchmark's settings with some changed. Raises SettingsError for an unknown name, field or value."""
    settings = get_suite(name).settings
    known = [field.name for field in dataclasses.fields(SuiteSettings) if field.name != "name"]
    unknown = [field for field in changes if field not in known]
    if unknown:
        raise SettingsError(f"suite {name}: unknown setting {unknown[0]!r}; known settings: {', '.join(known)}")
    return dataclasses.replace(settings, **changes)
