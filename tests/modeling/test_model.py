"""The model: equal to stock Qwen2.5-VL where it must be, sparse where it must be, one sample's output its own."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from tests.helpers import relative_error
from tests.modeling.conftest import STOCK, VIDEO, batch, sample
from videonsa.config import SettingsError
from videonsa.kernels import nsa_attention
from videonsa.modeling import VideoNSAConfig, VideoNSAForConditionalGeneration, VideoNSAModel, capture_attention

VIDEO_SAMPLE = (("text", 3), ("video", 8), ("text", 5))
TEXT_SAMPLE = (("text", 9),)
MIXED_SAMPLE = (("text", 2), ("video", 3), ("text", 4), ("image", 2), ("video", 5), ("text", 1))


@pytest.fixture(scope="module")
def stock(shared_model):
    twin = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**STOCK)).eval().requires_grad_(False)
    weights = {name: tensor for name, tensor in shared_model.state_dict().items() if ".g_proj_" not in name}
    twin.load_state_dict(weights)
    return twin


def test_dense_attention_gives_the_stock_logits_exactly(model, stock):
    """With our positions: stock ones are wrong behind a video (tests/modeling/test_positions.py)."""
    model.set_nsa(attention="dense")
    for inputs in (sample(*MIXED_SAMPLE), batch([sample(*VIDEO_SAMPLE), sample(*TEXT_SAMPLE)], "left")):
        positions, _ = model.model.get_rope_index(**inputs)
        assert torch.equal(model(**inputs).logits, stock(**inputs, position_ids=positions).logits)


def test_a_text_sample_gives_the_stock_logits_exactly(model, stock):
    inputs = sample(*TEXT_SAMPLE)
    assert torch.equal(model(**inputs).logits, stock(**inputs).logits)


def test_sparse_attention_differs_from_dense(model, stock):
    inputs = sample(*VIDEO_SAMPLE)
    assert relative_error(model(**inputs).logits, stock(**inputs).logits) > 1e-2


@pytest.mark.parametrize("parts", [VIDEO_SAMPLE, MIXED_SAMPLE], ids=["one video", "videos, image and text"])
def test_a_layer_computes_what_the_method_says(model, parts):
    """The first layer, computed again by hand from its input: packed NSA for vision, dense causal for text."""
    inputs = sample(*parts)
    layer = model.model.language_model.layers[0].self_attn
    seen = {}

    def watch(module, args, kwargs, output):
        seen.update(kwargs, output=output[0])

    hook = layer.register_forward_hook(watch, with_kwargs=True)
    with capture_attention(model) as captured:
        model(**inputs)
    hook.remove()
    hidden, (cos, sin) = seen["hidden_states"], seen["position_embeddings"]

    def rotate(x):
        turned = torch.cat([-x[..., 4:], x[..., :4]], -1)
        return x * cos[:, :, None] + turned * sin[:, :, None]

    query, key = (rotate(p(hidden).unflatten(-1, (-1, 8))) for p in (layer.q_proj, layer.k_proj))
    value = layer.v_proj(hidden).unflatten(-1, (-1, 8))
    gates = layer.g_proj_2(torch.nn.functional.gelu(layer.g_proj_1(hidden)))
    gates = torch.sigmoid(gates / 0.3).view(*hidden.shape[:2], 7, 3)
    vision = torch.isin(inputs["input_ids"][0], torch.tensor([290, 291]))
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(t.transpose(1, 2) for t in (query, key, value)), is_causal=True, enable_gqa=True
    ).transpose(1, 2)
    packed = (t[:, vision] for t in (query, key, value, gates))
    expected[:, vision] = nsa_attention(*packed, block_size=4, block_count=2, window=6)
    assert relative_error(seen["output"], layer.o_proj(expected.flatten(2))) < 1e-5
    assert captured[0].layer == 0
    assert relative_error(captured[0].gates, gates[:, vision]) < 1e-5
    assert captured[0].query.shape == (1, int(vision.sum()), 7, 8)


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_sample_of_a_batch_is_as_alone(model, side):
    samples = [
        sample(*VIDEO_SAMPLE, seed=1),
        sample(*TEXT_SAMPLE, seed=2),
        sample(*MIXED_SAMPLE, seed=3),
        sample(("video", 1), seed=4),
    ]
    together = batch(samples, side)
    logits = model(**together).logits
    for row, one in enumerate(samples):
        alone = model(**one).logits[0]
        held = logits[row][together["attention_mask"][row].bool()]
        assert relative_error(held, alone) < 1e-5


def test_equal_samples_of_a_batch_are_as_alone(model):
    samples = [sample(*VIDEO_SAMPLE, seed=seed) for seed in range(3)]
    logits = model(**batch(samples, "right")).logits
    for row, one in enumerate(samples):
        assert relative_error(logits[row], model(**one).logits[0]) < 1e-5


def test_padding_gives_no_nan_gradient(model):
    inputs = batch([sample(*VIDEO_SAMPLE), sample(*TEXT_SAMPLE)], "left")
    weight = model.model.language_model.layers[0].self_attn.q_proj.weight.requires_grad_()
    model(**inputs).logits[inputs["attention_mask"].bool()].sum().backward()
    assert weight.grad.isfinite().all()
    weight.requires_grad_(False)
    weight.grad = None


def test_no_leak_through_the_model(model):
    inputs = sample(*VIDEO_SAMPLE)
    before = model(**inputs).logits
    changed = dict(inputs, pixel_values_videos=inputs["pixel_values_videos"].clone())
    changed["pixel_values_videos"][-16:] += 1.0  # the last of 8 patches: tokens 4 + 28 and later
    after = model(**changed).logits
    assert torch.equal(after[:, : 4 + 28], before[:, : 4 + 28])
    assert not torch.equal(after[:, -1], before[:, -1])


def test_generation_with_a_cache_equals_recomputing_the_prefill(model):
    inputs = sample(*MIXED_SAMPLE)
    prompt = inputs["input_ids"].shape[1]
    generated = model.generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=None)
    ids = inputs["input_ids"]
    for _ in range(8):
        types = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, ids.shape[1] - prompt))
        step = dict(inputs, input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=types)
        ids = torch.cat([ids, model(**step).logits[:, -1:].argmax(-1)], dim=1)
    assert generated.tolist() == ids.tolist()


def test_batched_generation_equals_each_alone(model):
    samples = [sample(*VIDEO_SAMPLE, seed=1), sample(*MIXED_SAMPLE, seed=2)]
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    together = model.generate(**batch(samples, "left"), **options)[:, -5:]
    for row, one in enumerate(samples):
        assert together[row].tolist() == model.generate(**one, **options)[0, -5:].tolist()


def test_vision_after_a_filled_cache_is_refused(model):
    first = model(**sample(*TEXT_SAMPLE), use_cache=True)
    later = sample(("video", 2))
    with pytest.raises(ValueError, match="first call"):
        model(**later | {"attention_mask": None}, past_key_values=first.past_key_values)


def test_embeddings_without_modality_are_refused(model):
    embeddings = torch.randn(1, 5, 56)
    with pytest.raises(ValueError, match="mm_token_type_ids"):
        model(inputs_embeds=embeddings)
    model(inputs_embeds=embeddings, mm_token_type_ids=torch.zeros(1, 5, dtype=torch.int))


@pytest.mark.parametrize("field", ["block_count", "window", "branches", "gate_mode", "gate_temperature"])
def test_a_live_change_changes_the_output_and_back(model, field):
    inputs = sample(*VIDEO_SAMPLE)
    before = model(**inputs).logits
    changes = {
        "block_count": {"block_count": 5},
        "window": {"window": 2},
        "branches": {"branches": "cmp+swa"},
        "gate_mode": {"gate_mode": "fixed", "gate_values": (1.0, 0.0, 0.5)},
        "gate_temperature": {"gate_temperature": 3.0},
    }
    settings = model.config.nsa
    model.set_nsa(**changes[field])
    assert not torch.equal(model(**inputs).logits, before)
    model.config.set_nsa(settings)
    assert torch.equal(model(**inputs).logits, before)


def test_more_blocks_than_there_are_chooses_all(model):
    inputs = sample(*VIDEO_SAMPLE)
    model.set_nsa(block_count=8)
    all_blocks = model(**inputs).logits
    model.set_nsa(block_count=10_000)
    assert torch.equal(model(**inputs).logits, all_blocks)


def test_static_gates_replace_the_dynamic_ones(model):
    inputs = sample(*VIDEO_SAMPLE)
    with pytest.raises(SettingsError, match="static_gates"):
        model.set_nsa(gate_mode="static")
    model.config.static_gates = [[[0.1 * layer + 0.01 * head, 0.5, 0.25] for head in range(7)] for layer in range(2)]
    model.set_nsa(gate_mode="static")
    with capture_attention(model) as captured:
        model(**inputs)
    expected = torch.tensor(model.config.static_gates[1]).expand(1, 32, 7, 3)
    assert torch.allclose(captured[1].gates, expected)


def test_bad_live_settings_change_nothing(model):
    before = model.config.nsa
    for fields, message in (
        ({"window": 0}, "window"),
        ({"blocks": 3}, "known settings: block_size"),
        ({"branches": "cmp+foo"}, "cmp, slc, swa"),
        ({"block_count": 3, "gate_mode": "static"}, "static_gates"),
    ):
        with pytest.raises(SettingsError, match=message):
            model.set_nsa(**fields)
        assert model.config.nsa == before


def test_training_with_checkpointing_equals_training_without(model):
    torch.manual_seed(0)
    twin = VideoNSAForConditionalGeneration(VideoNSAConfig(**STOCK, block_size=4, block_count=2, window=6)).train()
    inputs = sample(*VIDEO_SAMPLE)
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == VIDEO, -100)

    def gradients():
        twin.zero_grad()
        twin(**inputs, labels=labels, use_cache=False).loss.backward()
        return {name: p.grad.clone() for name, p in twin.named_parameters() if p.grad is not None}

    plain = gradients()
    twin.gradient_checkpointing_enable()
    again = gradients()
    assert plain.keys() == again.keys()
    assert any("g_proj_1" in name and grad.abs().sum() > 0 for name, grad in plain.items())
    assert all(torch.allclose(plain[name], again[name], atol=1e-6) for name in plain)


@pytest.mark.parametrize("kind", [VideoNSAModel, VideoNSAForConditionalGeneration])
def test_a_configuration_can_ask_for_checkpointing(kind):
    config = VideoNSAConfig(**STOCK)
    config.gradient_checkpointing = True
    parts = [module for module in kind(config).modules() if hasattr(module, "gradient_checkpointing")]
    assert parts
    assert all(part.gradient_checkpointing for part in parts)
