"""The parts of training: samples, labels, loss, learning rate, the faster vision tower."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.helpers import TOLERANCE, relative_error
from tests.training.conftest import NSA, quick
from videonsa.config import SettingsError, TrainSettings
from videonsa.modeling.vision import speed_up_vision
from videonsa.tiny import FRAME, build_tiny
from videonsa.training.batch import IGNORED, MicroBatch, answer_loss, encode, packed, place_rows, place_tokens
from videonsa.training.schedule import learning_rate, make_optimizer
from videonsa.training.skipped import SampleError
from videonsa.training.sources import Conversation, SyntheticSource, VideoSource


def test_samples_come_by_number_shortest_first():
    source = SyntheticSource(quick(steps=10, families=("needle", "order", "layout")))
    lengths = [len(source[index].video.frames) for index in range(40)]
    assert lengths == [4] * 20 + [8] * 20
    again = SyntheticSource(quick(steps=10))
    assert (again[33].video.frames == source[33].video.frames).all()
    assert again[33].turns == source[33].turns


def test_a_family_named_twice_has_two_parts_and_all_its_kinds():
    settings = quick(steps=45, frames=(8,), families=("needle", "order", "order", "layout", "layout"))
    source = SyntheticSource(settings)
    asked = Counter(source[index].turns[0][1].rsplit("?", 1)[0].split(" ", 2)[1] for index in range(180))
    assert asked["often"] == 24  # a third of two fifths of 180
    assert asked["many"] == 24
    assert len({source[index].turns[0][1] + str(source[index].video.frames.sum()) for index in range(180)}) == 180


def test_a_synthetic_video_lasts_as_long_however_many_frames_show_it():
    source = SyntheticSource(quick(steps=10))
    assert {source[index].video.seconds for index in (0, 39)} == {8.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"families": ("needle", "noodle")}, "families='noodle'"),
        ({"families": ("order",)}, "frames=4 is not valid: order need at least 8"),
        ({"data": "missing.json", "video_folder": "."}, "missing.json"),
    ],
)
def test_data_that_cannot_work_is_named(changes, message, processor):
    settings = quick(**changes)
    with pytest.raises(SettingsError, match=message):
        SyntheticSource(settings) if settings.data == "synth" else VideoSource(settings, processor)


def test_real_videos_are_sampled_by_rate_and_cut_by_tokens(video_data, processor):
    settings = quick(
        data=str(video_data / "data.jsonl"),
        video_folder=str(video_data),
        steps=None,
        batch_size=1,
        micro_batch_size=1,
        fps=4.0,
    )
    source = VideoSource(settings, processor)
    assert source.steps == 3
    shown = [source[index] for index in range(6)]
    assert {each.video.frames.shape for each in shown} == {(8, 56, 56, 3)}  # 24 frames at 12 fps last 2 s
    assert {each.video.fps for each in shown} == {4.0}
    assert "<image>" not in shown[0].turns[0][1]
    assert [role for role, _ in shown[0].turns] == ["user", "assistant"] * 2
    few = VideoSource(quick(data=settings.data, video_folder=str(video_data), max_tokens=1024 + 8), processor)
    assert len(few[0].video.frames) == 4  # 8 tokens are two patches of two frames


def test_a_broken_video_is_replaced_by_the_next(video_data, processor, caplog):
    settings = quick(
        data=str(video_data / "data.jsonl"), video_folder=str(video_data), steps=3, batch_size=1, micro_batch_size=1
    )
    source = VideoSource(settings, processor)
    asked = [source[index].turns for index in range(3)]
    assert len({json.dumps(turns) for turns in asked}) == 2
    assert "sample 2, 2.mp4 skipped" in caplog.text
    assert {each.entry for each in source.take_skipped(range(3))} == {3}
    assert source.take_skipped(range(3)) == []


def test_a_text_takes_of_the_video_what_it_needs_and_one_without_room_is_none(video_data, processor, tmp_path):
    talk = [{"from": "human", "value": "how many " * 519}, {"from": "gpt", "value": "one"}]
    entries = [
        {"id": "long", "video": "0.mp4", "conversations": talk},
        {"id": "longer", "video": "0.mp4", "conversations": [{**talk[0], "value": "red " * 1046}, talk[1]]},
        {"id": "text", "conversations": [{**talk[0], "value": "red " * 1046}, talk[1]]},
        {"id": "marks", "conversations": [{**talk[0], "value": "is <|video_pad|> a token"}, talk[1]]},
    ]
    (tmp_path / "data.json").write_text(json.dumps(entries))
    settings = quick(
        data=str(tmp_path / "data.json"), video_folder=str(video_data), max_tokens=1112, pixels_per_frame=56 * 56
    )
    source = VideoSource(settings, processor)
    loaded, refused = {}, {}
    for entry in source.entries:
        try:
            loaded[entry["id"]] = source._load(entry).video
        except SampleError as error:
            refused[entry["id"]] = str(error)
    assert len(loaded["long"].frames) == 4  # of 8: 9 tokens are left
    assert loaded["text"] is None
    assert refused == {
        "longer": "a text of 1111 tokens, where max_tokens=1112 has room for 1108",
        "marks": "its text holds <|video_pad|>",
    }
    still = VideoSource(dataclasses.replace(settings, freeze="decoder"), processor)
    with pytest.raises(SampleError, match="text alone, of which nothing learns"):
        still._load({"conversations": talk})


def test_labels_are_the_answers_and_nothing_else(processor):
    turns = (("user", "where is the red"), ("assistant", "left"), ("user", "how many"), ("assistant", "two three"))
    sample = SyntheticSource(quick())[0]
    batch = encode(processor, [Conversation(turns, sample.video), sample], FRAME**2)
    texts = [processor.tokenizer.decode(row[row != IGNORED]) for row in batch["labels"]]
    assert texts == ["left<|im_end|>two three<|im_end|>", f"{sample.turns[1][1]}<|im_end|>"]
    assert (batch["labels"][batch["attention_mask"] == 0] == IGNORED).all()
    same = batch["labels"] != IGNORED
    assert torch.equal(batch["labels"][same], batch["input_ids"][same])


@pytest.mark.parametrize("shown", [True, False], ids=["video", "text-only"])
def test_the_loss_is_that_of_all_logits(processor, shown):
    model, _ = build_tiny(NSA, seed=0)
    source = SyntheticSource(quick())
    samples = [source[0], Conversation((("user", "how"), ("assistant", "red")), source[1].video if shown else None)]
    batch = encode(processor, samples if shown else samples[1:], FRAME**2)
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    with torch.no_grad():
        logits = model(**inputs).logits[:, :-1]
        expected = [
            cross_entropy(row, target, ignore_index=IGNORED)
            for row, target in zip(logits, batch["labels"][:, 1:], strict=True)
        ]
        assert relative_error(answer_loss(model, batch), torch.stack(expected)) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("attention", ["nsa", "dense"])
def test_samples_in_a_row_have_the_losses_and_gradients_of_samples_alone(processor, attention):
    model, _ = build_tiny(dataclasses.replace(NSA, attention=attention), seed=0)
    source = SyntheticSource(quick())
    talk = (("user", "how many"), ("assistant", "one two"), ("user", "how"), ("assistant", "red"))
    asked = [source[0], Conversation(talk), source[12], Conversation(talk, source[1].video)]
    alone = [place_tokens(encode(processor, [each], FRAME**2), model.model.get_rope_index) for each in asked]
    rows = list(packed((MicroBatch(each, each["labels"].shape[1], each is alone[-1]) for each in alone), most=110))
    assert [row.inputs["position_ids"][0].eq(0).sum() for row in rows] == [3, 1]
    assert [row.last for row in rows] == [False, True]
    assert sum(row.tokens for row in rows) == sum(row.inputs["labels"].numel() for row in rows)
    found = []
    for batches in ([encode(processor, asked, FRAME**2)], [row.inputs for row in rows]):
        losses = torch.cat([answer_loss(model, batch) for batch in batches])
        model.zero_grad()
        (losses * torch.arange(1, 5)).sum().backward()
        found.append((losses.detach(), {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}))
    (losses, gradients), (expected, theirs) = found
    assert relative_error(losses, expected) < TOLERANCE[torch.float32]
    assert gradients.keys() == theirs.keys()
    for name, gradient in gradients.items():
        assert relative_error(gradient, theirs[name]) < 1e-4, name


def test_the_head_sees_answers_only(processor, monkeypatch):
    model, _ = build_tiny(NSA, seed=0)
    batch = encode(processor, [SyntheticSource(quick())[0]], FRAME**2)
    seen = []
    model.lm_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    answer_loss(model, batch)
    assert seen == [(1, 2, 64)]  # the word and <|im_end|>


def test_the_learning_rate_warms_up_and_falls_to_zero():
    settings = TrainSettings(steps=100)
    rates = [learning_rate(settings, step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(1e-11)
    assert rates[10] == pytest.approx(1e-6)
    assert rates[5] == pytest.approx((1e-11 + 1e-6) / 2)
    assert rates[55] == pytest.approx(5e-7)
    assert rates[100] == pytest.approx(0)
    assert max(rates) == rates[10]


def test_biases_and_norms_do_not_decay():
    model, _ = build_tiny(NSA, seed=0)
    decaying, other = make_optimizer(model, TrainSettings(steps=1)).param_groups
    assert decaying["weight_decay"] == 0.01
    assert other["weight_decay"] == 0
    assert all(weight.ndim == 1 for weight in other["params"])
    assert len(decaying["params"]) + len(other["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize("frames", [(8, 8), (8, 4)], ids=["equal", "mixed"])
@pytest.mark.parametrize("sizes", [(56, 56), (56, 84)], ids=["one size", "two sizes"])
def test_the_faster_vision_tower_is_the_same_tower(frames, sizes):
    model, _ = build_tiny(NSA, seed=0)
    tower = model.model.visual
    grids = torch.tensor([[count // 2, size // 14, size // 14] for count, size in zip(frames, sizes, strict=True)])
    pixels = torch.randn(int(grids.prod(dim=1).sum()), 2 * 3 * 14 * 14, generator=torch.Generator().manual_seed(0))
    weights = tower.patch_embed.proj.weight
    outputs = []
    for _ in range(2):
        output = tower(pixels, grid_thw=grids).pooler_output
        (gradient,) = torch.autograd.grad(output.square().sum(), weights)
        outputs.append((output, gradient))
        speed_up_vision(model)
    for stock, faster in zip(*outputs, strict=True):
        assert relative_error(faster, stock) < TOLERANCE[torch.float32]
    assert type(tower.patch_embed).__name__ == "LinearPatchEmbed"


def test_positions_that_are_found_before_a_step_are_those_that_the_model_finds_in_it(processor):
    model, _ = build_tiny(NSA, seed=0)
    source = SyntheticSource(quick())
    talk = Conversation((("user", "how many"), ("assistant", "one two")))
    batch = encode(processor, [source[0], talk, source[1]], FRAME**2)
    placed = place_rows(batch, model.model.get_rope_index)
    assert torch.equal(answer_loss(model, placed), answer_loss(model, batch))
