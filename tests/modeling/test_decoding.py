"""Decoding without gaps: the tokens of transformers' own loop, whatever the caches hold. Here without a graph."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import TOLERANCE, relative_error
from tests.modeling.conftest import batch, sample
from videonsa.modeling import decoding
from videonsa.modeling.decoding import Decoder, prompts_of

PARTS = (("text", 2), ("video", 3), ("text", 4), ("image", 2), ("video", 5), ("text", 1))
GREEDY = {"max_new_tokens": 7, "do_sample": False, "eos_token_id": None}
ROWS = [sample(*PARTS, seed=1), sample(("text", 9), seed=2), sample(("text", 2), ("video", 4), ("text", 3), seed=3)]


@pytest.fixture
def ways(model, monkeypatch):
    """generate() by either loop, and that the new one was used or not."""
    model.generation_config.pad_token_id = 0
    used = []
    advance = Decoder.advance
    monkeypatch.setattr(Decoder, "advance", lambda self, model: used.append(1) or advance(self, model))

    def generate(fast, inputs, steps=True, **options):
        monkeypatch.setattr(decoding, "on_one_gpu", lambda model: fast)
        monkeypatch.setattr(decoding.tiling, "HEAD_SIZES", (8,))
        used.clear()
        output = model.generate(**inputs, **{**GREEDY, **options})
        assert bool(used) == (fast and steps)
        return output.tolist()

    return generate


@pytest.mark.parametrize("method", ["paper", "release", "dense", "fastv", "visionzip"])
@pytest.mark.parametrize("rows", [ROWS[:1], ROWS], ids=["one", "padded"])
def test_tokens_are_those_of_the_stock_loop(model, ways, rows, method):
    fields = {"fastv": {"layer": 1, "keep": 0.4}, "visionzip": {"dominant": 0.3, "contextual": 0.1}}.get(method, {})
    model.set_method(method, **fields)
    inputs = batch(rows, "left")
    assert ways(True, inputs) == ways(False, inputs)


def test_a_static_cache_serves_as_well(ways):
    inputs = batch(ROWS, "left")
    assert ways(True, inputs, cache_implementation="static") == ways(False, inputs)


def test_rows_end_each_for_itself_and_the_answer_with_the_last(ways):
    inputs = batch(ROWS, "left")
    whole = ways(False, inputs)
    for row, at in ((0, -7), (1, -5), (2, -1)):  # the first token of an answer, one amid it, the last
        end = whole[row][at]
        assert ways(True, inputs, eos_token_id=end) == ways(False, inputs, eos_token_id=end)
    firsts = [row[-7] for row in whole]
    assert ways(True, inputs, steps=False, eos_token_id=firsts) == ways(False, inputs, eos_token_id=firsts)


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True, "top_k": 1},
        {"repetition_penalty": 1.1},
        {"num_beams": 2},
        {"return_dict_in_generate": True, "output_logits": True},
        {"use_cache": False},
        {"prompt_lookup_num_tokens": 2},
    ],
    ids=lambda options: "-".join(options),
)
def test_what_asks_for_more_goes_the_usual_way(model, monkeypatch, options):
    monkeypatch.setattr(decoding, "on_one_gpu", lambda model: True)
    monkeypatch.setattr(decoding.tiling, "HEAD_SIZES", (8,))
    monkeypatch.setattr(Decoder, "advance", lambda *_: pytest.fail("not served"))
    model.generate(**ROWS[0], **{**GREEDY, **options})


def test_a_callers_cache_is_filled_by_the_usual_way(model, monkeypatch):
    from transformers import DynamicCache

    monkeypatch.setattr(decoding, "on_one_gpu", lambda model: True)
    monkeypatch.setattr(Decoder, "advance", lambda *_: pytest.fail("not served"))
    cache = DynamicCache(config=model.config.text_config)
    model.generate(**ROWS[1], **GREEDY, past_key_values=cache)
    assert cache.get_seq_length() == 9 + 6


def test_a_decoder_of_before_answers_the_next_prompt(model, ways):
    """As a captured graph would: the same memory, another prompt, another length, other ends."""
    for rows, method in ((ROWS[:1], "paper"), (ROWS[1:2], "dense"), (ROWS[2:], "paper")):
        model.set_method(method)
        inputs = batch(rows, "left")
        expected = ways(False, inputs)
        assert ways(True, inputs) == expected
        decoder = decoding.decoder_of(model, 1, decoding.ROOM)
        assert not decoder.prompts.held  # a cache of gigabytes, beside that of the next question
        assert decoder.said[0, :7].tolist() == expected[0][-7:]


def test_a_decoder_serves_shorter_answers_and_a_longer_one_gets_another(model):
    first = decoding.decoder_of(model, 1, 512)
    assert decoding.decoder_of(model, 1, 256) is first
    assert decoding.decoder_of(model, 2, 256) is not first
    longer = decoding.decoder_of(model, 2, 512)
    assert longer.said.shape == (2, 512)


def test_a_steps_hidden_states_are_the_models_own(model):
    """Not only the token: the logits of a step are those of the model's forward over its cache."""
    inputs = batch(ROWS, "left")
    logits = []
    hook = model.lm_head.register_forward_hook(lambda layer, args, output: logits.append(output.float()))
    try:
        output = model(**inputs)
        token, mask = output.logits[:, -1].argmax(-1), inputs["attention_mask"]
        positions = torch.full((3, 3, 1), 40)
        decoder = Decoder(model, 3, 8)
        decoder.begin(prompts_of(output.past_key_values, mask), token, positions, [], 0)
        decoder.advance(model)
        model(
            input_ids=token[:, None],
            attention_mask=torch.nn.functional.pad(mask, (0, 1), value=1),
            position_ids=positions,
            past_key_values=output.past_key_values,
        )
    finally:
        hook.remove()
    assert relative_error(logits[1], logits[2][:, 0]) < TOLERANCE[torch.float32]


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["paper", "release", "dense", "fastv"])
@pytest.mark.parametrize("rows", [1, 3], ids=["one", "padded"])
def test_on_a_card_a_graph_says_what_the_stock_loop_says(rows, method, monkeypatch):
    from tests.modeling.conftest import STOCK
    from videonsa.modeling import VideoNSAConfig, VideoNSAForConditionalGeneration

    torch.manual_seed(0)
    text = {**STOCK["text_config"], "hidden_size": 112, "num_attention_heads": 7}
    vision = {**STOCK["vision_config"], "out_hidden_size": 112}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}
    config = VideoNSAConfig(
        **{**STOCK, "text_config": {**text, "rope_parameters": rope}, "vision_config": vision},
        block_size=16, block_count=1, window=6,
    )  # fmt: skip
    model = VideoNSAForConditionalGeneration(config).eval().cuda()
    model.set_method(method, **({"layer": 1, "keep": 0.4} if method == "fastv" else {}))
    inputs = {name: value.cuda() for name, value in batch(ROWS[:rows], "left").items()}
    options = GREEDY | {"pad_token_id": 0}
    fast = model.generate(**inputs, **options)
    decoder = decoding.decoder_of(model, rows, decoding.ROOM)
    assert decoder.graph is not None
    again = model.generate(**inputs, **options)
    assert decoding.decoder_of(model, rows, decoding.ROOM) is decoder
    monkeypatch.setattr(decoding, "on_one_gpu", lambda model: False)
    slow = model.generate(**inputs, **options)
    assert fast.tolist() == again.tolist() == slow.tolist()
