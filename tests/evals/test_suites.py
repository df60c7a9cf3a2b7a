"""The table of benchmarks."""

from __future__ import annotations

import pytest

from evals.suites import SUITES, get_suite, suite_settings
from videonsa.config import SettingsError

PAPER = {  # method.md's names: frames, tokens a frame, new tokens, from the paper's evaluation table
    "longvideobench_val_v": (256, 512, 32),
    "longtimescope": (512, 128, 16),
    "timescope": (2048, 64, 16),
    "mlvu_test": (512, 128, 16),
    "tomato": (256, 512, 1024),
    "vsibench": (128, 256, 16),
}


def test_the_papers_settings() -> None:
    for name, expected in PAPER.items():
        settings = get_suite(name).settings
        assert (settings.frames, settings.tokens_per_frame, settings.max_new_tokens) == expected
    assert all(suite.settings.fps == 4.0 for suite in SUITES.values() if suite.family is None)


def test_the_synthetic_suites_are_tiny() -> None:
    for family in ("needle", "order", "layout"):
        suite = get_suite(f"synth_{family}")
        assert (suite.settings.frames, suite.settings.tokens_per_frame, suite.chance) == (32, 4, 0.25)
        assert suite.family == family


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"unknown suite 'synth_smell'; choose one of synth_needle, .*videoevalpro"):
        get_suite("synth_smell")
    with pytest.raises(SettingsError, match=r"suite tomato: unknown setting 'frame'; known settings: .*frames"):
        suite_settings("tomato", frame=8)
    with pytest.raises(SettingsError, match="frames=0 is not valid"):
        suite_settings("tomato", frames=0)


def test_names_are_keys() -> None:
    assert all(suite.name == name == suite.settings.name for name, suite in SUITES.items())
