"""The reference against attention computed by hand, query by query, and against what must hold of the method."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import TOLERANCE, attention_inputs, relative_error
from videonsa.kernels import nsa_attention
from videonsa.kernels import reference as reference_module

SIZES = {"block_size": 4, "block_count": 3, "window": 5}
SUBSETS = [("cmp",), ("slc",), ("swa",), ("cmp", "slc"), ("cmp", "swa"), ("slc", "swa"), ("cmp", "slc", "swa")]


def by_hand(query, key, value, gates, *, block_size, block_count, window, branches=("cmp", "slc", "swa")):
    """method.md, literally: one query of one head after the other, in Python."""
    batch, length, heads, size = query.shape
    group = heads // key.shape[2]
    output = torch.zeros_like(query)

    def attend(q, keys, values):
        return ((keys @ q) / math.sqrt(size)).softmax(0) @ values if len(keys) else torch.zeros_like(q)

    for b in range(batch):
        for g in range(key.shape[2]):
            k, v = key[b, :, g], value[b, :, g]
            for t in range(length):
                ends = [j for j in range(length // block_size) if (j + 1) * block_size - 1 <= t]
                mean = [slice(j * block_size, (j + 1) * block_size) for j in ends]
                blocks_k = torch.stack([k[m].mean(0) for m in mean]) if mean else k[:0]
                blocks_v = torch.stack([v[m].mean(0) for m in mean]) if mean else v[:0]
                members = range(g * group, (g + 1) * group)
                own = t // block_size
                importance = sum(((blocks_k @ query[b, t, h]) / math.sqrt(size)).softmax(0) for h in members)
                ranked = sorted((j for j in ends if j != own), key=lambda j: -importance[j].item())
                chosen = {own, *ranked[: block_count - 1]}
                tokens = [i for i in range(t + 1) if i // block_size in chosen]
                recent = slice(max(0, t - window + 1), t + 1)
                for h in members:
                    q = query[b, t, h]
                    parts = {
                        "cmp": attend(q, blocks_k, blocks_v),
                        "slc": attend(q, k[tokens], v[tokens]),
                        "swa": attend(q, k[recent], v[recent]),
                    }
                    for i, name in enumerate(("cmp", "slc", "swa")):
                        if name in branches:
                            output[b, t, h] += gates[b, t, h, i] * parts[name]
    return output


@pytest.mark.parametrize("branches", SUBSETS, ids="+".join)
def test_equals_the_definition_for_every_subset_of_branches(branches):
    inputs = attention_inputs(23, batch=2)
    output = nsa_attention(**inputs, **SIZES, branches=branches)
    assert relative_error(output, by_hand(**inputs, **SIZES, branches=branches)) < TOLERANCE[torch.float64]


@settings(max_examples=25, deadline=None)
@given(
    length=st.integers(1, 40),
    kv_heads=st.integers(1, 2),
    group=st.sampled_from([1, 2, 7]),
    block_size=st.integers(1, 9),
    block_count=st.integers(1, 12),
    window=st.integers(1, 50),
    seed=st.integers(0, 99),
)
def test_equals_the_definition_for_any_shape(length, kv_heads, group, block_size, block_count, window, seed):
    inputs = attention_inputs(length, heads=kv_heads * group, kv_heads=kv_heads, size=4, seed=seed)
    sizes = {"block_size": block_size, "block_count": block_count, "window": window}
    assert relative_error(nsa_attention(**inputs, **sizes), by_hand(**inputs, **sizes)) < TOLERANCE[torch.float64]


def dense_causal(query, key, value):
    heads_first = (tensor.transpose(1, 2) for tensor in (query, key, value))
    output = torch.nn.functional.scaled_dot_product_attention(*heads_first, is_causal=True, enable_gqa=True)
    return output.transpose(1, 2)


@pytest.mark.parametrize("length", [1, 15, 16, 17, 33])
@pytest.mark.parametrize("group", [1, 2, 7])
@pytest.mark.parametrize(
    ("branch", "sizes"),
    [("slc", {"block_count": 99, "window": 1}), ("swa", {"block_count": 1, "window": 99})],
    ids=["all blocks chosen", "window over everything"],
)
def test_is_dense_causal_attention_when_nothing_is_left_out(branch, sizes, group, length):
    inputs = attention_inputs(length, heads=2 * group, kv_heads=2)
    inputs["gates"] = torch.ones_like(inputs["gates"])
    output = nsa_attention(**inputs, block_size=4, **sizes, branches=(branch,))
    expected = dense_causal(inputs["query"], inputs["key"], inputs["value"])
    assert relative_error(output, expected) < TOLERANCE[torch.float64]


@pytest.mark.parametrize("branches", SUBSETS, ids="+".join)
def test_a_later_token_never_changes_an_earlier_output(branches):
    inputs = attention_inputs(30, dtype=torch.float32)
    before = nsa_attention(**inputs, **SIZES, branches=branches)
    for t in range(30):
        changed = {name: tensor.clone() for name, tensor in inputs.items()}
        for tensor in changed.values():
            tensor[:, t] += 3.0
        after = nsa_attention(**changed, **SIZES, branches=branches)
        assert torch.equal(after[:, :t], before[:, :t])


@pytest.mark.parametrize("branches", SUBSETS, ids="+".join)
def test_gradients(branches):
    inputs = attention_inputs(11, heads=4, kv_heads=2, size=3)
    tensors = [tensor.requires_grad_() for tensor in inputs.values()]

    def function(*values):
        return nsa_attention(
            **dict(zip(inputs, values, strict=True)), block_size=3, block_count=2, window=4, branches=branches
        )

    assert torch.autograd.gradcheck(function, tensors)


def test_packed_sequences_are_each_sequence_alone():
    lengths = [13, 1, 22]
    inputs = attention_inputs(sum(lengths))
    bounds = torch.tensor([0, 13, 14, 36], dtype=torch.int32)
    packed = nsa_attention(**inputs, **SIZES, cu_seqlens=bounds)
    for piece, part in zip(packed.split(lengths, 1), range(3), strict=True):
        alone = {name: tensor.split(lengths, 1)[part] for name, tensor in inputs.items()}
        assert torch.equal(piece, nsa_attention(**alone, **SIZES))


def test_chunks_do_not_change_the_result(monkeypatch):
    inputs = attention_inputs(37, batch=2)
    whole = nsa_attention(**inputs, **SIZES)
    monkeypatch.setattr(reference_module, "CHUNK_ELEMENTS", 5 * 2 * 4 * 37)  # five queries a chunk
    assert relative_error(nsa_attention(**inputs, **SIZES), whole) < TOLERANCE[torch.float64]


def test_a_query_without_a_complete_block_gets_zero_from_compression_and_no_nan():
    inputs = attention_inputs(10)
    for tensor in inputs.values():
        tensor.requires_grad_()
    output = nsa_attention(**inputs, block_size=4, block_count=2, window=3, branches=("cmp",))
    assert torch.equal(output[:, :3], torch.zeros_like(output[:, :3]))
    assert output[:, 3].abs().sum() > 0
    output.sum().backward()
    assert all(tensor.grad.isfinite().all() for tensor in inputs.values())


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
@pytest.mark.parametrize("which", ["key", "value"])
@pytest.mark.parametrize("branches", SUBSETS, ids="+".join)
def test_a_nan_reaches_no_earlier_token(branches, which, wrong):
    inputs = attention_inputs(23)
    expected = nsa_attention(**inputs, **SIZES, branches=branches)
    inputs[which][:, 14, 1] = wrong
    output = nsa_attention(**inputs, **SIZES, branches=branches)
    assert relative_error(output[:, :14], expected[:, :14]) < TOLERANCE[torch.float64]
    assert relative_error(output[:, :, :2], expected[:, :, :2]) < TOLERANCE[torch.float64]  # the other key head's
    if which == "value":
        assert output[:, 15, 2:].isnan().all()  # its block ends with 15, and the window holds 14


@pytest.mark.parametrize("queries", [0, 1, 9, 22])
def test_the_last_queries_alone_are_as_among_all(queries, monkeypatch):
    inputs = attention_inputs(23)
    last = {name: tensor[:, 23 - queries :] for name, tensor in inputs.items() if name in ("query", "gates")}
    monkeypatch.setattr(reference_module, "CHUNK_ELEMENTS", 4 * 23 * 5)  # five queries at a time
    whole = nsa_attention(**inputs, **SIZES)
    assert relative_error(nsa_attention(**{**inputs, **last}, **SIZES), whole[:, 23 - queries :]) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_precision(dtype):
    exact = attention_inputs(40)
    rounded = {name: tensor.to(dtype) for name, tensor in exact.items()}
    output = nsa_attention(**rounded, **SIZES)
    expected = nsa_attention(**{name: tensor.double() for name, tensor in rounded.items()}, **SIZES)
    assert output.dtype == dtype
    assert relative_error(output, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"branches": ("cmp", "foo")}, "subset of cmp, slc, swa"),
        ({"branches": ()}, "non-empty"),
        ({"window": 0}, "window=0 is not valid: 1 or more while swa"),
        ({"block_size": 0}, "block_size=0"),
        ({"block_count": 0}, "block_count=0"),
        ({"backend": "cuda"}, "auto, reference, triton"),
        ({"gates": torch.zeros(1, 8, 4)}, "gates must be"),
        ({"key": torch.zeros(1, 8, 3, 8)}, "multiple of the 3"),
        ({"cu_seqlens": torch.tensor([0, 5, 9])}, "rise from 0 to 8"),
        ({"cu_seqlens": torch.tensor([1, 8])}, r"rise from 0 to 8, the packed length; got \[1, 8\]"),
        ({"cu_seqlens": torch.tensor([0, 5, 3, 8])}, "rise from 0 to 8"),
        ({"cu_seqlens": torch.arange(20)}, r"got \[0, 1, 2, 3, 4, 5, 6, 7, \.\.\. 19\]"),
        ({"cu_seqlens": torch.tensor([0.0, 8.0])}, r"must be int32 \[N \+ 1\]; got torch.float32 \[2\]"),
        ({"cu_seqlens": torch.tensor([[0, 8]])}, r"must be int32 \[N \+ 1\]"),
        ({"cu_seqlens": torch.tensor([], dtype=torch.int32)}, r"must be int32 \[N \+ 1\]"),
        ({"branches": ("cmp", "cmp")}, "branches='cmp\\+cmp' is not valid: a subset of cmp, slc, swa, each once"),
        ({"branches": "cmp+slc"}, "a subset of cmp, slc, swa"),
        ({"window": -1, "branches": ("cmp",)}, "window=-1 is not valid: a whole number of at least 0"),
        ({"window": 2.0}, "window=2.0 is not valid: a whole number"),
        ({"block_size": -4}, "block_size=-4 is not valid: a whole number of at least 1"),
        ({"block_count": True}, "block_count=True is not valid: a whole number"),
        (
            {"value": torch.zeros(1, 8, 2, 8)},
            "share one floating type; got torch.float64, torch.float64, torch.float32",
        ),
        ({name: torch.zeros(1, 8, 4, 8).int() for name in ("query", "key", "value")}, "one floating type"),
        ({"gates": torch.ones(1, 8, 4, 3).long()}, "gates must be of a floating type; got torch.int64"),
        ({"gates": torch.ones(1, 8, 4, 3, device="meta")}, "on one device; got cpu, cpu, cpu, meta"),
        ({"key": torch.zeros(1, 8, 0, 8)}, "at least 1"),
        ({"query": torch.zeros(8, 4, 8)}, r"must be \[B, L, heads, D\]"),
        ({"query": torch.zeros(1, 9, 4, 8)}, r"key must be \[1, 9, 2, 8\]"),
        (
            {"query": torch.zeros(1, 7, 4, 8).double(), "gates": torch.ones(1, 7, 4, 3), "cu_seqlens": torch.arange(8)},
            "7 queries of 8 tokens are the last ones of one sequence: without cu_seqlens",
        ),
    ],
)
def test_bad_arguments_are_refused_with_what_is_right(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        nsa_attention(**{**attention_inputs(8), **SIZES, **change})
    assert "\n" not in str(caught.value)


def test_what_looks_odd_and_makes_sense_is_computed():
    """Blocks and windows wider than the sequence, more blocks than there are, no window, gates of another type."""
    inputs = attention_inputs(8, dtype=torch.bfloat16)
    wide = nsa_attention(**inputs, block_size=100, block_count=100, window=100)
    assert torch.equal(nsa_attention(**inputs, block_size=8, block_count=1, window=8, branches=["slc", "swa"]), wide)
    gates = inputs["gates"].float()
    assert torch.equal(nsa_attention(**inputs | {"gates": gates}, block_size=100, block_count=100, window=100), wide)
    assert torch.equal(
        nsa_attention(**inputs, block_size=4, block_count=1, window=0, branches=("slc", "cmp")),
        nsa_attention(**inputs, block_size=4, block_count=1, window=5, branches=("cmp", "slc")),
    )
