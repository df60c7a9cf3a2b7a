"""The contract: what the model asks of a method, what a method reports, and that none passes dense off as its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.helpers import TOLERANCE, relative_error
from tests.modeling.conftest import PAD, VIDEO, model, shared_model  # noqa: F401
from videonsa.config import NSASettings, SettingsError
from videonsa.methods import registry
from videonsa.methods.asked import asked_attention
from videonsa.methods.contract import Method, dense_attention, make_batch
from videonsa.methods.entries import Entry
from videonsa.methods.paper import count_pairs
from videonsa.modeling import MethodDidNotRun, VideoNSAForConditionalGeneration, metered

EXACT = TOLERANCE[torch.float32]


def prompt(padding: int = 0) -> dict[str, Tensor]:
    """Two rows: 3 + 8 vision + 4 tokens, and one that is shorter by so much padding on the left."""
    ids = torch.randint(3, 280, (2, 15), generator=torch.Generator().manual_seed(0))
    ids[:, 4:12] = VIDEO
    mask = torch.ones_like(ids)
    if padding:
        ids[1, :padding], mask[1, :padding] = PAD, 0
    pixels = torch.randn(2 * 32, 3 * 2 * 14 * 14, generator=torch.Generator().manual_seed(1))
    grids = torch.tensor([[2, 4, 4], [2, 4, 4]])
    return {"input_ids": ids, "attention_mask": mask, "pixel_values_videos": pixels, "video_grid_thw": grids}


@pytest.mark.parametrize("padding", [0, 3])
def test_dense_attention_that_is_looked_at_equals_the_stock_layers(
    model: VideoNSAForConditionalGeneration,  # noqa: F811
    padding: int,
) -> None:
    model.set_nsa(attention="dense")
    inputs = prompt(padding)
    stock = model(**inputs).logits
    with metered(model) as meters:
        seen = model(**inputs).logits
    shown = inputs["attention_mask"].bool()
    assert relative_error(seen[shown], stock[shown]) < EXACT
    report = meters[0].report()
    assert report["method"] == "dense"
    assert report["density"] == [1.0, 1.0]
    assert report["tokens"] == [30 - padding] * 2
    assert report["choice_ms"] is None
    assert report["attention_ms"] > 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("which", ["key", "value"])
def test_dense_attention_of_a_method_lets_no_nan_reach_an_earlier_token(which: str, value: float) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(9, heads, 8, generator=generator) for name, heads in (("query", 6), ("key", 2), ("value", 2))
    }
    expected = dense_attention(**tensors, scale=0.3)
    tensors[which][5, 1, 3] = value
    output = dense_attention(**tensors, scale=0.3)
    assert torch.equal(output[:5], expected[:5])
    assert torch.equal(output[5:, :3], expected[5:, :3])  # the heads of the other group
    assert output[5:, 3:].isnan().all()


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("paper", {}),
        ("tri_shape", {"n_local": 99}),
        ("visionzip", {"dominant": 0.5}),
        ("uniform_tokens", {"keep": 0.5}),
    ],
)
def test_a_nan_in_a_token_spoils_no_logits_before_it(
    model: VideoNSAForConditionalGeneration,  # noqa: F811
    name: str,
    fields: dict[str, float],
) -> None:
    model.set_method(name, **fields)
    inputs = one()
    expected = model(**inputs).logits[0]
    hook = model.get_input_embeddings().register_forward_hook(
        lambda module, args, output: output.masked_fill(torch.arange(15)[:, None] == 13, torch.nan)
    )
    spoilt = model(**inputs).logits[0]
    hook.remove()
    kept = ~expected.isnan().any(-1)
    assert relative_error(spoilt[:13][kept[:13]], expected[:13][kept[:13]]) < EXACT
    assert spoilt[13:].isnan().all()


def test_a_layer_in_which_a_method_did_not_run_is_an_error(
    model: VideoNSAForConditionalGeneration,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Lazy(Method):
        def attend(self, call):  # type: ignore[no-untyped-def]
            if call.layer == 0:
                return super().attend(call)
            return dense_attention(call.query[0], call.key[0], call.value[0], call.scale)[None]

    monkeypatch.setattr(registry, "load", lambda entry: Lazy)
    with metered(model) as meters:
        model(**{name: value[:1] if value.dim() == 2 and len(value) == 2 else value for name, value in one().items()})
    with pytest.raises(MethodDidNotRun, match="ran in 1 of 2 layers; not in 1"):
        meters[0].report()


def one() -> dict[str, Tensor]:
    """The first row of `prompt`."""
    inputs = prompt()
    return {
        "input_ids": inputs["input_ids"][:1],
        "attention_mask": inputs["attention_mask"][:1],
        "pixel_values_videos": inputs["pixel_values_videos"][:32],
        "video_grid_thw": inputs["video_grid_thw"][:1],
    }


def test_what_nsa_computes_counted_by_hand(model: VideoNSAForConditionalGeneration) -> None:  # noqa: F811
    model.set_nsa(block_size=4, block_count=1, window=2)
    with metered(model) as meters:
        model(**one())
    report = meters[0].report()
    vision = sum(min(t + 1, t % 4 + 1 + min(t + 1, 2)) for t in range(8))  # its own block up to it, and the window
    text = sum(position + 1 for position in range(15) if not 4 <= position < 12)
    assert report["density"] == pytest.approx([(vision + text) / 120] * 2, abs=1e-6)
    assert report["block_means"] == pytest.approx([sum((t + 1) // 4 for t in range(8)) / 120] * 2, abs=1e-6)


def test_budgets_as_long_as_the_prompt_say_density_1() -> None:
    batch = make_batch(torch.ones(1, 50, dtype=torch.bool))
    whole = NSASettings(block_size=4, block_count=13, window=50)
    assert count_pairs(batch, whole, packed=True)[0] == 50 * 51 / 2
    assert count_pairs(batch, NSASettings(block_size=4, branches=("cmp",)), packed=True)[0] == 0


def test_names_say_the_same_as_fields_of_nsa() -> None:
    assert asked_attention({"window": 8}, None, {}) == ({"window": 8}, None)
    assert asked_attention({}, "dense", {})[0] == {"attention": "dense"}
    assert asked_attention({}, "paper", {})[0] == {"attention": "nsa", "semantics": "paper"}
    assert asked_attention({"semantics": "cmp_mask"}, "release", {})[0]["semantics"] == "cmp_mask"
    for nsa, name, message in (
        ({"attention": "nsa"}, "dense", "nsa.attention='nsa' is not valid: method='dense' means attention=dense"),
        ({"semantics": "grid_seconds"}, "release", "it is what method paper means"),
        ({}, "dens", "method='dens' is not valid: choose one of paper, release, dense.*; did you mean dense"),
    ):
        with pytest.raises(SettingsError, match=message):
            asked_attention(nsa, name, {})


def test_every_entry_runs_a_method_of_its_own() -> None:
    for name, entry in registry.entries().items():
        assert isinstance(entry, Entry)
        assert entry.name == name
        assert issubclass(registry.load(entry), Method)
        assert (registry.load(entry).__doc__ or "").strip()
        assert (entry.settings.__doc__ or "").strip()


def test_a_live_model_takes_a_method_by_name_and_gives_it_up(model: VideoNSAForConditionalGeneration) -> None:  # noqa: F811
    model.set_method("random_tokens", keep=0.5)
    assert model.config.spends == registry.make("random_tokens", {"keep": 0.5})
    assert model.config.method == {"name": "random_tokens", "keep": 0.5, "seed": 0}
    with pytest.raises(SettingsError, match=r"random_tokens\.keep=2 is not valid: a number above 0 and at most 1"):
        model.set_method("random_tokens", keep=2)
    for given in (3, ["dense"], registry.entries()["random_tokens"].settings):
        with pytest.raises(SettingsError, match=r"is not valid: give a name, its settings \(registry.make\), or None"):
            model.set_method(given)  # type: ignore[arg-type]
    model.set_method("dense")
    assert model.config.method is None
    assert model.config.spends.attention == "dense"
    model.set_method("paper", window=5)
    assert (model.config.nsa.attention, model.config.nsa.window) == ("nsa", 5)
