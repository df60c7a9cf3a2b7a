"""Oracle top-k: which keys, by hand and by sorting each query's scores; ties, NaN, chunks; in a model."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tests.helpers import relative_error
from tests.modeling.conftest import STOCK, batch, sample
from videonsa.config import NSASettings, SettingsError
from videonsa.methods import oracle
from videonsa.methods.contract import LayerCall, dense_attention, make_batch
from videonsa.methods.oracle import Oracle, kept_pairs, top_keys
from videonsa.methods.settings import OracleSettings
from videonsa.modeling import VideoNSAConfig, VideoNSAForConditionalGeneration, metered


def attend(query, key, value, keys, is_token=None, scale=None):
    """The oracle on [B, L, heads, D], or on one sample [L, heads, D]."""
    if query.dim() == 3:
        return attend(query[None], key[None], value[None], keys, is_token, scale)[0]
    method = Oracle(OracleSettings(keys), None)
    method.batch = make_batch(torch.ones(query.shape[:2], dtype=torch.bool), is_token)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return method.attend(LayerCall(0, query, key, value, query, scale, SimpleNamespace()))


def random(length, heads=4, kv_heads=2, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, h, size, generator=generator, dtype=torch.float64) for h in (heads, kv_heads, kv_heads)]


def one_by_one(query, key, value, keys):
    """One query of one head after the other: its keys in the order of score, the earlier first, and the first few."""
    output = torch.zeros_like(query)
    group = query.shape[1] // key.shape[1]
    for head in range(query.shape[1]):
        for i in range(len(query)):
            score = key[: i + 1, head // group] @ query[i, head] / query.shape[-1] ** 0.5
            kept = sorted(range(i + 1), key=lambda j: (-float(score[j]), j))[:keys]
            output[i, head] = score[kept].softmax(0) @ value[kept, head // group]
    return output


def test_choice_by_hand():
    """Scores 3, 1, 2, 2, 5 whatever the query: of the two 2's the earlier is kept."""
    scores = torch.tensor([3.0, 1, 2, 2, 5]).expand(5, 5)
    seen = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
    kept = [row.nonzero()[:, 0].tolist() for row in top_keys(seen, 2)]
    assert kept == [[0], [0, 1], [0, 2], [0, 2], [0, 4]]
    first = torch.eye(5)[0]
    query, key = first.expand(5, 1, 5), (torch.tensor([3.0, 1, 2, 2, 5])[:, None] * first)[:, None]
    output = attend(query, key, torch.eye(5)[:, None], 2, scale=1.0)
    e = torch.e
    assert output[3, 0].tolist() == pytest.approx([e / (1 + e), 0, 1 / (1 + e), 0, 0])
    assert output[4, 0].tolist() == pytest.approx([1 / (1 + e**2), 0, 0, 0, e**2 / (1 + e**2)])


def test_equal_keys_are_kept_from_the_first_on():
    output = attend(torch.ones(6, 1, 6), torch.ones(6, 1, 6), torch.eye(6)[:, None], 2)
    assert output[5, 0].tolist() == [0.5, 0.5, 0, 0, 0, 0]


@pytest.mark.parametrize("chunk", [1, 150, 1 << 20])
@pytest.mark.parametrize(("length", "keys"), [(1, 1), (37, 1), (37, 5), (64, 36), (63, 63)])
def test_it_is_what_sorting_gives(length, keys, chunk, monkeypatch):
    monkeypatch.setitem(oracle.CHUNK_ELEMENTS, "cpu", chunk)
    inputs = random(length)
    assert relative_error(attend(*inputs, keys), one_by_one(*inputs, keys)) < 1e-12


@pytest.mark.parametrize("keys", [37, 1000])
def test_with_all_keys_it_is_dense_attention(keys):
    query, key, value = random(37)
    assert relative_error(attend(query, key, value, keys), dense_attention(query, key, value, 8**-0.5)) < 1e-12
    assert relative_error(attend(query, key, value, 36), dense_attention(query, key, value, 8**-0.5)) > 1e-3


def test_it_never_holds_all_scores(monkeypatch):
    monkeypatch.setitem(oracle.CHUNK_ELEMENTS, "cpu", 4000)
    sizes, scores = [], oracle.causal_scores
    monkeypatch.setattr(oracle, "causal_scores", lambda *given: sizes.append(scores(*given)) or sizes[-1])
    attend(*random(200), 10)
    assert max(score.numel() for score in sizes) <= 4000 < 4 * 200 * 200
    assert sum(score.shape[2] for score in sizes) == 200


def test_no_later_token_is_read_and_what_nobody_keeps_is_not_seen():
    query, key, value = random(40)
    before = attend(query, key, value, 6)
    for tensor in (query, key, value):
        tensor[25:] = torch.nan
    after = attend(query, key, value, 6)
    assert torch.equal(after[:25], before[:25])
    assert after[25:].isnan().all()
    query, key, value = random(40)
    query, key = query.abs(), key.abs()
    key[7], value[7] = -100.0, torch.nan  # of 8 keys or more the last, also to its own query
    assert not attend(query, key, value, 6).isnan().any()
    assert attend(query, key, value, 40).isnan().any(-1).any(-1).tolist() == [False] * 7 + [True] * 33


def test_a_key_that_is_nan_is_kept_and_spreads_as_in_dense_attention():
    query, key, value = random(12)
    key[3, 0] = torch.nan
    broken = attend(query, key, value, 2).isnan().any(-1)
    assert torch.equal(broken, dense_attention(query, key, value, 1.0).isnan().any(-1))
    assert broken.any(1).tolist() == [False] * 3 + [True] * 9


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_several_samples(side):
    short, long = random(9), random(21, seed=1)
    room = 21 - 9
    places = slice(room, None) if side == "left" else slice(0, 9)
    rows = []
    for one, other in zip(short, long, strict=True):
        padded = torch.full_like(other, torch.nan)
        padded[places] = one
        rows.append(torch.stack([padded, other]))
    is_token = torch.zeros(2, 21, dtype=torch.bool)
    is_token[0, places] = is_token[1] = True
    output = attend(*rows, 4, is_token=is_token)
    assert torch.equal(output[0, places], attend(*short, 4))
    assert torch.equal(output[1], attend(*long, 4))
    assert (output[0][~is_token[0]] == 0).all()


def test_pairs_by_hand():
    assert [kept_pairs(5, keys) for keys in (1, 2, 4, 5, 9)] == [5, 9, 14, 15, 15]  # 1 + 2 + 2 + 2 + 2 = 9


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return VideoNSAForConditionalGeneration(VideoNSAConfig(**STOCK)).eval().requires_grad_(False)


def test_in_a_model_many_keys_are_dense_and_few_are_not(model):
    inputs = batch([sample(("text", 3), ("video", 6), ("text", 5)), sample(("text", 9), ("video", 3))], "left")
    model.set_nsa(attention="dense")
    dense = model.generate(**inputs, max_new_tokens=3, output_logits=True, return_dict_in_generate=True)
    tokens = inputs["attention_mask"].sum(1).tolist()
    for keys, same in ((max(tokens), True), (3, False)):
        model.set_method(OracleSettings(keys))
        with metered(model) as meters:
            ours = model.generate(**inputs, max_new_tokens=3, output_logits=True, return_dict_in_generate=True)
        close = [relative_error(*pair) < 1e-5 for pair in zip(ours.logits, dense.logits, strict=True)]
        assert close == [same] * 3
        (meter,) = meters
        pairs = sum(sum(min(i + 1, keys) for i in range(n)) for n in tokens)
        report = meter.report()
        assert report["density"] == pytest.approx([pairs / sum(n * (n + 1) / 2 for n in tokens)] * 2, abs=1e-6)
        assert report["choice_ms"] > 0
    model.set_method(None)


@pytest.mark.parametrize("keys", [0, -1, 2.5, None, "all"])
def test_what_is_no_number_of_keys_is_refused(keys):
    with pytest.raises(SettingsError, match=r"oracle.keys=.* is not valid: a whole number of at least 1"):
        OracleSettings(keys)


def test_the_default_is_the_budget_of_the_paper():
    assert OracleSettings().keys == NSASettings().budget == 2304
