"""semantics as a setting: one spelling for each set, refusals, and what the model does with it."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import relative_error
from tests.modeling.conftest import STOCK, batch, sample
from videonsa.config import DIFFERENCES, NSASettings, SettingsError, differences
from videonsa.modeling import VideoNSAConfig, VideoNSAForConditionalGeneration, capture_attention

SAMPLE = (("text", 3), ("video", 8), ("text", 5), ("video", 3), ("text", 4))


@pytest.fixture(scope="module")
def model():
    """As the other tests' model, with two key/value heads, so that head_layout shows."""
    torch.manual_seed(0)
    text = {**STOCK["text_config"], "num_attention_heads": 14, "num_key_value_heads": 2, "head_dim": 4}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 0]}
    config = VideoNSAConfig(**{**STOCK, "text_config": text}, block_size=4, block_count=3, window=6)
    return VideoNSAForConditionalGeneration(config).eval().requires_grad_(False)


def logits(model, inputs, semantics):
    model.set_nsa(semantics=semantics)
    return model(**inputs).logits[inputs["attention_mask"].bool()]


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("paper", "paper"),
        ("release", "release"),
        (("release",), "release"),
        ("gate_leak+cmp_mask", "cmp_mask+gate_leak"),
        (["cmp_mask", "gate_leak"], "cmp_mask+gate_leak"),
        ("importance", "importance_lse+importance_own_block+importance_round_up"),
        ("+".join(DIFFERENCES), "release"),
        (
            "release-dense_decode-importance",
            "cmp_mask+head_layout+vision_packing+gate_leak+modality_by_position+grid_seconds",
        ),
    ],
)
def test_each_set_has_one_spelling(given, canonical):
    assert NSASettings(semantics=given).semantics == canonical
    assert differences(canonical) == differences(given)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"semantics": "cmp"}, "choose one of paper, release, cmp_mask"),
        ({"semantics": ""}, "choose one of"),
        ({"semantics": 3}, "choose one of"),
        ({"semantics": "release-cmp"}, "choose one of"),
        ({"semantics": "release+cmp_mask"}, "stands alone"),
        ({"semantics": "cmp_mask", "backend": "triton", "block_size": 48}, "with backend=triton"),
        ({"semantics": "release", "block_count": 65}, "at most block_size=64"),
        ({"semantics": "release", "block_size": 48, "block_count": 4}, "a power of two"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(fields, message):
    with pytest.raises(SettingsError, match=message) as caught:
        NSASettings(**fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", DIFFERENCES)
def test_each_difference_alone_runs_and_shows(model, name):
    inputs = batch([sample(*SAMPLE), sample(("text", 2), ("video", 6), ("text", 3), seed=1)], "left")
    inputs["second_per_grid_ts"] = torch.full((3,), 2.5)
    changed = relative_error(logits(model, inputs, name), logits(model, inputs, "paper"))
    without = relative_error(logits(model, inputs, f"release-{name}"), logits(model, inputs, "release"))
    if name == "dense_decode":  # these samples have text
        assert changed < 1e-5
        assert without < 1e-5
    elif name == "importance_own_block":  # acts together with importance_lse only
        assert changed < 1e-5
    else:
        assert changed > 1e-3
        assert without > 1e-3


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_sample_does_not_depend_on_its_batch(model, side):
    samples = [sample(*SAMPLE), sample(("text", 9), ("video", 6), ("text", 3), seed=1), sample(("text", 7), seed=2)]
    inputs = batch(samples, side)
    model.set_nsa(semantics="release")
    together = model(**inputs).logits
    for row, alone in enumerate(samples):
        expected = model(**alone).logits[0]
        assert relative_error(together[row][inputs["attention_mask"][row].bool()], expected) < 1e-5


def test_modality_by_position_counts_the_diagonal_of_each_first_frame_as_text(model):
    inputs = sample(("text", 3), ("video", 2), ("text", 2))
    model.set_nsa(semantics="modality_by_position")
    with capture_attention(model) as captured:
        model(**inputs)
    # Positions of frame 0 are (p, p+y, p+x): equal at y = x = 0; of frame 1 (p+1, p+y, p+x): equal at y = x = 1.
    assert captured[0].query.shape[1] == 2 * 4 - 2
    model.set_nsa(semantics="cmp_mask")
    with capture_attention(model) as captured:
        model(**inputs)
    assert captured[0].query.shape[1] == 2 * 4


def test_modality_by_position_refuses_positions_of_one_axis(model):
    inputs = sample(*SAMPLE)
    inputs["position_ids"] = torch.arange(inputs["input_ids"].shape[1])[None]
    model.set_nsa(semantics="release")
    with pytest.raises(ValueError, match=r"position_ids \[3, B, L\]"):
        model(**inputs)


def test_generation_prefills_by_the_release_and_decodes_densely(model):
    inputs = sample(*SAMPLE)
    model.set_nsa(semantics="release")
    out = model.generate(**inputs, max_new_tokens=3, do_sample=False, return_dict_in_generate=True, output_logits=True)
    assert torch.allclose(out.logits[0], model(**inputs).logits[:, -1], atol=1e-5)
    cache = model(**inputs, use_cache=True).past_key_values
    step = {"input_ids": out.sequences[:, -3:-2], "past_key_values": cache}
    model.set_nsa(attention="dense")
    dense = model(**step).logits[:, -1]
    model.set_nsa(attention="nsa")
    assert torch.allclose(out.logits[1], dense, atol=1e-5)


def test_training_reaches_the_gates(model):
    model.set_nsa(semantics="release")
    inputs = sample(*SAMPLE)
    model.requires_grad_(True)
    try:
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        for layer in model.model.language_model.layers:
            for weight in (layer.self_attn.g_proj_1.weight, layer.self_attn.q_proj.weight):
                assert torch.isfinite(weight.grad).all()
                assert weight.grad.any()
    finally:
        model.zero_grad()
        model.requires_grad_(False)
