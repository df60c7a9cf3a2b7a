"""Scenes where they are asked about: they become the frames that files of the same would become."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from evals.drawn import drawn
from videonsa.drawing import draw
from videonsa.synth import make_sample, read_scene, write_scene
from videonsa.video import Clip, Fit
from videonsa.video.picture import resized

QUARTER = Clip(8, fit=Fit(28, 28**2, 16 * 28**2, share=0.25))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 16 frames of 112 px: 4 x 4 vision tokens."""
    sample = make_sample("long_order", split="test", seed=0, index=0, frames=16, size=112)
    path = tmp_path_factory.mktemp("scenes") / "0000.scene.json"
    path.write_text(write_scene(sample.video))
    return path


def test_a_scene_with_fewer_pixels_is_what_a_file_would_be(scene: Path) -> None:
    video = drawn(scene, QUARTER)
    assert video.frames.shape == (8, 56, 56, 3)
    whole = draw([read_scene(scene)], indices=video.indices)[0].numpy()
    assert np.array_equal(video.frames, [resized(frame, (56, 56)) for frame in whole])


@pytest.mark.gpu
def test_on_a_gpu_fewer_pixels_are_the_same(scene: Path) -> None:
    there = drawn(scene, QUARTER, "cuda").frames
    assert there.device.type == "cuda"
    assert torch.equal(there.cpu(), torch.as_tensor(drawn(scene, QUARTER).frames))
