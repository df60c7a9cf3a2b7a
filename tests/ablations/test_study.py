"""The study's own loop at small size: every long family is trained on and asked, drawn and through mp4 files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ablations import run
from evals.data.synthetic import SyntheticData, make_data, read_docs
from evals.drawn import drawn
from tests.ablations.conftest import records
from videonsa.synth import LONG
from videonsa.video import Clip, Readers

SMALL = ("train.steps=2", "probe.videos=1")  # videos of 16 frames, 512 tokens, four questions a suite


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_every_family_is_trained_on_and_asked_and_files_are_answered_as_scenes(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    suites = [f"synth_{family}" for family in LONG]
    words = [*SMALL, "suites=" + "+".join([*suites, "synth_long_order_mp4"])]
    settings = [part for word in words for part in ("--set", word)]
    assert (
        run.main(["--profile", "study", "--grid", "smoke", *settings, "--out", str(tmp_path), "--cluster", "debug"])
        == 0
    )
    found = records(tmp_path)
    assert sorted(found) == sorted(
        f"{kind} {suite}" for kind in ("dense", "nsa") for suite in [*suites, suites[1] + "_mp4"]
    )
    for record in found.values():
        assert record["status"] == "done"
        assert [row["error"] for row in record["questions"]] == [None] * 4
        assert len({row["prompt_hash"] for row in record["questions"]}) > 1
    (training,) = records(tmp_path, "trainings").values()
    assert training["summary"]["parameters"] > 19e6
    assert {record["weights"]["digest"] for record in found.values()} == {training["summary"]["weights"]}
    for kind in ("dense", "nsa"):
        one, other = (
            [(row["doc_id"], row["prompt_hash"], row["answer"], row["prediction"]) for row in found[key]["questions"]]
            for key in (f"{kind} {suites[1]}", f"{kind} {suites[1]}_mp4")
        )
        assert one == other


@pytest.mark.long
@pytest.mark.parametrize("family", LONG)
def test_a_file_shows_what_its_scene_does(tmp_path: Path, family: str):
    """But for rounding between RGB and YUV."""
    scenes, files = (
        make_data(SyntheticData(family, questions=2, frames=32, size=224, mp4=mp4), tmp_path) for mp4 in (False, True)
    )
    clip = Clip(frames=16)
    with Readers(1) as readers:
        for scene, file in zip(read_docs(scenes), read_docs(files), strict=True):
            assert {**scene, "video": ""} == {**file, "video": ""}
            shown, read = drawn(scenes / scene["video"], clip), readers.read(files / file["video"], clip).result()
            assert list(shown.indices) == list(read.indices)
            frames = torch.as_tensor(shown.frames).numpy().astype(int)
            assert np.abs(frames - np.asarray(read.frames).astype(int)).max() <= 2
            assert frames.std() > 1
