"""Release semantics against its golden vectors and a second, naive writing; each difference alone; refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.fidelity.oracle import ranked, release_layer
from tests.helpers import attention_inputs, relative_error
from videonsa import fidelity
from videonsa.kernels import nsa_attention, release
from videonsa.kernels.bitonic import network_topk

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.npz"))
MIXED = Path(__file__).parent / "golden" / "released_mixed.npz"
SPANS = {  # which of L tokens are vision, as (tokens, is it vision) runs
    "one span": [(7, False), (40, True), (10, False)],
    "several spans": [(3, False), (14, True), (9, False), (21, True), (1, False), (5, True), (17, False)],
    "vision only": [(45, True)],
    "vision last": [(30, False), (19, True)],
    "a long text": [(70, False), (12, True), (40, False)],
}
SIZES = [(8, 2, 8), (8, 3, 5), (8, 5, 20), (4, 4, 7), (4, 1, 3), (16, 9, 16)]  # block_size, block_count, window


def runs(name: str) -> torch.Tensor:
    return torch.tensor([vision for tokens, vision in SPANS[name] for _ in range(tokens)])


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_vectors(path, capsys):
    assert fidelity.main([str(path)]) == 0
    vectors = fidelity.load_vectors(path)
    rounded = fidelity.compare(vectors, rounding=torch.bfloat16)
    assert rounded.vision_choices == 1
    assert rounded.text_choices in (1, None)
    assert rounded.error_all < 4.1e-3
    assert fidelity.compare(vectors).vision_choices > 0.998
    assert "PASS" in capsys.readouterr().out


@pytest.mark.parametrize("difference", ["cmp_mask", "head_layout", "vision_packing", "gate_leak", "importance"])
def test_the_golden_vectors_need_each_difference(difference):
    mixed = fidelity.load_vectors(MIXED)
    assert not fidelity.compare(mixed, f"release-{difference}").passes


@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: "s{} b{} w{}".format(*sizes))
@pytest.mark.parametrize("spans", SPANS)
@pytest.mark.parametrize("heads", [(7, 1), (6, 2)], ids=["7 heads of 1", "6 heads of 2"])
def test_against_the_naive_writing(spans, sizes, heads):
    is_vision = runs(spans)
    block_size, block_count, window = sizes
    inputs = attention_inputs(len(is_vision), heads=heads[0], kv_heads=heads[1], seed=len(is_vision))
    arrays = [inputs[name][0].numpy() for name in ("query", "key", "value", "gates")]
    expected, choices = release_layer(*arrays, is_vision.numpy(), *sizes)
    output = release.mixed_attention(
        **inputs, is_vision=is_vision, block_size=block_size, block_count=block_count, window=window
    )
    settings = release.Sizes(*sizes, inputs["query"].shape[-1] ** -0.5, set(release.DIFFERENCES), torch.float64)
    rows = [release.vision_rows(inputs[name], is_vision, settings) for name in ("query", "key")]
    assert np.array_equal(release.block_choices(*rows, settings)[0].numpy(), choices)
    assert relative_error(output[0], torch.from_numpy(expected)) < 1e-12


def test_more_than_one_group_of_the_network():
    """Lengths with more blocks than the network is wide, and with more than half of a group asked for."""
    generator = torch.Generator().manual_seed(1)
    for width, count, blocks in [(4, 2, 13), (4, 4, 13), (8, 4, 40), (16, 16, 40), (2, 1, 9)]:
        own = torch.arange(blocks).repeat(3)
        importance = torch.randint(0, 5, (len(own), blocks), generator=generator).double()  # many ties
        expected = [
            ranked(row.tolist() + [0.0] * width, int(o), count, width) for row, o in zip(importance, own, strict=True)
        ]
        assert network_topk(importance, own, count, width).tolist() == expected


def test_the_order_of_ties():
    """As seen in the release: of blocks 0..3 tied, 2 comes first, then 3."""
    importance = torch.ones(1, 4)
    assert network_topk(importance, torch.tensor([3]), 4, 64)[0].tolist()[:2] == [2, 3]
    importance = torch.cat([torch.ones(1, 4), torch.full((1, 1), 2.0)], dim=1)
    assert network_topk(importance, torch.tensor([4]), 2, 64).tolist() == [[4, 2]]


def test_distinct_blocks_are_ranked_as_by_sorting():
    generator = torch.Generator().manual_seed(0)
    importance = torch.randn(20, 60, generator=generator).exp()
    own = torch.full((20,), 59)
    best = importance.argsort(dim=-1, descending=True)[:, :8]
    assert torch.equal(network_topk(importance, own, 8, 16), best)


@pytest.mark.parametrize("spans", SPANS)
def test_no_difference_is_the_papers_method(spans):
    is_vision = runs(spans)
    inputs = attention_inputs(len(is_vision), heads=6, kv_heads=2)
    sizes = {"block_size": 8, "block_count": 3, "window": 5}
    output = release.mixed_attention(**inputs, is_vision=is_vision, **sizes, differences=frozenset())
    packed = {name: tensor[:, is_vision] for name, tensor in inputs.items()}
    expected = nsa_attention(**packed, **sizes, backend="reference")
    assert relative_error(output[:, is_vision], expected) < 1e-12
    if not is_vision.all():
        dense = torch.nn.functional.scaled_dot_product_attention(
            *(inputs[name].transpose(1, 2) for name in ("query", "key", "value")), is_causal=True, enable_gqa=True
        ).transpose(1, 2)
        assert relative_error(output[:, ~is_vision], dense[:, ~is_vision]) < 1e-12


def outputs(differences, branches=release.BRANCHES, block_count=3, seed=0, spans="several spans"):
    is_vision = runs(spans)
    inputs = attention_inputs(len(is_vision), heads=6, kv_heads=2, seed=seed)
    sizes = {"block_size": 8, "block_count": block_count, "window": 5, "branches": branches}
    return release.mixed_attention(**inputs, is_vision=is_vision, **sizes, differences=frozenset(differences))[0]


@pytest.mark.parametrize(
    ("difference", "branches"),
    [
        ("cmp_mask", {"cmp", "slc"}),  # the log-sum-exp of other blocks weighs the heads of a choice anew
        ("head_layout", {"cmp", "slc", "swa"}),
        ("vision_packing", {"cmp", "slc", "swa"}),
        ("importance_lse", {"slc"}),
        ("importance_own_block", set()),  # probabilities never exceed 1, so the own block still wins
        ("importance_round_up", {"slc"}),
        ("modality_by_position", set()),  # acts where the token layout is made
        ("dense_decode", set()),  # the paper does the same
        ("grid_seconds", set()),  # acts where positions are computed
    ],
)
def test_each_difference_alone_changes_its_branches(difference, branches):
    changed = {
        name for name in release.BRANCHES if relative_error(outputs({difference}, (name,)), outputs((), (name,))) > 1e-9
    }
    assert changed == branches


def test_gate_leak_alone_adds_the_mean_of_earlier_values_to_vision():
    is_vision = runs("several spans")
    value = attention_inputs(len(is_vision), heads=6, kv_heads=2)["value"][0].repeat_interleave(3, dim=1)
    mean = value.cumsum(dim=0) / torch.arange(1, len(value) + 1)[:, None, None]
    difference = outputs({"gate_leak"}) - outputs(())
    assert relative_error(difference[is_vision], mean[is_vision]) < 1e-12
    assert not difference[~is_vision].any()


def test_gate_leak_with_vision_packing_reaches_text():
    is_vision = runs("several spans")
    difference = outputs({"gate_leak", "vision_packing"}) - outputs({"vision_packing"})
    assert (difference[~is_vision][4:].norm(dim=-1) > 1e-3).all()


def test_dense_decode_spares_calls_of_vision_only_the_leak():
    with_leak = {"gate_leak"}
    assert (
        relative_error(outputs({*with_leak, "dense_decode"}, spans="vision only"), outputs((), spans="vision only"))
        == 0
    )
    assert relative_error(outputs(with_leak, spans="vision only"), outputs((), spans="vision only")) > 0.1


def test_own_block_can_lose_once_the_lse_is_misread():
    settings = {"importance_lse", "importance_own_block"}
    assert relative_error(outputs(settings, ("slc",)), outputs({"importance_lse"}, ("slc",))) > 1e-3


def test_vision_by_position():
    positions = torch.tensor([[0, 1, 1, 1, 1, 3], [0, 1, 1, 2, 2, 3], [0, 1, 2, 1, 2, 3]])[:, None]
    assert release.vision_by_position(positions).tolist() == [[False, False, True, True, True, False]]


def test_chunks_change_neither_outputs_nor_gradients(monkeypatch):
    def run():
        is_vision = runs("several spans")
        inputs = attention_inputs(len(is_vision), heads=6, kv_heads=2)
        leaves = {name: tensor.requires_grad_() for name, tensor in inputs.items()}
        output = release.mixed_attention(**leaves, is_vision=is_vision, block_size=8, block_count=3, window=5)
        output.square().sum().backward()
        return {"output": output.detach(), **{name: leaf.grad for name, leaf in leaves.items()}}

    whole = run()
    monkeypatch.setattr(release, "CHUNK_ELEMENTS", 5000)
    for name, tensor in run().items():
        assert relative_error(tensor, whole[name]) < 1e-12, name


def test_samples_of_a_batch_do_not_mix():
    is_vision = runs("several spans")
    inputs = attention_inputs(len(is_vision), heads=6, kv_heads=2, batch=3)
    sizes = {"block_size": 8, "block_count": 3, "window": 5}
    together = release.mixed_attention(**inputs, is_vision=is_vision, **sizes)
    for row in range(3):
        alone = {name: tensor[row : row + 1] for name, tensor in inputs.items()}
        assert relative_error(release.mixed_attention(**alone, is_vision=is_vision, **sizes)[0], together[row]) < 1e-12


def test_gradients_are_those_of_finite_differences():
    is_vision = torch.tensor([False, True, True, True, True, False, True, False])
    inputs = attention_inputs(8, heads=2, kv_heads=1, size=3)
    leaves = [tensor.requires_grad_() for tensor in inputs.values()]

    def layer(query, key, value, gates):
        return release.mixed_attention(query, key, value, gates, is_vision, block_size=2, block_count=2, window=2)

    assert torch.autograd.gradcheck(layer, leaves, eps=1e-7)  # too small a step to change a choice


@pytest.mark.parametrize("length", [320, 1500])
def test_rounding_moves_near_ties_of_vision_only(length):
    """Where bf16 and float32 choose differently: only where two blocks are nearer than the rounding of their scores."""
    is_vision = torch.ones(length, dtype=torch.bool)
    is_vision[:90] = is_vision[200:215] = is_vision[-50:] = False
    generator = torch.Generator().manual_seed(length)
    query, key = (torch.randn(1, length, n, 128, generator=generator).bfloat16().float() for n in (28, 4))
    found = {}
    for rounding in (torch.float32, torch.bfloat16):
        sizes = release.Sizes(64, 3, 64, 128**-0.5, frozenset(release.DIFFERENCES), rounding)
        inputs = release.prepare(*(release.vision_rows(t, is_vision, sizes) for t in (query, key, key)), sizes)
        whole = slice(0, length)
        own = torch.arange(length)[:, None] // 64
        found[rounding] = release.importances(inputs, whole, own, sizes)[0], release.choose(inputs, whole, sizes)[0]
    (exact, plain), (_, rounded) = found.values()
    differs_HC = (plain.sort(-1).values != rounded.sort(-1).values).any(dim=-1)
    assert not differs_HC[:, ~is_vision].any()  # ties there are exact in both
    assert differs_HC.float().mean() < 0.02
    for head, token in differs_HC.nonzero().tolist():
        last, first_left_out = exact[head, token, : token // 64 + 1].sort(descending=True).values[3:5]
        assert (last - first_left_out) / last < 2e-3


def test_what_the_sorting_network_cannot_do_is_refused():
    with pytest.raises(ValueError, match="block_size=48 is not valid: a power of two"):
        release.check({"importance_round_up"}, 48, 4, 1)
    with pytest.raises(ValueError, match="block_count=65 is not valid: at most block_size=64"):
        release.check({"importance_round_up"}, 64, 65, 1)
    with pytest.raises(ValueError, match="choose among"):
        release.check({"cmp"}, 64, 4, 1)
    release.check({"importance_lse"}, 48, 65, 1)
    release.check({"importance_round_up"}, 48, 65, 1, ("cmp", "swa"))  # nothing is chosen


def test_a_window_of_0_has_no_bound():
    """As flash-attention's window_size of (-1, 0), which is what the release gives it then."""
    vectors = fidelity.load_vectors(MIXED)
    length = len(vectors["is_vision"])
    no_bound, whole = (vectors | {"window": torch.tensor(window)} for window in (0, length))
    assert fidelity.compare(no_bound) == fidelity.compare(whole)
    assert fidelity.compare(no_bound).error_all > 0.02


@pytest.mark.parametrize("content", ["text", "arrays"])
def test_unfit_files_exit_with_2_and_one_line(tmp_path, capsys, content):
    path = tmp_path / "file.npz"
    if content == "text":
        path.write_text("no arrays")
    else:
        np.savez(path, query=np.zeros(3))
    assert fidelity.main([str(path)]) == 2
    assert fidelity.main([str(MIXED), "--semantics", "cmp_maks"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2
    assert str(path) in lines[0]
    assert "cmp_mask" in lines[1]
