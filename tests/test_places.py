"""~ is the home folder wherever a path can be written."""

from __future__ import annotations

import os
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from ablations.grid import find_grid
from ablations.profile import load_profile
from evals.content import local_folder
from evals.data.synthetic import data_folder
from slurm.profile import load_slurm_profile
from videonsa.config import SettingsError, TrainSettings
from videonsa.hub import cached_revision, loading_arguments
from videonsa.options import folder
from videonsa.places import place
from videonsa.record import without_paths


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_tilde_is_the_home_folder(home: Path, monkeypatch: pytest.MonkeyPatch):
    assert folder("~/runs") == place("~/runs") == home / "runs"
    settings = TrainSettings(model="~/weights", data="~/data.json", video_folder="~/videos")
    assert [settings.model, settings.data, settings.video_folder] == [
        str(home / name) for name in ("weights", "data.json", "videos")
    ]
    (home / "weights").mkdir()
    assert loading_arguments("~/weights") == (str(home / "weights"), {})
    (home / "mine.yaml").write_text("partition: debug\n")
    assert find_grid("~/mine.yaml", "tiny") == home / "mine.yaml"
    assert load_slurm_profile("~/mine.yaml").partition == "debug"
    with pytest.raises(SettingsError, match="partition"):  # it was read
        load_profile("~/mine.yaml")
    monkeypatch.setenv("VIDEONSA_DATA", "~/data")
    monkeypatch.setenv("VIDEONSA_TASKS", "~/tasks")
    assert (data_folder(), local_folder()) == (home / "data", home / "tasks")


def test_without_a_home_folder_a_tilde_is_refused_and_nothing_else(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda user: {}["no such user"])  # a container's user, of whom nobody knows
    assert os.path.expanduser("~/x") == "~/x"
    with pytest.raises(SettingsError, match=r"'~/x': no home folder ~ is known here"):
        place("~/x")
    with pytest.raises(ArgumentTypeError, match="no home folder"):
        folder("~/runs")
    assert place("x~y/~") == Path("x~y/~")
    assert cached_revision("org/none") is None
    assert without_paths("/elsewhere/file") == "/elsewhere/file"


def test_another_users_home_that_is_not_there():
    with pytest.raises(SettingsError, match="no home folder ~nobody_of_this_name is known"):
        place("~nobody_of_this_name/x")
