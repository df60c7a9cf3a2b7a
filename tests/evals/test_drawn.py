"""Scenes where they are asked about: they become the frames and the sheets that files of the same would become."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lmms_eval.api.instance import Instance

from evals.answer import answer
from evals.checkpoint import Checkpoint
from evals.drawn import drawn
from evals.media import kept, read_questions, sheet_of
from evals.model import VideoNSA
from evals.question import Sampling
from evals.run import SuiteRun, load_task
from evals.suites import suite_settings
from videonsa.drawing import draw
from videonsa.synth import make_sample, read_scene, write_scene
from videonsa.video import Clip, Fit, ahead
from videonsa.video.picture import resized

SUITE = suite_settings("synth_long_order", frames=16, limit=2, tokens_per_frame=4, max_new_tokens=1)
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
    assert sheet_of(drawn(scene, QUARTER, "cuda")) == sheet_of(drawn(scene, QUARTER))


def test_lmms_evals_class_draws_each_scene_when_it_is_asked(
    loaded: Checkpoint, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are read ahead on a GPU; scenes would be drawn on it, while it is measured."""
    task, told = load_task(SUITE, data), []
    model = VideoNSA.of(loaded, Sampling(16, None, 4))
    model.task_dict = {"asked": {"test": task.eval_docs}}
    monkeypatch.setattr("evals.model.ahead", lambda asked, start, _: ahead(asked, start, 2))
    monkeypatch.setattr("evals.drawn.draw", lambda *given: told.append("drawn") or draw(*given))
    monkeypatch.setattr("evals.model.answer", lambda *given: told.append("answered") or answer(*given))
    given = [("", task.doc_to_messages, {"max_new_tokens": 1}, number, "asked", "test") for number in range(2)]
    model.generate_until(
        [Instance("generate_until", one, 0, {"task": "asked", "doc_id": one[3], "repeats": 1}) for one in given]
    )
    assert told == ["drawn", "answered"] * 2


def test_a_scene_that_is_drawn_has_its_sheet(loaded: Checkpoint, data: Path, tmp_path: Path) -> None:
    run = SuiteRun(SUITE, tmp_path / "answers", data=data)
    asked = run.under(loaded, {})
    with kept(run, loaded, [asked]) as names:
        run.ask(loaded, [asked])
    media = tmp_path / "answers" / "media"
    named = [name for one in read_questions(media / names[asked.key]).values() for name in one["sheets"]]
    assert sorted(path.stem for path in media.glob("*.jpg")) == sorted(named)
    assert len(named) == 2
    video = drawn(Path(run.task.eval_docs[0]["video"]), Clip(8))
    assert sheet_of(video) == sheet_of(replace(video, frames=np.asarray(video.frames)))
