"""Synthetic benchmarks on disk: decided by their settings alone, complete or absent."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from evals.data.synthetic import SyntheticData, data_folder, make_data, read_docs
from tests.disks import remount, small_disk
from videonsa.config import SettingsError
from videonsa.disk import DiskError
from videonsa.identity import identity

SMALL = SyntheticData("needle", questions=4, frames=8)


def test_the_same_settings_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = make_data(SMALL, tmp_path / "a"), make_data(SMALL, tmp_path / "b")
    names = sorted(path.name for path in first.iterdir())
    assert names == ["0000.mp4", "0001.mp4", "0002.mp4", "0003.mp4", "docs.jsonl"]
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


@pytest.mark.parametrize("change", [{"family": "order"}, {"questions": 5}, {"frames": 16}, {"size": 84}, {"seed": 1}])
def test_every_setting_changes_the_identity(change: dict) -> None:
    assert dataclasses.replace(SMALL, **change).identity != SMALL.identity


def test_what_came_later_is_in_the_identity_only_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = dataclasses.replace(SMALL, family="long_order")
    assert dataclasses.replace(scenes, mp4=True).identity != scenes.identity
    monkeypatch.setattr("evals.data.synthetic.part_version", lambda part: part)
    given = {"family": "needle", "questions": 4, "frames": 8, "size": 56, "seed": 0}
    assert SMALL.identity == identity({**given, "code": ["synth", "questions"]}), "that of before there was mp4"


def test_made_once(tmp_path: Path) -> None:
    place = make_data(SMALL, tmp_path)
    before = (place / "docs.jsonl").stat().st_mtime_ns
    assert make_data(SMALL, tmp_path) == place
    assert (place / "docs.jsonl").stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir()] == [SMALL.identity], "drafts are left"


def test_interrupted_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("evals.data.synthetic.write_video", stop)
    with pytest.raises(KeyboardInterrupt):
        make_data(SMALL, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_answer_is_one_of_the_options_in_the_prompt(tmp_path: Path) -> None:
    docs = read_docs(make_data(dataclasses.replace(SMALL, questions=8), tmp_path))
    places = Counter(doc["options"].index(doc["answer"]) for doc in docs)
    assert places == {0: 2, 1: 2, 2: 2, 3: 2}, "answers are not balanced"
    assert all(option in doc["prompt"] for doc in docs for option in doc["options"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"family": "smell"}, "family='smell' is not valid: choose one of needle, order, layout"),
        ({"family": "needle", "questions": 0}, "questions=0 is not valid"),
        ({"family": "needle", "frames": 2.5}, "frames=2.5 is not valid"),
    ],
)
def test_settings_are_checked(settings: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        SyntheticData(**settings)


def test_a_data_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"data folder '.*file/below'.*VIDEONSA_DATA"):
        make_data(SMALL, tmp_path / "file" / "below")


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=64k") as disk:
        with pytest.raises(DiskError, match=r"cannot write to .*: No space left on device; disk .*/disk: "):
            make_data(SMALL, disk / "data")
        assert list((disk / "data").iterdir()) == []
        remount(disk, "size=2m")
        assert len(read_docs(make_data(SMALL, disk / "data"))) == 4


def test_where_data_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIDEONSA_DATA", raising=False)
    assert data_folder() == Path("runs/data")
    monkeypatch.setenv("VIDEONSA_DATA", "elsewhere")
    assert data_folder() == Path("elsewhere")
    assert data_folder("given") == Path("given")
