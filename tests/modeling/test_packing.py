"""Several samples packed into a row: each is as alone, and nothing of one reaches another, by either semantics."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import relative_error
from tests.modeling.conftest import STOCK, batch, pack, sample
from videonsa.modeling import VideoNSAConfig, VideoNSAForConditionalGeneration

VIDEO_SAMPLE = (("text", 3), ("video", 8), ("text", 5))
MIXED_SAMPLE = (("text", 2), ("video", 3), ("text", 4), ("image", 2), ("video", 5), ("text", 1))
PARTS = [VIDEO_SAMPLE, (("text", 9),), MIXED_SAMPLE, (("video", 1),)]
SEMANTICS = ["paper", "release", "modality_by_position+vision_packing"]


def samples_of(*parts):
    return [sample(*each, seed=seed) for seed, each in enumerate(parts)]


@pytest.fixture(params=SEMANTICS)
def either(model, request):
    model.set_nsa(semantics=request.param)
    return model


def split(logits, rows, side="right"):
    """The logits of each sample of packed rows."""
    for row, ones in zip(logits, rows, strict=True):
        lengths = [one["input_ids"].shape[1] for one in ones]
        held = row[len(row) - sum(lengths) :] if side == "left" else row[: sum(lengths)]
        yield from held.split(lengths)


def test_each_packed_sample_is_as_alone(either):
    rows = [samples_of(*PARTS)]
    for one, logits in zip(rows[0], split(either(**pack(either, rows)).logits, rows), strict=True):
        assert relative_error(logits, either(**one).logits[0]) < 1e-5


def test_packed_samples_of_equal_length_are_as_alone(model):
    """Their vision tokens go to the kernel as a batch instead of by their bounds."""
    rows = [samples_of(VIDEO_SAMPLE, VIDEO_SAMPLE, VIDEO_SAMPLE)]
    for one, logits in zip(rows[0], split(model(**pack(model, rows)).logits, rows), strict=True):
        assert relative_error(logits, model(**one).logits[0]) < 1e-5


@pytest.mark.parametrize("side", ["left", "right"])
def test_packed_rows_beside_a_padded_one(either, side):
    one, two, three, four = samples_of(*PARTS)
    rows = [[one, two, three], [four], [two, one]]
    packed = pack(either, rows, side)
    assert packed["attention_mask"] is not None
    alone = [each for row in rows for each in row]
    for each, logits in zip(alone, split(either(**packed).logits, rows, side), strict=True):
        assert relative_error(logits, either(**each).logits[0]) < 1e-5


def test_a_batch_and_its_packed_row_give_the_same(model):
    ones = samples_of(VIDEO_SAMPLE, MIXED_SAMPLE)
    together = batch(ones, "left")
    logits = model(**together).logits[together["attention_mask"].bool()]
    assert relative_error(model(**pack(model, [ones])).logits[0], logits) < 1e-5


@pytest.mark.parametrize("changed", ["text", "video"])
def test_no_bit_of_a_sample_depends_on_another(either, changed):
    ones = samples_of(VIDEO_SAMPLE, MIXED_SAMPLE, VIDEO_SAMPLE)
    before = either(**pack(either, [ones])).logits[0]
    if changed == "text":
        ones[1]["input_ids"][0, [0, -1]] += 1
    else:
        ones[1]["pixel_values_videos"] += 1.0
    after = either(**pack(either, [ones])).logits[0]
    first, last = ones[0]["input_ids"].shape[1], ones[2]["input_ids"].shape[1]
    assert torch.equal(before[:first], after[:first])
    assert torch.equal(before[-last:], after[-last:])
    assert not torch.equal(before[first:-last], after[first:-last])


def test_no_gradient_crosses_samples(either):
    ones = samples_of(VIDEO_SAMPLE, MIXED_SAMPLE)
    inputs = pack(either, [ones])
    inputs["pixel_values_videos"] = inputs["pixel_values_videos"].requires_grad_()
    first = ones[0]["input_ids"].shape[1]
    either(**inputs).logits[0, :first].sum().backward()
    patches = len(ones[0]["pixel_values_videos"])
    grad = inputs["pixel_values_videos"].grad
    assert grad[:patches].abs().sum() > 0
    assert not grad[patches:].any()


def test_rows_that_do_not_say_where_samples_begin_are_refused(either):
    inputs = pack(either, [samples_of(VIDEO_SAMPLE, VIDEO_SAMPLE)])
    for positions in (inputs["position_ids"][1:], inputs["position_ids"][0]):
        for mask in (None, torch.ones_like(inputs["input_ids"])):
            with pytest.raises(ValueError, match=r"text positions before the three axes, \[4, B, L\]"):
                either(**inputs | {"position_ids": positions, "attention_mask": mask})


def test_a_packed_row_leaves_no_cache(model):
    inputs = pack(model, [samples_of(VIDEO_SAMPLE, VIDEO_SAMPLE)])
    with pytest.raises(ValueError, match="use_cache=False"):
        model(**inputs | {"use_cache": True})
    del inputs["use_cache"]
    assert model(**inputs).past_key_values is None


@pytest.mark.gpu
@pytest.mark.parametrize("semantics", ["paper", "release"])
def test_packed_on_a_device(semantics):
    """In half precision, by the kernels: vision tokens and text each by their own."""
    torch.manual_seed(0)
    text = STOCK["text_config"] | {
        "hidden_size": 112,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]},
    }
    stock = STOCK | {"text_config": text, "vision_config": STOCK["vision_config"] | {"out_hidden_size": 112}}
    config = VideoNSAConfig(**stock, block_size=32, block_count=2, window=40, semantics=semantics)
    model = VideoNSAForConditionalGeneration(config).eval().requires_grad_(False).bfloat16()
    ones = samples_of((("text", 3), ("video", 60), ("text", 50)), (("text", 90),), MIXED_SAMPLE, (("video", 33),))
    packed = on_a_device(pack(model, [ones]))
    model.cuda()
    for one, logits in zip(ones, split(model(**packed).logits, [ones]), strict=True):
        assert relative_error(logits, model(**on_a_device(one)).logits[0]) < 2e-2


def on_a_device(inputs):
    moved = {name: value.cuda() if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
    floats = ("pixel_values", "pixel_values_videos")
    return moved | {name: moved[name].bfloat16() for name in floats if name in moved}
