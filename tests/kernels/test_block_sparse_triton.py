"""The kernels of sparse prefill: what they refuse, and their promises on a GPU (logic: interpreted_block_sparse.py)."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from tests.helpers import TOLERANCE
from tests.kernels.block_sparse_cases import Sparse, antidiagonal_error, draw, error, inputs
from videonsa.kernels.block_sparse import block_sparse_attention

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
GPU_CASES = [
    *(Sparse(kind, 4097, 28, 4, 128, size) for kind in ("blocks", "slash", "band", "all") for size in (64, 128)),
    Sparse("slash", 1, 28, 4, 128, 64),
    Sparse("slash", 63, 7, 1, 64, 64),
    Sparse("blocks", 1000, 4, 4, 64, 128),
    Sparse("slash", 777, 6, 2, 32, 16),
    Sparse("band", 2000, 14, 2, 128, 32),
    Sparse("none", 300, 2, 1, 128, 64),
]


@needs_triton
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 24}, r"heads of 24 in blocks of 16 are not served by backend='triton'"),
        ({"block_size": 48}, r"heads of 16 in blocks of 48 are not served by backend='triton'"),
        ({}, "backend='triton' runs on a CUDA device, or 'reference' anywhere; got tensors on cpu"),
    ],
)
def test_what_is_not_served_is_refused(change, message):
    case = Sparse(
        **{**{"kind": "blocks", "length": 40, "heads": 2, "kv_heads": 1, "size": 16, "block_size": 16}, **change}
    )
    with pytest.raises(ValueError, match=message):
        block_sparse_attention(*inputs(case, torch.float32), draw(case), backend="triton")


@needs_triton
def test_a_gradient_is_refused_by_triton_and_given_by_auto():
    case = Sparse("blocks", 40, 2, 1, 16, 16)
    tensors = [tensor.requires_grad_() for tensor in inputs(case, torch.float32)]
    with pytest.raises(ValueError, match="gives no gradients of attention to chosen keys: 'reference' does"):
        block_sparse_attention(*tensors, draw(case), backend="triton")
    assert block_sparse_attention(*tensors, draw(case)).requires_grad


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("case", GPU_CASES, ids=str)
def test_the_output_equals_the_reference(case, dtype):
    assert error(case, dtype, "cuda") < TOLERANCE[dtype]


@pytest.mark.gpu
@pytest.mark.parametrize("block_size", [64, 128])
@pytest.mark.parametrize("kind", ["blocks", "slash", "band"])
@pytest.mark.parametrize("at", [70, 1111])
def test_a_nan_reaches_the_rows_that_see_it_and_no_other_and_bits_repeat(kind, block_size, at):
    case = Sparse(kind, 1500, 7, 1, 128, block_size)
    tensors, choice = inputs(case, torch.bfloat16, "cuda"), draw(case, "cuda")
    clean = block_sparse_attention(*tensors, choice)
    assert torch.equal(block_sparse_attention(*tensors, choice, backend="triton"), clean)
    for tensor in tensors[1:]:
        tensor[at] = torch.nan
    output = block_sparse_attention(*tensors, choice)
    reached = choice.mask()[:, :, at].T
    assert torch.equal(output[~reached], clean[~reached])
    assert output[reached].isnan().all()
    assert reached.any()


@pytest.mark.gpu
def test_auto_takes_the_reference_where_a_gradient_is_asked():
    case = Sparse("slash", 300, 4, 2, 64, 64)
    tensors = [tensor.requires_grad_() for tensor in inputs(case, torch.bfloat16, "cuda")]
    assert block_sparse_attention(*tensors, draw(case, "cuda")).requires_grad


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("length", "stride", "block_size"), [(5000, 16, 128), (4096, 8, 128), (3001, 16, 64), (9, 4, 16)]
)
def test_antidiagonal_scores_are_those_of_torch(length, stride, block_size):
    """Products of half-precision numbers are exact in float32 on both sides: only the order of sums differs."""
    query, key, _ = inputs(Sparse("all", length, 14, 2, 128, block_size), torch.bfloat16, "cuda")
    assert antidiagonal_error(query, key, stride, block_size) < TOLERANCE[torch.float32]
