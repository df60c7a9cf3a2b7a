"""Attention to chosen keys: what a choice means, by hand; the reference against dense attention under its mask."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import relative_error
from videonsa.kernels import block_sparse
from videonsa.kernels.block_sparse import KeyChoice, block_sparse_attention


def int32(*numbers):
    return torch.tensor(numbers, dtype=torch.int32)


def inputs(length, heads=2, kv_heads=1, size=8, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, h, size, generator=generator, dtype=dtype) for h in (heads, kv_heads, kv_heads)]


def masked(query, key, value, mask):
    """Attention under a mask [Hq, L, L], one query of one head after the other."""
    length, heads, size = query.shape
    output = torch.zeros_like(query)
    for head in range(heads):
        kv_head = head // (heads // key.shape[1])
        for i in range(length):
            seen = mask[head, i].nonzero()[:, 0]
            if len(seen):
                weights = (key[seen, kv_head] @ query[i, head] / size**0.5).softmax(0)
                output[i, head] = weights @ value[seen, kv_head]
    return output


def literal_mask(choice):
    """The definition of `KeyChoice`, in Python."""
    mask = torch.zeros(choice.heads, choice.length, choice.length, dtype=torch.bool)
    for head in range(choice.heads):
        for i in range(choice.length):
            block = i // choice.block_size
            keys = set()
            for start in choice.starts[head, block, : choice.counts[head, block]].tolist():
                for j in range(start, start + choice.block_size):
                    sink, window, dense_from = choice.band or (0, choice.length, 0)
                    if j < sink or i - j < window or i >= dense_from:
                        keys.add(j)
            if choice.columns is not None:
                keys.update(j for j in choice.columns[head].tolist() if j >= 0)
            for j in keys:
                if j <= i:
                    mask[head, i, j] = True
    return mask


@st.composite
def choices(draw):
    """Any choice of at most 40 tokens and 3 heads, with unaligned blocks, columns or a band."""
    length, block_size, heads = draw(st.integers(1, 40)), draw(st.integers(1, 9)), draw(st.integers(1, 3))
    blocks = -(-length // block_size)
    most = draw(st.integers(1, blocks + 1))
    starts = torch.randint(0, 99, (heads, blocks, most), dtype=torch.int32)
    counts = torch.zeros(heads, blocks, dtype=torch.int32)
    for head in range(heads):
        for block in range(blocks):
            at = draw(st.integers(0, 3))
            count = 0
            while count < most and at < length:
                starts[head, block, count] = at
                count += 1
                at += block_size + draw(st.integers(0, 2 * block_size))
            counts[head, block] = count
    columns = band = None
    kind = draw(st.sampled_from(["blocks", "columns", "band"]))
    if kind == "columns":
        drawn = [sorted(draw(st.sets(st.integers(0, length - 1), max_size=6))) for _ in range(heads)]
        columns = int32(*(row + [-1] * (7 - len(row)) for row in drawn))
    if kind == "band":
        band = (draw(st.integers(0, 6)), draw(st.integers(0, 20)), draw(st.integers(0, length + 1)))
    return KeyChoice(length, block_size, starts, counts, columns, band)


@settings(max_examples=60, deadline=None)
@given(choices(), st.integers(1, 2), st.integers(0, 1))
def test_the_reference_is_attention_under_the_mask_of_the_definition(choice, group, small_runs):
    wanted = literal_mask(choice).repeat_interleave(group, 0)
    choice = KeyChoice(
        choice.length, choice.block_size, choice.starts.repeat_interleave(group, 0),
        choice.counts.repeat_interleave(group, 0),
        None if choice.columns is None else choice.columns.repeat_interleave(group, 0), choice.band,
    )  # fmt: skip
    assert torch.equal(choice.mask(), wanted)
    assert choice.pairs().tolist() == wanted.sum((1, 2)).tolist()
    query, key, value = inputs(choice.length, choice.heads, choice.heads // group)
    with pytest.MonkeyPatch.context() as patch:
        if small_runs:
            patch.setattr(block_sparse, "CPU_CHUNK_ELEMENTS", 1)
        output = block_sparse_attention(query, key, value, choice)
    torch.testing.assert_close(output, masked(query, key, value, wanted))


def test_unaligned_blocks_columns_and_pairs_by_hand():
    """Six tokens in blocks of two; rows 4, 5 see the keys 1, 2 (a block from 1 on), 4, 5 and the column 0."""
    choice = KeyChoice(
        6, 2, int32([[0, 7], [1, 9], [1, 4]]), int32([1, 1, 2]), columns=int32([0, 2, -1])
    )  # fmt: skip
    rows = ["100000", "110000", "111000", "111000", "111010", "111011"]
    assert choice.mask()[0].int().tolist() == [[int(mark) for mark in row] for row in rows]
    assert choice.pairs().tolist() == [1 + 2 + 3 + 3 + 4 + 5]


def test_a_band_by_hand():
    """Sink 1, window 2, dense from 4: Tri-Shape's three parts, within all causal blocks."""
    choice = KeyChoice.of_blocks(torch.ones(1, 3, 3, dtype=torch.bool), 2, 5, band=(1, 2, 4))
    rows = ["10000", "11000", "11100", "10110", "11111"]
    assert choice.mask()[0].int().tolist() == [[int(mark) for mark in row] for row in rows]
    assert choice.pairs().tolist() == [1 + 2 + 3 + 3 + 5]


def test_pairs_of_a_long_sample_and_of_heads_that_are_alike():
    """131,072 tokens in one block, and in 1,024 that all heads share: what 32 bits would not hold."""
    length = 131072
    all_pairs = length * (length + 1) // 2
    whole = KeyChoice(length, length, int32([[0]]), int32([1]))
    assert whole.pairs().tolist() == [all_pairs]
    blocks = KeyChoice.of_blocks(torch.ones(1, 1024, 1024, dtype=torch.bool), 128, length)
    alike = KeyChoice(length, 128, blocks.starts.expand(3, -1, -1), blocks.counts.expand(3, -1), band=(0, 2**40, 0))
    assert alike.pairs().tolist() == [all_pairs] * 3


def test_of_blocks_lists_what_the_map_says_and_drops_the_future():
    chosen = torch.tensor([[[1, 1, 1], [0, 1, 1], [1, 0, 1]]], dtype=torch.bool)
    choice = KeyChoice.of_blocks(chosen, 4, 11)
    assert choice.counts.tolist() == [[1, 1, 2]]
    lists = [choice.starts[0, b, :n].tolist() for b, n in enumerate(choice.counts[0].tolist())]
    assert lists == [[0], [4], [0, 8]]


@pytest.mark.parametrize("length", [1, 7, 8, 63, 111])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (7, 1)], ids=str)
def test_all_blocks_are_dense_attention(length, heads):
    query, key, value = inputs(length, *heads)
    blocks = -(-length // 8)
    choice = KeyChoice.of_blocks(torch.ones(heads[0], blocks, blocks, dtype=torch.bool), 8, length)
    dense = torch.nn.functional.scaled_dot_product_attention(
        *(tensor.transpose(0, 1) for tensor in (query, key, value)), is_causal=True, enable_gqa=True
    )
    assert relative_error(block_sparse_attention(query, key, value, choice), dense.transpose(0, 1)) < 1e-12
    assert choice.pairs().tolist() == [length * (length + 1) // 2] * heads[0]


def test_gradients_are_those_of_attention_under_the_mask():
    tensors = [tensor.requires_grad_() for tensor in inputs(22, 4, 2)]
    chosen = torch.rand(4, 6, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    choice = KeyChoice.of_blocks(chosen | torch.eye(6, dtype=torch.bool), 4, 22)
    weights = torch.randn(22, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    outputs = (block_sparse_attention(*tensors, choice), masked(*tensors, choice.mask()))
    found, wanted = (torch.autograd.grad((output * weights).sum(), tensors) for output in outputs)
    for ours, exact in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, exact)


def test_a_query_without_keys_gets_0_and_no_nan():
    query, key, value = (tensor.requires_grad_() for tensor in inputs(4))
    choice = KeyChoice(4, 2, int32([[0], [0]], [[0], [0]]), int32([0, 1], [0, 1]))
    output = block_sparse_attention(query, key, value, choice)
    assert (output[:2] == 0).all()
    assert (output[2:] != 0).all()
    for gradient in torch.autograd.grad(output.sum(), (query, key, value)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("which", [0, 1, 2], ids=["query", "key", "value"])
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_a_nan_reaches_the_rows_that_see_it_and_no_other(which, wrong):
    tensors = inputs(20)
    choice = KeyChoice.of_blocks(torch.eye(3, dtype=torch.bool).expand(2, 3, 3), 8, 20)
    clean = block_sparse_attention(*tensors, choice)
    tensors[which][10, 0] = wrong
    output = block_sparse_attention(*tensors, choice)
    reached = torch.zeros(20, 2, dtype=torch.bool)
    reached[10 : 11 if which == 0 else 16, : 1 if which == 0 else 2] = True
    assert torch.equal(output.isfinite().all(-1), ~reached)
    assert torch.equal(output[~reached], clean[~reached])


def test_half_precision_comes_back_in_its_type():
    query, key, value = inputs(30, dtype=torch.bfloat16)
    choice = KeyChoice.of_blocks(torch.ones(2, 4, 4, dtype=torch.bool), 8, 30)
    output = block_sparse_attention(query, key, value, choice)
    exact = block_sparse_attention(query.double(), key.double(), value.double(), choice)
    assert output.dtype == torch.bfloat16
    assert relative_error(output, exact) < 3e-3


def test_no_tokens_are_no_work():
    with pytest.raises(ValueError, match="length=0 is not valid: a whole number of at least 1"):
        KeyChoice(0, 8, torch.zeros(2, 0, 1, dtype=torch.int32), torch.zeros(2, 0, dtype=torch.int32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"starts": torch.zeros(2, 3, 1)}, "starts must be int32; got torch.float32"),
        ({"starts": int32([[0]], [[0]])}, r"starts must be \[Hq, 3, M\] for 20 tokens in blocks of 8; got \[2, 1, 1\]"),
        ({"counts": int32([1, 1, 1])}, r"counts must be \[2, 3\]; got \[1, 3\]"),
        ({"columns": int32([0])}, r"columns must be \[2, C\]; got \[1, 1\]"),
        ({"columns": int32([0], [0]), "band": (1, 1, 1)}, "columns and band exclude each other"),
        ({"block_size": 0}, "block_size=0 is not valid"),
    ],
)
def test_a_choice_that_does_not_fit_is_refused(change, message):
    fields = {"length": 20, "block_size": 8, "starts": torch.zeros(2, 3, 1, dtype=torch.int32)}
    fields["counts"] = torch.ones(2, 3, dtype=torch.int32)
    with pytest.raises(ValueError, match=message):
        KeyChoice(**{**fields, **change})


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((20, 2, 8), (20, 3, 8), (20, 3, 8)), "the 2 query heads must be a multiple of the 3 key/value heads"),
        (((20, 2, 8), (21, 1, 8), (20, 1, 8)), r"key must be \[20, 1, 8\] beside query \[20, 2, 8\]"),
        (((1, 20, 2, 8), (20, 1, 8), (20, 1, 8)), r"query and key must be \[L, heads, D\]"),
        (((21, 2, 8), (21, 1, 8), (21, 1, 8)), "choice is of 20 tokens and 2 heads; query has 21 and 2"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(shapes, message):
    choice = KeyChoice.of_blocks(torch.ones(2, 3, 3, dtype=torch.bool), 8, 20)
    with pytest.raises(ValueError, match=message):
        block_sparse_attention(*(torch.zeros(shape) for shape in shapes), choice)


def test_an_unknown_backend_is_refused():
    choice = KeyChoice.of_blocks(torch.ones(2, 3, 3, dtype=torch.bool), 8, 20)
    with pytest.raises(ValueError, match="backend='cuda' is not valid: choose one of auto, reference, triton"):
        block_sparse_attention(*inputs(20), choice, backend="cuda")
