"""Generation: whatever the cache and the search, the answer is that of recomputing; generated tokens are text."""

from __future__ import annotations

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from tests.modeling.conftest import IMAGE, VIDEO, batch, positions_of, sample

PARTS = (("text", 2), ("video", 3), ("text", 4), ("image", 2), ("video", 5), ("text", 1))
GREEDY = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}


@pytest.fixture(params=["paper", "release"])
def either(model, request):
    model.set_nsa(semantics=request.param)
    return model


class Say(LogitsProcessor):
    """Puts given tokens into the answer, from its second token on."""

    def __init__(self, prompt: int, tokens: list[int]) -> None:
        self.places = {prompt + 1 + i: token for i, token in enumerate(tokens)}

    def __call__(self, input_ids, scores):
        if (token := self.places.get(input_ids.shape[1])) is not None:
            scores = torch.full_like(scores, -torch.inf)
            scores[:, token] = 0.0
        return scores


def saying(inputs, *tokens):
    return GREEDY | {"logits_processor": LogitsProcessorList([Say(inputs["input_ids"].shape[1], list(tokens))])}


@pytest.mark.parametrize("attention", ["nsa", "dense"])
def test_an_answer_goes_on_after_a_vision_token(either, attention):
    inputs = sample(*PARTS)
    either.set_nsa(attention=attention)
    answer = either.generate(**inputs, **saying(inputs, VIDEO, IMAGE, VIDEO))[0]
    assert answer[-5:-2].tolist() == [VIDEO, IMAGE, VIDEO]


@pytest.mark.parametrize("attention", ["nsa", "dense"])
def test_a_generated_vision_token_is_text_when_recomputed(model, attention):
    """In each row of a batch: the first row's generated tokens come before the second row's video."""
    inputs = batch([sample(*PARTS, seed=1), sample(("text", 2), ("video", 4), ("text", 3), seed=2)], "left")
    model.set_nsa(attention=attention)
    options = saying(inputs, VIDEO, IMAGE, VIDEO)
    again = model.generate(**inputs, **options, use_cache=False)
    assert again.tolist() == model.generate(**inputs, **options).tolist()


def test_vision_tokens_of_a_prompt_without_features_are_refused_as_in_stock(model):
    """More placeholders than features, and nothing that says they were generated: a mistake of the caller's."""
    inputs = sample(*PARTS)
    inputs["video_grid_thw"], inputs["pixel_values_videos"] = (
        inputs["video_grid_thw"][:1],
        inputs["pixel_values_videos"][:48],
    )
    with pytest.raises(ValueError, match="features and video tokens do not match"):
        model(**inputs)
    with pytest.raises(ValueError, match="features and video tokens do not match"):
        model(**inputs | {"mm_token_type_ids": None})


@pytest.mark.parametrize("kind", ["static", "dynamic"])  # offloaded ones need a GPU, quantized ones a package
def test_each_cache_gives_the_same_answer(either, kind):
    inputs = batch([sample(*PARTS, seed=1), sample(("text", 9), seed=2)], "left")
    expected = either.generate(**inputs, **GREEDY)
    assert either.generate(**inputs, **GREEDY, cache_implementation=kind).tolist() == expected.tolist()


def test_looking_up_the_prompt_gives_the_same_answer(either):
    inputs = sample(*PARTS)
    looked_up = either.generate(**inputs, **GREEDY, prompt_lookup_num_tokens=3)
    assert looked_up.tolist() == either.generate(**inputs, **GREEDY).tolist()


def test_beam_search_with_a_cache_equals_recomputing(model):
    inputs = batch([sample(*PARTS, seed=1), sample(("text", 2), ("video", 4), ("text", 3), seed=2)], "left")
    beams = GREEDY | {"num_beams": 3}
    assert model.generate(**inputs, **beams).tolist() == model.generate(**inputs, **beams, use_cache=False).tolist()


def test_embeddings_with_pixels_say_which_tokens_are_vision(either):
    inputs = sample(*PARTS)
    embeddings = either.get_input_embeddings()(inputs["input_ids"])
    expected = either(**inputs).logits
    pixels = {name: value for name, value in inputs.items() if name not in ("input_ids", "mm_token_type_ids")}
    positions = positions_of(either, inputs)[:, None]
    assert torch.equal(either(**pixels, inputs_embeds=embeddings, position_ids=positions).logits, expected)


def test_a_prefill_in_pieces_is_refused(model):
    inputs = sample(*PARTS)
    first = {name: inputs[name][:, :20] for name in ("input_ids", "attention_mask", "mm_token_type_ids")}
    rest = inputs | {"input_ids": inputs["input_ids"][:, 20:]}
    cache = model(input_ids=first["input_ids"][:, :2]).past_key_values
    with pytest.raises(ValueError, match="first call"):
        model(**rest, past_key_values=cache)


def test_features_that_were_encoded_before_give_the_same_answer(either):
    inputs = sample(*PARTS)
    expected = either.generate(**inputs, **GREEDY)
    logits = either(**inputs).logits
    core = either.model
    encoded = {
        "image": core.get_image_features(inputs.pop("pixel_values"), inputs["image_grid_thw"], return_dict=True),
        "video": core.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"], return_dict=True),
    }
    with pytest.raises(ValueError, match="one too many"):
        either(**inputs, mm_encoder_outputs=dict(encoded))
    del inputs["pixel_values_videos"]
    assert either.generate(**inputs, **GREEDY, mm_encoder_outputs=dict(encoded)).tolist() == expected.tolist()
    assert torch.equal(either(**inputs, mm_encoder_outputs=dict(encoded)).logits, logits)
    unnamed = {name: value for name, value in inputs.items() if name != "mm_token_type_ids"}
    assert torch.equal(either(**unnamed, mm_encoder_outputs=dict(encoded)).logits, logits)
