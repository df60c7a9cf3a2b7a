"""Recall of choices: the shares by hand, what each method says that it keeps, and a probe of several methods."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from evals.checkpoint import Checkpoint
from evals.observers import recall
from evals.observers.recall import Kept, Sums
from evals.probe import probe
from evals.suites import suite_settings
from videonsa.config import NSASettings
from videonsa.kernels.block_sparse import KeyChoice
from videonsa.kernels.reference import attention_probabilities
from videonsa.kernels.release import Sizes, block_choices, slots_of
from videonsa.methods.contract import LayerCall, Method, make_batch
from videonsa.methods.oracle import Oracle
from videonsa.methods.paper import Paper
from videonsa.methods.registry import described, entries, make
from videonsa.methods.release import Release
from videonsa.methods.settings import OracleSettings
from videonsa.methods.sparse import SparsePrefill
from videonsa.names import DIFFERENCES

HEADS, KV_HEADS, SIZE = 4, 2, 8
NSA = NSASettings(block_size=4, block_count=2, window=3)
# Two videos of 10 and 13 tokens among text, so that vision blocks are no blocks of the prompt.
IS_VISION = torch.tensor([0] * 3 + [1] * 10 + [0] * 2 + [1] * 13 + [0] * 5).bool()


@pytest.fixture(scope="module")
def call() -> LayerCall:
    torch.manual_seed(0)
    query, key = (torch.randn(1, len(IS_VISION), heads, SIZE) * 2 for heads in (HEADS, KV_HEADS))
    return LayerCall(0, query, key, key, query, SIZE**-0.5, SimpleNamespace())


def of(method: Method) -> Method:
    method.batch = make_batch(IS_VISION[None])
    return method


def probabilities(call: LayerCall) -> Tensor:
    """Full causal attention, [Hq, L, L]."""
    key = call.key[0].repeat_interleave(HEADS // KV_HEADS, dim=1)
    score = torch.einsum("thd,khd->htk", call.query[0], key) * call.scale
    causal = torch.ones(score.shape[1:]).tril().bool()
    return score.masked_fill(~causal, -torch.inf).softmax(-1)


def test_shares_by_hand():
    sums = Sums()
    kept = torch.tensor([[[1, 0, 1, 0], [1, 1, 1, 1]], [[0, 0, 0, 1], [0, 0, 0, 0]]]).bool()
    one, even = [0.5, 0.3, 0.1, 0.1], [0.25] * 4
    probability = torch.tensor([[one, one], [even, one]])
    sums.add(kept, probability, probability.argsort(dim=-1, descending=True, stable=True))
    sums.causal = 16
    # Kept mass 0.6, 1, 0.25, 0; the best of as many keys 0.8, 1, 0.25, 0. Of equal keys the first is the best one.
    expected = {"mass": 1.85 / 4, "best": 2.05 / 4, "keys": (0.5 + 1 + 0 + 0) / 4, "density": 7 / 16, "queries": 4}
    assert sums.summary() == pytest.approx(expected)


class Few(SparsePrefill):
    """Blocks 0 and 2 and the column 5 for the first head, unaligned blocks for the others."""

    def choose(self, query: Tensor, key: Tensor, scale: float, layer: int) -> KeyChoice:
        blocks = -(-len(query) // 4)
        starts = torch.tensor([[0, 8], [3, 9], [1, 7], [2, 20]], dtype=torch.int32)[:, None].repeat(1, blocks, 1)
        columns = torch.tensor([[5], [-1], [-1], [30]], dtype=torch.int32)
        return KeyChoice(len(query), 4, starts, torch.full((4, blocks), 2, dtype=torch.int32), columns)


class Everything(SparsePrefill):
    def choose(self, query: Tensor, key: Tensor, scale: float, layer: int) -> None:
        return None


def test_a_sparse_prefill_keeps_what_it_chooses(call: LayerCall):
    at = torch.tensor([0, 1, 7, 8, 20, 32])
    mask = Few(None, None).choose(call.query[0], call.key[0], 1.0, 0).mask()
    assert torch.equal(of(Few(None, None)).keeps(call, at)["keys"], mask[:, at])
    causal = torch.ones(len(IS_VISION), len(IS_VISION)).tril().bool()
    assert torch.equal(of(Everything(None, None)).keeps(call, at)["keys"], causal[at].expand(HEADS, -1, -1))


@pytest.mark.parametrize("branches", [("cmp", "slc", "swa"), ("slc",), ("swa",)])
def test_nsa_keeps_its_blocks_and_its_window_among_the_vision_tokens(call: LayerCall, branches: tuple[str, ...]):
    at = torch.arange(len(IS_VISION))
    nsa = NSASettings(block_size=4, block_count=2, window=3, branches=branches)
    kept = of(Paper(nsa, None)).keeps(call, at)
    query, key = call.query[:, IS_VISION], call.key[:, IS_VISION]
    given = {"block_size": 4, "block_count": 2, "window": 3, "branches": branches, "scale": call.scale}
    ((_, found),) = attention_probabilities(query, key, **given)
    vision = IS_VISION.nonzero()[:, 0]
    for name in set(branches) - {"cmp"}:
        expected = torch.zeros(HEADS, len(at), len(at), dtype=torch.bool)
        expected[:, vision[:, None], vision] = found[name][0].flatten(0, 1) > 0
        assert torch.equal(kept[name], expected), name
    causal = torch.ones(len(at), len(at)).tril().bool()
    assert torch.equal(kept["text"], (causal & ~IS_VISION[:, None]).expand(HEADS, -1, -1))
    assert set(kept) == {"text", *branches} - {"cmp"}


def release(semantics: str) -> Release:
    method = of(Release(NSASettings(block_size=4, block_count=2, window=3, semantics=semantics), None))
    return method


def test_a_release_that_chooses_as_the_paper_keeps_the_same(call: LayerCall):
    at = torch.arange(len(IS_VISION))
    ours, theirs = (method.keeps(call, at) for method in (of(Paper(NSA, None)), release("dense_decode")))
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def test_the_release_keeps_what_its_two_slots_of_a_head_read(call: LayerCall):
    """Blocks and window count text too, which stands there as zeros and is not kept."""
    at = torch.arange(len(IS_VISION))
    method = release("release")
    kept = method.keeps(call, at)
    sizes = Sizes(4, 2, 3, call.scale, set(DIFFERENCES), torch.float32)
    query, key = (tensor * IS_VISION[:, None, None] for tensor in (call.query, call.key))
    chosen = block_choices(query, key, sizes)[0]
    expected = torch.zeros(HEADS, len(at), len(at), dtype=torch.bool)
    # 4 heads twice in slots 0 to 7, of which each of the 2 key/value heads has 4: heads 0 to 3 read 0, then 1.
    for head, i in itertools.product(range(HEADS), IS_VISION.nonzero()[:, 0].tolist()):
        blocks = {*chosen[i, 0].tolist(), *chosen[i, 1].tolist()}
        for j in range(i + 1):
            expected[head, i, j] = bool(IS_VISION[j]) and j // 4 in blocks
    assert torch.equal(kept["slc"], expected)
    assert slots_of(4, 2, sizes) == [[0, 1]] * 4
    assert slots_of(28, 4, sizes)[15:17] == [[0, 2], [1, 2]]  # slots 15 and 43, 16 and 44, of 16 a key/value head
    window = torch.ones(len(at), len(at)).tril().triu(-2).bool() & IS_VISION & IS_VISION[:, None]
    assert torch.equal(kept["swa"], window.expand(HEADS, -1, -1))


def by_loops(call: LayerCall, mask: Tensor, queries: Tensor) -> dict[str, float]:
    """The definitions of `evals.observers.recall`, one query of one head after the other; mask [Hq, L, L]."""
    p, rows = probabilities(call), []
    for head in range(HEADS):
        for i in queries.tolist():
            kept = mask[head, i].nonzero()[:, 0].tolist()
            best = sorted(range(i + 1), key=lambda j: (-float(p[head, i, j]), j))[: len(kept)]
            shared = len(set(kept) & set(best)) / len(kept)
            rows.append((float(p[head, i, kept].sum()), float(p[head, i, best].sum()), shared, len(kept), i + 1))
    mass, best, keys, kept, causal = torch.tensor(rows).T
    means = {name: float(each.mean()) for name, each in (("mass", mass), ("best", best), ("keys", keys))}
    return {**means, "density": float(kept.sum() / causal.sum()), "queries": len(rows)}


@pytest.mark.parametrize("chunk", [1, 1 << 25])
def test_what_is_measured_is_what_the_definitions_say(call: LayerCall, chunk: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recall, "CHUNK_ELEMENTS", chunk)
    found = Kept()
    method = of(Paper(NSA, None))
    found.look(method, call)
    kept = method.keeps(call, torch.arange(len(IS_VISION)))
    union = kept["slc"] | kept["swa"] | kept["text"]
    vision, text = IS_VISION.nonzero()[:, 0], (~IS_VISION).nonzero()[:, 0]
    here = found.summary()[0]
    assert set(here) == {"vision", "text", "slc", "swa"}
    for part, mask, queries in (("vision", union, vision), ("slc", kept["slc"], vision), ("swa", kept["swa"], vision)):
        assert here[part] == pytest.approx(by_loops(call, mask, queries), abs=1e-5), part
        assert here[part]["mass"] < here[part]["best"] < 1
    assert here["text"] == pytest.approx({"mass": 1, "best": 1, "keys": 1, "density": 1, "queries": HEADS * len(text)})


@pytest.mark.parametrize("keys", [1, 5, 99])
def test_the_oracle_is_the_best_choice_of_its_size(call: LayerCall, keys: int):
    found = Kept()
    found.look(of(Oracle(OracleSettings(keys), None)), call)
    for part in ("vision", "text"):
        here = found.summary()[0][part]
        assert here["mass"] == pytest.approx(here["best"])
        assert here["keys"] == 1
        assert (here["mass"] == pytest.approx(1)) == (keys == 99)


def test_a_method_that_chooses_no_keys_has_no_recall(call: LayerCall):
    found = Kept()
    found.look(of(Method(None, None)), call)
    assert found.summary() == {}


def test_some_queries_of_a_long_prompt_are_looked_at(call: LayerCall, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recall, "QUERIES", 3)
    found, seen = Kept(), []
    method = of(Oracle(OracleSettings(2), None))
    keeps = method.keeps
    method.keeps = lambda call, at: seen.append(at.tolist()) or keeps(call, at)
    found.look(method, call)
    vision = IS_VISION.nonzero()[:, 0].tolist()
    assert seen == [[vision[0], vision[11], vision[22]], [0, 14, 32]]
    assert found.summary()[0]["vision"]["queries"] == 3 * HEADS


def test_a_method_is_named_by_what_is_not_its_default():
    assert described(OracleSettings()) == "oracle"
    assert described(OracleSettings(8)) == "oracle keys=8"


def test_a_probe_of_nsa_and_of_other_methods(loaded: Checkpoint, data: Path):
    suite = suite_settings("synth_needle", limit=4)
    methods = [OracleSettings(8), OracleSettings(10_000)]
    record = probe(loaded, {}, suite, videos=2, data=data, methods=methods)
    assert loaded.model.config.method is None, "the checkpoint is left as it was"
    for layer in record["layers"]:
        assert set(layer["gates"]) == {"cmp", "slc", "swa"}
        assert list(layer["recall"]) == ["nsa", "oracle keys=8", "oracle keys=10000"]
        nsa, few, all_ = layer["recall"].values()
        assert set(nsa) == {"vision", "text", "slc", "swa"}
        assert 0 < nsa["vision"]["mass"] <= nsa["vision"]["best"] <= 1
        assert max(nsa["slc"]["mass"], nsa["swa"]["mass"]) <= nsa["vision"]["mass"]
        assert few["vision"]["density"] < all_["vision"]["density"] == 1
        assert all_["vision"]["mass"] == pytest.approx(1)
    alone = probe(loaded, {}, suite, videos=2, data=data)
    assert [layer["gates"] for layer in alone["layers"]] == [layer["gates"] for layer in record["layers"]]
    assert alone["points"] == record["points"]
    json.dumps({**record, "arrays": None}, allow_nan=False)


def test_every_method_that_chooses_keys_says_which(loaded: Checkpoint, data: Path):
    """All of them in one probe, as small as the tiny prompts need it to leave something out."""
    small = {
        "tri_shape": {"n_init": 4, "n_local": 8, "n_last": 4},
        "minference": {"table": "uniform", "vertical": 4, "slash": 4, "first_columns": 1, "recent_diagonals": 1},
        "flexprefill": {"gamma": 0.5, "min_budget": 8, "block_size": 8},
        "xattention": {"threshold": 0.5, "stride": 2, "block_size": 8},
        "oracle": {"keys": 8},
    }
    small["minference"] |= {"least_diagonals": 1, "block_size": 8, "last_queries": 8}
    choosing = [name for name, entry in entries().items() if entry.chooses_keys]
    methods = [make(name, small[name]) for name in choosing]
    record = probe(loaded, {}, suite_settings("synth_needle", limit=4), videos=1, data=data, methods=methods)
    assert set(choosing) == set(small)
    for layer in record["layers"]:
        for method in methods:
            for part in ("vision", "text"):
                here = layer["recall"][described(method)][part]
                assert 0 < here["mass"] <= here["best"] + 1e-6
                assert 0 < here["keys"] <= 1
            assert layer["recall"][described(method)]["vision"]["density"] < 1, method


def test_a_probe_under_the_releases_semantics(loaded: Checkpoint, data: Path):
    record = probe(loaded, {"semantics": "release"}, suite_settings("synth_needle", limit=4), videos=1, data=data)
    loaded.use({})
    for layer in record["layers"]:
        assert set(layer["recall"]["nsa"]) == {"vision", "text", "slc", "swa"}
        assert 0 < layer["recall"]["nsa"]["vision"]["mass"] < 1


def test_a_probe_of_weights_without_gates(loaded: Checkpoint, data: Path):
    suite = suite_settings("synth_needle", limit=4)
    record = probe(loaded, {"attention": "dense"}, suite, videos=1, data=data, methods=[OracleSettings(8)])
    loaded.use({})
    assert record["points"] == []
    for layer in record["layers"]:
        assert set(layer) == {"layer", "recall"}
        assert list(layer["recall"]) == ["oracle keys=8"]
