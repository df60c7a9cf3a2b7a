"""Samples that are drawn become the same tensors as by way of frames; and steps have the lengths that are asked for."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch

from videonsa.config import SettingsError, TrainSettings
from videonsa.drawing import frames_of
from videonsa.synth import LONG, make_sample, prompt_text
from videonsa.synth.scene import FPS
from videonsa.tiny import build_processor
from videonsa.training.batch import encode
from videonsa.training.curriculum import Curriculum
from videonsa.training.sources import Conversation, SyntheticSource
from videonsa.video import Video

SETTINGS = TrainSettings(model="study", families=LONG, frames=(16, 32), steps=40, batch_size=4, pixels_per_frame=56**2)


def conversations(lengths: tuple[int, ...], size: int) -> tuple[list[Conversation], list[Conversation]]:
    """The same samples as scenes and as frames."""
    drawn, read = [], []
    for index, frames in enumerate(lengths):
        sample = make_sample(LONG[index % len(LONG)], split="train", seed=0, index=index, frames=frames, size=size)
        turns = (("user", prompt_text(sample)), ("assistant", sample.answer))
        drawn.append(Conversation(turns, sample.video))
        read.append(Conversation(turns, Video.of(frames_of(sample), FPS)))
    return drawn, read


@pytest.mark.parametrize("lengths", [(16, 16, 16), (32, 16)], ids=["alike", "uneven"])
def test_drawn_samples_are_encoded_as_read_ones(lengths):
    processor = build_processor("study")
    drawn, read = (encode(processor, each, 112**2) for each in conversations(lengths, 112))
    assert set(drawn) == set(read)
    for name, tensor in read.items():
        assert torch.equal(torch.as_tensor(drawn[name]), torch.as_tensor(tensor)), name
        assert torch.as_tensor(drawn[name]).dtype == torch.as_tensor(tensor).dtype, name


@pytest.mark.gpu
def test_drawn_on_a_gpu_they_are_the_same():
    processor = build_processor("study")
    drawn, _ = conversations((256, 256), 224)
    there, here = (encode(processor, drawn, 224**2, device) for device in ("cuda", "cpu"))
    assert there["pixel_values_videos"].is_cuda
    assert all(torch.equal(there[name].cpu(), here[name]) for name in here)


def test_without_shares_stages_are_equally_long():
    curriculum = Curriculum(SETTINGS)
    assert [curriculum.frames(step) for step in range(40)] == [16] * 20 + [32] * 20
    assert [curriculum.batch(step) for step in (0, 39)] == [range(0, 4), range(156, 160)]


def test_stages_have_their_shares_their_batches_and_earlier_lengths_between():
    asked = dataclasses.replace(
        SETTINGS, frames=(4, 16, 32), steps=400, frame_shares=(1, 2, 1), frame_batches=(8, 6, 2), batch_size=8,
        micro_batch_size=8, earlier=0.25,
    )  # fmt: skip
    curriculum = Curriculum(asked)
    lengths = [curriculum.frames(step) for step in range(400)]
    assert set(lengths[:100]) == {4}
    assert set(lengths[100:300]) == {4, 16}
    last = Counter(lengths[300:])
    assert set(last) == {4, 16, 32}
    assert 65 <= last[32] <= 85
    sizes = {4: 8, 16: 6, 32: 2}
    ends = np.cumsum([sizes[length] for length in lengths])
    for step in (0, 99, 100, 250, 399):
        batch = curriculum.batch(step)
        assert len(batch) == sizes[lengths[step]]
        assert batch.stop == ends[step]
        assert {curriculum.step_of(index) for index in batch} == {step}
    assert Curriculum(asked).batch(399) == curriculum.batch(399)
    assert SyntheticSource(asked).samples == ends[-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frame_shares": (1.0,)}, "frame_shares=.* one for each of 2 frames"),
        ({"frame_shares": (1.0, 0.0)}, "numbers above 0"),
        ({"frames": (32, 16), "frame_shares": (1, 1)}, "lengths that rise, with frame_shares"),
        ({"frame_batches": (4, 3), "micro_batch_size": 2}, "at most micro_batch_size=2, or multiples"),
        (
            {"frame_batches": (3, 2), "micro_batch_size": 4},
            "batch_size=4 is not valid: the largest of frame_batches, 3",
        ),
        ({"earlier": 1.5}, "a share from 0 to 1"),
    ],
)
def test_wrong_stages_are_named(changes, message):
    with pytest.raises(SettingsError, match=message):
        dataclasses.replace(SETTINGS, **changes)
