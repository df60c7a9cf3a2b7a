"""Methods that drop tokens, in the model: positions, caches of different length, masks, decoding, batches."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from threading import get_ident

import pytest
import torch
from torch.nn.functional import pad
from transformers import DynamicCache, StaticCache

from tests.helpers import TOLERANCE, relative_error
from tests.modeling.conftest import batch, pack, positions_of, sample
from videonsa.config import SettingsError
from videonsa.methods import compression, fastv, random_tokens, tower, vscan
from videonsa.methods.meter import Clock
from videonsa.methods.registry import load, make
from videonsa.modeling import metered

CLOSE = TOLERANCE[torch.float32]
GREEDY = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
PARTS = (("text", 2), ("video", 3), ("text", 4), ("image", 2), ("video", 5), ("text", 3))
SHORT = (("text", 3), ("video", 4), ("text", 2))

HALF = {
    "fastv": {"layer": 1, "keep": 0.4},
    "vscan": {"keep": 0.5, "layer": 1, "layer_keep": 0.5},
    "visionzip": {"dominant": 0.5, "contextual": 0.25},
    "random_tokens": {"keep": 0.4},
    "uniform_tokens": {"keep": 0.4},
    "text_alone": {},
}
ALL = {
    "fastv": {"layer": 1, "keep": 1.0},
    "vscan": {"keep": 1.0, "layer": 1, "layer_keep": 1.0},
    "visionzip": {"dominant": 1.0},
    "random_tokens": {"keep": 1.0},
    "uniform_tokens": {"keep": 1.0},
}


@pytest.fixture(params=HALF)
def method(request, model):
    """The name of a method that the model is set to."""
    model.set_method(make(request.param, HALF[request.param]))
    return request.param


@pytest.fixture
def settled(monkeypatch):
    """What is kept does not depend on tokens that were generated since: of each choice the first holds."""
    first = {}

    def settle(name):
        def choose(tokens, scores, count):
            rows = compression.by_row(tokens)
            if name not in first:
                mask = compression.keep_highest(tokens, scores, count)
                first[name] = [mask[row, places] for row, (places, _) in enumerate(rows)]
            mask = torch.zeros_like(tokens.is_token)
            for row, (places, _) in enumerate(rows):
                mask[row, places] = pad(first[name][row], (0, len(places) - len(first[name][row])), value=True)
            return mask

        return choose

    for module in (fastv, vscan):
        monkeypatch.setattr(module, "keep_highest", settle(module.__name__))
    monkeypatch.setattr(random_tokens, "seed_of", lambda seed, content: seed)


def left(states):
    """Which tokens a prefill had at its end: bool [B, L]; padding counts as left."""
    return ~states.isnan().any(dim=-1)


def embeddings(model, inputs):
    """The prompt's embeddings, features in their places, [1, L, hidden]."""
    core, held = model.model, {}
    hook = core.language_model.register_forward_pre_hook(lambda m, a, k: held.update(k), with_kwargs=True)
    core(**inputs)
    hook.remove()
    return held["inputs_embeds"], held["position_ids"]


def two_rows(side):
    return batch([sample(*PARTS, seed=1), sample(*SHORT, seed=2)], side)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("side", ["left", "right"])
def test_to_keep_all_is_dense(model, name, side):
    inputs = two_rows(side)
    model.set_nsa(attention="dense")
    expected = model(**inputs).logits
    model.set_method(make(name, ALL[name]))
    mask = inputs["attention_mask"].bool()
    assert relative_error(model(**inputs).logits[mask], expected[mask]) < CLOSE
    if side == "left":
        answer = model.generate(**inputs, **GREEDY)
        model.set_method(None)
        assert answer.tolist() == model.generate(**inputs, **GREEDY).tolist()


@pytest.mark.parametrize("name", ["random_tokens", "uniform_tokens"])
def test_what_is_kept_keeps_its_positions(model, name):
    """Dense attention over the kept tokens' embeddings, at the positions that they have in the whole prompt."""
    inputs = sample(*PARTS)
    model.set_nsa(attention="dense")
    embeds, positions = embeddings(model, inputs)
    model.set_method(make(name, HALF[name]))
    states = model.model(**inputs).last_hidden_state
    kept = left(states)[0]
    assert int((~kept).sum()) == 40 - 16
    assert kept[inputs["mm_token_type_ids"][0] == 0].all()
    expected = model.model.language_model(
        inputs_embeds=embeds[:, kept], position_ids=positions[-3:, :, kept], use_cache=False
    ).last_hidden_state
    assert relative_error(states[:, kept], expected) < CLOSE


def test_text_alone_is_the_decoder_on_the_texts_tokens_where_they_stand(model):
    """Whatever is shown."""
    inputs = sample(*PARTS)
    model.set_nsa(attention="dense")
    embeds, positions = embeddings(model, inputs)
    is_text = inputs["mm_token_type_ids"][0] == 0
    expected = model.model.language_model(
        inputs_embeds=embeds[:, is_text], position_ids=positions[-3:, :, is_text], use_cache=False
    ).last_hidden_state
    model.set_method(make("text_alone", {}))
    states = model.model(**inputs).last_hidden_state
    assert left(states)[0].equal(is_text)
    assert relative_error(states[:, is_text], expected) < CLOSE
    other = inputs | {name: torch.rand_like(inputs[name]) for name in ("pixel_values", "pixel_values_videos")}
    assert model.model(**other).last_hidden_state[:, is_text].equal(states[:, is_text])
    assert model.generate(**other, **GREEDY).tolist() == model.generate(**inputs, **GREEDY).tolist()


def test_fastv_by_the_weights_of_eager_attention(model):
    """The last token's weights in layer 0, as stock eager layers report them; then layer 1 on what is left."""
    inputs = sample(*PARTS)
    model.set_nsa(attention="dense")
    embeds, positions = embeddings(model, inputs)
    eager = copy.deepcopy(model.model.language_model)
    eager.set_attn_implementation("eager")
    watched = {"output_attentions": True, "output_hidden_states": True, "use_cache": False}
    dense = eager(inputs_embeds=embeds, position_ids=positions[-3:], **watched)
    is_vision = inputs["mm_token_type_ids"][0] > 0
    scores = dense.attentions[0][0, :, -1].mean(dim=0)
    highest = is_vision.nonzero()[scores[is_vision].topk(16).indices]
    kept = ~is_vision
    kept[highest] = True

    narrow = dense.hidden_states[1][:, kept]
    rotary = eager.rotary_emb(narrow, positions[-3:, :, kept])
    mask = torch.full((1, 1, *(2 * [int(kept.sum())])), float("-inf")).triu(1)
    expected = eager.norm(eager.layers[1](narrow, attention_mask=mask, position_embeddings=rotary))

    model.set_method(make("fastv", HALF["fastv"]))
    states = model.model(**inputs).last_hidden_state
    assert torch.equal(left(states)[0], kept)
    assert relative_error(states[:, kept], expected) < CLOSE


@pytest.mark.parametrize(
    "settings",
    [
        make("visionzip", {"dominant": 0.3, "contextual": 0.2}),
        make("vscan", {"keep": 0.4, "layer": 1, "layer_keep": 1.0}),
    ],
    ids=lambda settings: settings.name,
)
def test_each_temporal_patch_is_merged_by_the_towers_attention(model, settings):
    """Frames of several windows: the tower orders tokens by window, the prompt by row. Each patch is merged here from
    what the tower says of it alone; then dense attention over what is left, at the positions of the prompt."""
    sizes = {"image": [(1, 6, 9)], "video": [(3, 5, 10), (2, 2, 2)]}
    inputs = sample(("text", 2), ("video", (3, 5, 10)), ("image", (1, 6, 9)), ("video", (2, 2, 2)), ("text", 3))
    model.set_nsa(attention="dense")
    embeds, positions = embeddings(model, inputs)
    kind, visual = inputs["mm_token_type_ids"][0], model.model.visual
    method = load(settings.entry)(settings, model.config)
    kept, merged = kind == 0, embeds.clone()
    for name, value, pixels in (("image", 1, "pixel_values"), ("video", 2, "pixel_values_videos")):
        places, patches = (kind == value).nonzero()[:, 0], inputs[pixels]
        for time, height, width in sizes[name]:
            for _ in range(time):
                count = height * width
                with method.watch(settings, visual) as seen:
                    visual(patches[: 4 * count], grid_thw=torch.tensor([[1, 2 * height, 2 * width]]))
                here = {key: found[None] for key, found in seen.items()}
                chosen, made = method.merge(embeds[:, places[:count]], here, (height, width))
                merged[0, places[chosen[0]]] = made[0]
                kept[places[chosen[0]]] = True
                places, patches = places[count:], patches[4 * count :]
    expected = model.model.language_model(
        inputs_embeds=merged[:, kept], position_ids=positions[-3:, :, kept], use_cache=False
    ).last_hidden_state

    model.set_method(settings)
    states = model.model(**inputs).last_hidden_state
    assert torch.equal(left(states)[0], kept)
    assert relative_error(states[:, kept], expected) < CLOSE


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_row_is_what_it_is_alone(model, method, side):
    """Beside a longer one, a shorter one, and one of text alone."""
    rows = [sample(*PARTS, seed=1), sample(("text", 9), seed=4), sample(*SHORT, seed=2)]
    both = model.model(**batch(rows, side)).last_hidden_state
    for row, one in enumerate(rows):
        alone = model.model(**one).last_hidden_state[0]
        span = slice(-len(alone), None) if side == "left" else slice(0, len(alone))
        here = both[row, span]
        assert torch.equal(left(here), left(alone))
        assert relative_error(here[left(here)], alone[left(alone)]) < CLOSE
        outside = both[row, : -len(alone)] if side == "left" else both[row, len(alone) :]
        assert (outside == 0).all()


def test_a_row_of_padding_alone_is_nothing(model, method):
    inputs = two_rows("left")
    expected = model.model(**inputs).last_hidden_state
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        inputs[name] = pad(inputs[name], (0, 0, 0, 1))
    states = model.model(**inputs).last_hidden_state
    assert torch.equal(left(states[:2]), left(expected))
    assert (states[2] == 0).all()


def test_two_threads_ask_one_model(model, method):
    """Each finds in the tower what its own call computed, while the other's call is under way there."""
    rows = sample(*PARTS, seed=1), sample(*SHORT, seed=2)
    alone = [model.model(**row).last_hidden_state for row in rows]
    with ThreadPoolExecutor(1) as other, pause_in_tower(model, lambda: other.submit(lambda: model.model(**rows[1]))):
        states = model.model(**rows[0]).last_hidden_state
    assert torch.equal(states.nan_to_num(7), alone[0].nan_to_num(7))


@contextmanager
def pause_in_tower(model, start):
    """While this thread's call is in the tower, another thread's runs from beginning to end."""
    here = get_ident()

    def pause(module, args):
        if get_ident() == here:
            start().result()

    hook = model.model.visual.blocks[0].register_forward_pre_hook(pause)
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_decoding_equals_recomputing(model, method, settled, cache):
    """Rows that keep different counts; caches that differ in length by layer."""
    inputs = batch([sample(*PARTS, seed=1), sample(("text", 9), seed=4), sample(*SHORT, seed=2)], "left")
    again = model.generate(**inputs, **GREEDY, use_cache=False)
    answer = model.generate(**inputs, **GREEDY, cache_implementation=cache)
    assert answer.tolist() == again.tolist()
    model.set_method(None)
    model.set_nsa(attention="dense")
    assert answer.tolist() != model.generate(**inputs, **GREEDY).tolist()


def test_beams_and_looking_up_the_prompt(model, method, settled):
    beams = GREEDY | {"num_beams": 3}
    inputs = two_rows("left")
    if method not in ("fastv", "vscan"):  # what `settled` keeps knows of no beams
        assert model.generate(**inputs, **beams).tolist() == model.generate(**inputs, **beams, use_cache=False).tolist()
    alone = sample(*SHORT, seed=2)
    looked_up = model.generate(**alone, **GREEDY, prompt_lookup_num_tokens=3)
    assert looked_up.tolist() == model.generate(**alone, **GREEDY).tolist()


def test_each_step_equals_recomputing(model, method, settled):
    """By hand, without generate: logits of every token behind the prompt, two at a time, and where a row is padded."""
    inputs = two_rows("left")
    more = torch.randint(3, 200, (2, 4), generator=torch.Generator().manual_seed(5))
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    prefill = model(**inputs, use_cache=True)
    cache, steps = prefill.past_key_values, []
    for at in (0, 2):
        seen = pad(mask, (0, at + 2), value=1)
        step = model(input_ids=more[:, at : at + 2], attention_mask=seen, past_key_values=cache, use_cache=True)
        steps.append(step.logits)
    longer = {"input_ids": torch.cat([ids, more], dim=1), "attention_mask": pad(mask, (0, 4), value=1)}
    longer["mm_token_type_ids"] = pad(inputs["mm_token_type_ids"], (0, 4))
    whole = model(**inputs | longer, use_cache=False).logits[:, -4:]
    assert relative_error(torch.cat(steps, dim=1), whole) < CLOSE


def test_a_cache_holds_what_entered_its_layer(model):
    model.set_method(make("vscan", HALF["vscan"]))
    cache = model(**sample(*PARTS), use_cache=True).past_key_values
    vision, text = 40, 2 + 4 + 3 + 6  # with the tokens around each
    assert [cache.get_seq_length(layer) for layer in (0, 1)] == [text + vision // 2, text + vision // 4]


@pytest.mark.parametrize("parts", [(("text", 7),), SHORT], ids=["text", "all-kept"])
@pytest.mark.parametrize("kind", [DynamicCache, partial(StaticCache, max_cache_len=64)], ids=["dynamic", "static"])
def test_an_emptied_cache_serves_another_prompt(model, method, parts, kind):
    cache = kind(config=model.config)
    model(**sample(*PARTS), past_key_values=cache)
    cache.reset()
    if cache.get_seq_length():
        pytest.skip("this transformers (5.17 does) makes zeros of what a dynamic cache holds, and keeps them all")
    model.set_method(make(method, ALL.get(method, {})))
    prompt = sample(*parts)
    again = model(**prompt, past_key_values=cache).logits
    step = model(input_ids=torch.tensor([[5]]), past_key_values=cache).logits
    types = pad(prompt["mm_token_type_ids"], (0, 1))
    longer = {
        "input_ids": pad(prompt["input_ids"], (0, 1), value=5),
        "attention_mask": None,
        "mm_token_type_ids": types,
    }
    whole = model(**prompt | longer).logits
    assert relative_error(torch.cat([again, step], dim=1)[left(whole)], whole[left(whole)]) < CLOSE


def test_the_meter_adds_up(model, method):
    """Tokens and pairs by layer, of two rows, counted here."""
    inputs = two_rows("left")
    with metered(model) as meters:
        model(**inputs)
    (report,) = [meter.report() for meter in meters]
    vision, text, patches = (40, 16), (15, 7), ([4] * 3 + [8] + [4] * 5, [4] * 4)
    kept = {
        "fastv": (vision, [round(0.4 * n) for n in vision]),
        "vscan": ([n // 2 for n in vision], [n // 4 for n in vision]),
        "visionzip": 2 * ([sum(n // 2 + n // 4 for n in each) for each in patches],),
        "random_tokens": 2 * ([round(0.4 * n) for n in vision],),
        "uniform_tokens": 2 * ([round(0.4 * n) for n in vision],),
        "text_alone": 2 * ([0, 0],),
    }[method]
    lengths = [[n + other for n, other in zip(layer, text, strict=True)] for layer in kept]
    pairs = [sum(n * (n + 1) // 2 for n in layer) for layer in lengths]
    dense = sum(n * (n + 1) // 2 for n in (55, 23))
    assert report["tokens"] == [sum(layer) for layer in lengths]
    assert report["density"] == pytest.approx([n / dense for n in pairs], abs=1e-6)
    assert report["choice_ms"] > 0


def test_reading_the_tower_is_time_of_the_choice(model, monkeypatch):
    """Also where generate encodes before the prefill; images and videos are encoded one after the other."""
    milliseconds = {}

    class Slow(Clock):
        @contextmanager
        def running(self):
            yield
            self.seconds += 100.0

    monkeypatch.setattr(tower, "Clock", Slow)
    model.set_method(make("visionzip", HALF["visionzip"]))
    inputs = sample(*PARTS)
    for name, run in (("forward", model), ("generate", lambda **given: model.generate(**given, **GREEDY))):
        with metered(model) as meters:
            run(**inputs)
        milliseconds[name] = meters[0].report()["choice_ms"]
    assert all(2e5 < each < 2.5e5 for each in milliseconds.values()), milliseconds


def test_a_draw_is_by_the_question(model):
    """Beside another question or alone, first or second; another video or another text draws otherwise."""
    model.set_method(make("random_tokens", HALF["random_tokens"]))

    def kept(inputs):
        return left(model.model(**inputs).last_hidden_state)

    one = sample(*SHORT, seed=2)
    assert torch.equal(kept(one), kept(one))
    assert torch.equal(kept(batch([one, sample(*SHORT, seed=3)], "left"))[0], kept(one)[0])
    assert torch.equal(kept(batch([sample(*SHORT, seed=3), one], "left"))[1], kept(one)[0])
    other_video = one | {"pixel_values_videos": sample(*SHORT, seed=3)["pixel_values_videos"]}
    other_text = one | {"input_ids": sample(*SHORT, seed=3)["input_ids"]}
    assert not torch.equal(kept(other_video), kept(one))
    assert not torch.equal(kept(other_text), kept(one))


def test_embeddings_with_pixels_are_served(model, method):
    inputs = sample(*PARTS)
    expected = model.model(**inputs).last_hidden_state
    given = {name: value for name, value in inputs.items() if name not in ("input_ids", "mm_token_type_ids")}
    given |= {"inputs_embeds": model.get_input_embeddings()(inputs["input_ids"])}
    states = model.model(**given, position_ids=positions_of(model, inputs)[:, None]).last_hidden_state
    assert left(states).sum() == left(expected).sum()
    if method != "random_tokens":  # whose draw is by the ids
        assert torch.equal(left(states), left(expected))


def test_a_loss_is_of_tokens_that_are_left(model, method):
    """Labels of the text behind the last video; one of a dropped token has no logits."""
    inputs = sample(*PARTS)
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -2:] = inputs["input_ids"][:, -2:]
    assert model(**inputs, labels=labels).loss.isfinite()


def test_packed_rows_and_training_are_refused(model, method):
    one, other = sample(*SHORT, seed=1), sample(*SHORT, seed=2)
    with pytest.raises(ValueError, match=f"method {method} drops tokens of prompts that have a row each"):
        model(**pack(model, [[one, other]]))
    model.train()
    try:
        with pytest.raises(ValueError, match=f"method {method} is free of training"):
            model(**one)
    finally:
        model.eval()


def test_features_of_another_tower_are_refused(model):
    model.set_method(make("visionzip", HALF["visionzip"]))
    inputs = sample(*SHORT)
    encoded = model.model.get_video_features(inputs.pop("pixel_values_videos"), inputs["video_grid_thw"])
    model(**inputs, mm_encoder_outputs={"video": encoded})
    encoded.pooler_output = [features.clone() for features in encoded.pooler_output]
    with pytest.raises(
        ValueError, match="16 tokens of the prompt's videos and 0 that the vision tower was watched for"
    ):
        model(**inputs, mm_encoder_outputs={"video": encoded})


@pytest.mark.parametrize("name", ["fastv", "vscan"])
def test_a_layer_that_is_not_there_is_refused(model, name):
    with pytest.raises(
        SettingsError, match=rf"{name}.layer=2 is not valid: the model has 2 layers, so give one from 1"
    ):
        model.set_method(make(name, HALF[name] | {"layer": 2}))
    assert model.config.method is None


def test_an_answer_is_not_gone_on_with_where_the_first_layer_lost_tokens(model, settled):
    inputs = sample(*SHORT)
    for name, refused in (("uniform_tokens", True), ("fastv", False)):
        model.set_method(make(name, HALF[name]))
        first = model.generate(**inputs, **GREEDY, return_dict_in_generate=True)
        text = {"input_ids": pad(first.sequences, (0, 2), value=7)}
        text["attention_mask"] = torch.ones_like(text["input_ids"])
        if refused:
            with pytest.raises(ValueError, match="lost tokens before the first layer"):
                model.generate(**text, **GREEDY, past_key_values=first.past_key_values)
            continue
        again = model.generate(**text, **GREEDY, past_key_values=first.past_key_values)
        pixels = {key: inputs[key] for key in ("pixel_values_videos", "video_grid_thw", "second_per_grid_ts")}
        types = pad(inputs["mm_token_type_ids"], (0, 8))
        assert again.tolist() == model.generate(**text, **pixels, mm_token_type_ids=types, **GREEDY).tolist()


def test_a_mask_of_another_length_is_refused(model):
    model.set_method(make("fastv", HALF["fastv"]))
    cache = model(**sample(*SHORT), use_cache=True).past_key_values
    with pytest.raises(ValueError, match="an attention mask of 30 tokens; prompt and answer are 24"):
        model(input_ids=torch.tensor([[5]]), attention_mask=torch.ones(1, 30), past_key_values=cache)
