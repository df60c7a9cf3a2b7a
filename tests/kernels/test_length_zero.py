"""No tokens, no queries, no samples: every path returns nothing, with gradients that are empty and hold no NaN.

On the CPU a launch of a Triton kernel would raise, so the Triton backend's pass here shows that none is launched.
"""

from __future__ import annotations

import importlib.util

import pytest
import torch

from tests.helpers import attention_inputs
from videonsa.kernels import nsa_attention, release
from videonsa.kernels.text import text_attention

SIZES = {"block_size": 16, "block_count": 2, "window": 4}
HAS_TRITON = importlib.util.find_spec("triton") is not None
BACKENDS = ["reference", pytest.param("triton", marks=pytest.mark.skipif(not HAS_TRITON, reason="no triton"))]


def gradients(output: torch.Tensor, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(zip(inputs, torch.autograd.grad(output, list(inputs.values()), torch.ones_like(output)), strict=True))


def assert_empty(output: torch.Tensor, inputs: dict[str, torch.Tensor]) -> None:
    assert output.shape == inputs["query"].shape
    assert output.dtype == inputs["query"].dtype
    for name, gradient in gradients(output, inputs).items():
        assert gradient.shape == inputs[name].shape, name
        assert not gradient.any(), name


def leaves(length: int, batch: int = 1, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    inputs = attention_inputs(length, batch=batch, size=16, dtype=dtype)
    return {name: tensor.requires_grad_() for name, tensor in inputs.items()}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("length", "batch", "ends"),
    [(0, 1, None), (0, 3, None), (20, 0, None), (0, 1, [0]), (0, 1, [0, 0]), (0, 1, [0, 0, 0, 0])],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_tokens(backend, length, batch, ends, dtype):
    inputs = leaves(length, batch, dtype)
    cu_seqlens = None if ends is None else torch.tensor(ends, dtype=torch.int32)
    assert_empty(nsa_attention(**inputs, **SIZES, cu_seqlens=cu_seqlens, backend=backend), inputs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_tokens_but_bounds_of_some_are_refused(backend):
    with pytest.raises(ValueError, match=r"cu_seqlens must rise from 0 to 0, the packed length; got \[0, 5\]"):
        nsa_attention(**leaves(0), **SIZES, cu_seqlens=torch.tensor([0, 5]), backend=backend)


def test_samples_without_tokens_change_nothing():
    results = []
    for ends in ([0, 20, 50], [0, 0, 20, 20, 20, 50, 50]):
        inputs = leaves(50)
        output = nsa_attention(**inputs, **SIZES, cu_seqlens=torch.tensor(ends, dtype=torch.int32))
        results.append([output, *gradients(output, inputs).values()])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_no_text_queries(backend):
    inputs = leaves(7)
    inputs = {name: inputs[name][0].detach().requires_grad_() for name in ("query", "key", "value")}
    inputs["query"] = inputs["query"].detach()[:0].requires_grad_()
    positions = torch.zeros(0, dtype=torch.int64)
    assert_empty(text_attention(*inputs.values(), positions, backend=backend), inputs)


@pytest.mark.parametrize("differences", [release.DIFFERENCES, ()], ids=["release", "paper"])
@pytest.mark.parametrize(("length", "batch"), [(0, 1), (0, 2), (20, 0)])
def test_no_tokens_under_release_semantics(length, batch, differences):
    inputs = leaves(length, batch)
    is_vision = torch.ones(length, dtype=torch.bool)
    output = release.mixed_attention(**inputs, is_vision=is_vision, **SIZES, differences=frozenset(differences))
    assert_empty(output, inputs)


@pytest.mark.gpu
@pytest.mark.parametrize("length", [0, 300], ids=["no tokens", "some samples without"])
def test_on_a_device(length):
    inputs = attention_inputs(length, heads=14, size=64, dtype=torch.bfloat16)
    inputs = {name: tensor.cuda().requires_grad_() for name, tensor in inputs.items()}
    ends = torch.tensor([0, 0, length // 3, length // 3, length, length], dtype=torch.int32, device="cuda")
    output = nsa_attention(**inputs, **SIZES, cu_seqlens=ends)
    found = gradients(output, inputs)
    torch.cuda.synchronize()
    assert all(found[name].shape == inputs[name].shape for name in inputs)
    assert all(tensor.isfinite().all() for tensor in (output, *found.values()))
