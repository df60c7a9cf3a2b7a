"""From lmms-eval's messages to tensors: prompts are pinned, tokens and times are as the settings say."""

from __future__ import annotations

import base64
import io
import json
import os
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evals.checkpoint import Checkpoint
from evals.pieces import in_pieces
from evals.question import Content, Sampling, content_of, prepare
from evals.run import load_task
from evals.shown import Shown, at_once
from evals.suites import suite_settings
from videonsa.synth import SECONDS, make_sample
from videonsa.training.batch import encode
from videonsa.training.sources import Conversation
from videonsa.video import Clip, Video, VideoError

PINNED = Path(__file__).parent / "prompts.json"
FAMILIES = ("needle", "order", "layout")


def messages(task, index: int) -> list[dict]:
    return task.doc_to_messages(task.eval_docs[index])


@pytest.fixture(scope="module")
def tasks(data: Path) -> dict:
    return {family: load_task(suite_settings(f"synth_{family}", limit=4), data) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_are_pinned(family: str, tasks: dict, loaded: Checkpoint) -> None:
    """A changed prompt makes old records incomparable: change prompts.json only together with the task's version."""
    pinned = json.loads(PINNED.read_text(encoding="utf-8"))[family]
    docs = [tasks[family].eval_docs[index] for index in range(3)]
    assert [doc["prompt"] for doc in docs] == pinned["prompts"]
    assert [doc["answer"] for doc in docs] == pinned["answers"]
    text = [part["text"] for part in messages(tasks[family], 0)[0]["content"] if part["type"] == "text"]
    assert text == pinned["prompts"][:1], "lmms-eval adds to the prompt"


def test_tokens_and_times(tasks: dict, loaded: Checkpoint) -> None:
    question = prepare(loaded.processor, messages(tasks["needle"], 0), Sampling(32, None, 4))
    assert question.vision_tokens == 16 * 4
    assert question.prefill_tokens == question.inputs["input_ids"].numel() > 64
    assert float(question.inputs["second_per_grid_ts"][0]) == SECONDS / 16, "the times between frames are lost"
    assert question.inputs["video_grid_thw"].tolist() == [[16, 4, 4]]
    half = prepare(loaded.processor, messages(tasks["needle"], 0), Sampling(16, None, 1))
    assert half.vision_tokens == 8
    assert float(half.inputs["second_per_grid_ts"][0]) == SECONDS / 8
    assert half.prompt_hash == question.prompt_hash, "the prompt's hash depends on the video's sampling"


def test_a_question_is_asked_as_in_training(tasks: dict, loaded: Checkpoint) -> None:
    doc = tasks["order"].eval_docs[1]
    sample = make_sample("order", split="test", seed=0, index=1, frames=32)
    turns = (("user", doc["prompt"]), ("assistant", doc["answer"]))
    conversation = Conversation(turns, Video.of(sample.frames, 32 / SECONDS))
    trained = encode(loaded.processor, [conversation], pixels_per_frame=56 * 56)
    asked = prepare(loaded.processor, messages(tasks["order"], 1), Sampling(32, None, 4)).inputs
    length = asked["input_ids"].shape[1]
    assert trained["input_ids"][:, :length].tolist() == asked["input_ids"].tolist()
    assert int((trained["labels"] >= 0).nonzero()[0, 1]) == length, "the answer does not follow the question"
    for name in ("video_grid_thw", "second_per_grid_ts"):
        assert trained[name].tolist() == asked[name].tolist()
    difference = (trained["pixel_values_videos"] - asked["pixel_values_videos"]).abs().max()
    assert float(difference) < 0.06, "more than the codec's rounding: 3 of 255"


def test_more_tokens_a_frame_come_from_larger_frames(data: Path, loaded: Checkpoint) -> None:
    task = load_task(suite_settings("synth_layout", limit=1, tokens_per_frame=9), data)
    question = prepare(loaded.processor, messages(task, 0), Sampling(32, None, 9))
    assert question.inputs["video_grid_thw"].tolist() == [[16, 6, 6]]


def test_images_and_text(loaded: Checkpoint) -> None:
    image = Image.fromarray(np.zeros((56, 56, 3), np.uint8))
    content = [{"type": "image", "url": image}, {"type": "text", "text": "what is it?"}]
    question = prepare(loaded.processor, [{"role": "user", "content": content}], Sampling(8, None, 4))
    assert question.vision_tokens == 4
    bare = prepare(loaded.processor, [{"role": "user", "content": content[1:]}], Sampling(8, None, 4))
    assert bare.vision_tokens == 0


@pytest.mark.parametrize("name", ["a.png", "b.gif", "a photo, 50 %#é.jpg"])
def test_an_image_by_its_path_is_the_opened_image(name: str, loaded: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / name
    exif = Image.Exif()
    exif[274] = 6  # lies on its side: as little as for the opened image is it turned
    colours = np.random.default_rng(0).integers(0, 255, (56, 84, 3), dtype=np.uint8)
    Image.fromarray(colours).convert("P" if name.endswith("gif") else "RGB").save(path, exif=exif)

    def pixels(url: object) -> torch.Tensor:
        content = [{"type": "image", "url": url}, {"type": "text", "text": "what is it?"}]
        return prepare(loaded.processor, [{"role": "user", "content": content}], Sampling(8, None, 4)).inputs[
            "pixel_values"
        ]

    for url in (str(path), path, f"file://{path}"):
        assert torch.equal(pixels(url), pixels(Image.open(path)))


def test_an_image_by_its_bytes_is_the_opened_image(loaded: Checkpoint) -> None:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (56, 84, 3), dtype=np.uint8)).save(file, "PNG")
    given = file.getvalue()
    address = "data:image/png;base64," + base64.b64encode(given).decode()

    def ask(url: object) -> list[dict]:
        return [{"role": "user", "content": [{"type": "image", "url": url}, {"type": "text", "text": "what is it?"}]}]

    right = prepare(loaded.processor, ask(Image.open(file)), Sampling(8, None, 4)).inputs["pixel_values"]
    content = set()
    for url in (given, file, address, {"bytes": given, "path": None}):
        pixels = prepare(loaded.processor, ask(url), Sampling(8, None, 4)).inputs["pixel_values"]
        assert torch.equal(pixels, right)
        content.add(content_of(ask(url)))
    assert len(content) == 1
    with pytest.raises(VideoError, match="on the web: give a file"):
        prepare(loaded.processor, ask("https://example.org/a.png"), Sampling(8, None, 4))
    with pytest.raises(VideoError, match=r"^image given as bytes: [^<]*cannot identify image file given as bytes$"):
        prepare(loaded.processor, ask(b"no image"), Sampling(8, None, 4))


def test_images_of_the_same_bytes_are_told_apart(loaded: Checkpoint) -> None:
    """By their palettes and sizes, or the one's prepared question would answer for the other."""
    red, blue, flat = (Image.new("P", size) for size in ((56, 56), (56, 56), (112, 28)))
    red.putpalette([255, 0, 0])
    blue.putpalette([0, 0, 255])
    asked = [
        [{"role": "user", "content": [{"type": "image", "url": image}, {"type": "text", "text": "what is it?"}]}]
        for image in (red, blue, flat)
    ]
    assert len({content_of(messages) for messages in asked}) == 3


@pytest.mark.parametrize("content", [None, b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(50), "a pipe"])
def test_an_image_that_cannot_be_read_is_named(content: bytes | str | None, loaded: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    if isinstance(content, str):
        os.mkfifo(path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(VideoError, match=r"^image a.png: [^/\n]+$"):
        prepare(
            loaded.processor, [{"role": "user", "content": [{"type": "image", "url": str(path)}]}], Sampling(8, None, 4)
        )


@pytest.mark.parametrize("part", [{"type": "audio", "url": "a.wav"}, {"type": "video", "url": [1, 2]}])
def test_what_the_model_cannot_take(part: dict, loaded: Checkpoint) -> None:
    with pytest.raises(VideoError):
        prepare(loaded.processor, [{"role": "user", "content": [part]}], Sampling(8, None, 4))


def test_questions_that_show_the_same_are_told_apart_and_show_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"a video")
    (tmp_path / "copy.mp4").write_bytes(b"a video")
    (tmp_path / "b.mp4").write_bytes(b"other one")

    def asked(name: str, text: str, **span: float) -> Content:
        video = {"type": "video", "url": str(tmp_path / name), **span}
        return content_of([{"role": "user", "content": [video, {"type": "text", "text": text}]}])

    one = asked("a.mp4", "why?")
    assert asked("copy.mp4", "why?") == one, "where a file lies does not count"
    assert asked("a.mp4", "when?").shown == one.shown
    assert asked("a.mp4", "when?").question != one.question
    assert asked("gone.mp4", "why?") != asked("lost.mp4", "why?"), "one may come meanwhile"
    assert asked("a.mp4", "why?", start_time=1.0).shown != one.shown
    assert asked("b.mp4", "why?").shown != one.shown
    bare = [content_of([{"role": "user", "content": [{"type": "text", "text": text}]}]) for text in ("1?", "2?")]
    assert bare[0].shown != bare[1].shown, "they share nothing"


def test_what_several_questions_show_is_read_once_and_asked_of_each(tasks: dict, loaded: Checkpoint) -> None:
    asked, reads = messages(tasks["order"], 0), []

    def reading(path: Path, clip: Clip) -> Future[Video]:
        reads.append(clip)
        return at_once(path, clip)

    other = [{**asked[0], "content": [*asked[0]["content"], {"type": "text", "text": "what is it?"}]}]
    shown = Shown(loaded.processor, reading)
    samplings = (Sampling(32, None, 4), Sampling(32, None, 4, pixel_share=0.25), Sampling(32, None, 4, frame_share=0.5))
    for sampling in samplings:
        for said in (asked, other):
            alone, together = prepare(loaded.processor, said, sampling), shown.question(said, sampling)
            assert (together.prompt_hash, together.left_out) == (alone.prompt_hash, alone.left_out)
            assert set(together.inputs) == set(alone.inputs)
            for name, value in alone.inputs.items():
                same = torch.equal(value, together.inputs[name]) if torch.is_tensor(value) else None
                assert value == together.inputs[name] if same is None else same, name
    assert len(reads) == len(samplings)
    rounded = Shown(loaded.processor, at_once, torch.bfloat16).question(asked, samplings[0]).inputs
    assert torch.equal(
        rounded["pixel_values_videos"],
        prepare(loaded.processor, asked, samplings[0]).inputs["pixel_values_videos"].bfloat16(),
    )


def test_a_long_video_becomes_the_same_tensors_piece_by_piece(
    loaded: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two videos, one of an odd length: patches, grids and times, to the last bit."""
    drawn = np.random.default_rng(0).integers(0, 255, (21, 84, 56, 3), np.uint8)
    videos = [drawn, drawn[:6, :56]]
    given = {"video_metadata": [Video.of(frames, 2.0).metadata() for frames in videos], "return_metadata": True}
    expected = loaded.processor.video_processor(videos, return_tensors="pt", **given)
    monkeypatch.setattr("evals.pieces.FRAMES", 4)
    processor = in_pieces(loaded.processor)
    made = processor.video_processor(videos, return_tensors="pt", **given)
    assert set(made) == set(expected)
    for name in ("pixel_values_videos", "video_grid_thw"):
        assert torch.equal(made[name], expected[name])
    assert made["video_metadata"] == expected["video_metadata"]
    assert in_pieces(processor) is processor
