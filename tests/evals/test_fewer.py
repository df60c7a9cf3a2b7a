"""Questions at a share of their tokens; and every method that drops tokens, through an evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from evals.checkpoint import Checkpoint
from evals.model import VideoNSA
from evals.question import Sampling, prepare
from evals.run import SuiteRun, evaluate, load_task
from evals.suites import suite_settings
from videonsa.methods.registry import make

NEEDLE = suite_settings("synth_needle", limit=3, frames=16)


def test_a_question_at_a_share_of_its_tokens(data: Path, loaded: Checkpoint) -> None:
    """8 patches of 2 x 2 tokens, and an image of as many; positions in time go on to mean seconds."""
    task = load_task(NEEDLE, data)
    asked = task.doc_to_messages(task.eval_docs[0])
    asked[0]["content"].append({"type": "image", "url": Image.new("RGB", (56, 56))})
    whole = prepare(loaded.processor, asked, Sampling(32, None, 4))
    frames = prepare(loaded.processor, asked, Sampling(32, None, 4, frame_share=0.5))
    pixels = prepare(loaded.processor, asked, Sampling(32, None, 4, pixel_share=0.25))
    assert (whole.vision_tokens, whole.left_out) == (36, 0)
    assert (frames.vision_tokens, frames.left_out) == (4 * 4 + 4, 16)
    assert (pixels.vision_tokens, pixels.left_out) == (8 + 1, 27)
    assert pixels.inputs["video_grid_thw"].tolist() == [[8, 2, 2]]
    assert float(frames.inputs["second_per_grid_ts"][0]) == 2 * float(whole.inputs["second_per_grid_ts"][0])
    same = prepare(loaded.processor, asked, Sampling(32, None, 4, frame_share=1.0, pixel_share=1.0))
    assert all((same.inputs[name] == whole.inputs[name]).all() for name in ("input_ids", "pixel_values_videos"))


def test_shares_are_part_of_what_a_suite_asks(loaded: Checkpoint, data: Path, tmp_path: Path) -> None:
    run = SuiteRun(NEEDLE, tmp_path, data=data)

    def sampling(name: str, **settings: float) -> Sampling:
        return run.under(loaded, {}, make(name, settings)).sampling

    usual = run.under(loaded, {}).sampling
    assert usual.inputs == {"frames": 16, "fps": None, "tokens_per_frame": 4}
    assert sampling("fastv") == sampling("fewer_frames", keep=1.0) == usual
    assert sampling("fewer_frames", keep=0.5).inputs["frame_share"] == 0.5
    assert sampling("fewer_pixels", keep=0.5).inputs["pixel_share"] == 0.5


HALF = {
    "fastv": {"layer": 1, "keep": 0.5},
    "vscan": {"keep": 0.5, "layer": 2, "layer_keep": 0.5},
    "visionzip": {"dominant": 0.25, "contextual": 0.25},
    "random_tokens": {"keep": 0.5},
    "uniform_tokens": {"keep": 0.5},
    "fewer_frames": {"keep": 0.5},
    "fewer_pixels": {"keep": 0.5},
}


@pytest.mark.parametrize("name", HALF)
def test_an_evaluation_says_what_was_kept(name: str, loaded: Checkpoint, data: Path, tmp_path: Path) -> None:
    """8 patches of 4 vision tokens; tokens and the share of pairs of the whole prompt, by layer."""
    result = evaluate(loaded, {}, NEEDLE, tmp_path, data=data, method=make(name, HALF[name]))
    row = result["questions"][0]
    sampled = name.startswith("fewer")
    assert row["error"] is None
    assert row["vision_tokens"] == (16 if sampled else 32)
    text = row["prefill_tokens"] - row["vision_tokens"]
    vision = {"fastv": [32, 16, 16], "vscan": [16, 16, 8]}.get(name, [16, 16, 16])
    assert row["spent"]["tokens"] == [text + tokens for tokens in vision]
    pairs = [(text + tokens) * (text + tokens + 1) for tokens in vision]
    assert row["spent"]["density"] == pytest.approx([n / ((text + 32) * (text + 33)) for n in pairs], abs=1e-6)
    assert (row["spent"]["choice_ms"] is None) == sampled
    assert result["summary"]["attention_fraction"] == pytest.approx(sum(row["spent"]["density"]) / 3, abs=1e-5)


def test_model_arguments_sample_as_the_method_says(folder: Path) -> None:
    arguments = f"pretrained={folder},method=fewer_frames,fewer_frames.keep=0.5,max_frames=8"
    model = VideoNSA.create_from_arg_string(arguments, {"device": "cpu"})
    assert (model.sampling.frames, model.sampling.frame_share, model.sampling.pixel_share) == (8, 0.5, 1.0)
