"""Norm, rotation and activation in Triton's interpreter, float32: the stock layers' outputs and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import silu
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRMSNorm, apply_rotary_pos_emb

from tests.helpers import TOLERANCE, relative_error
from videonsa.kernels import fused


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def compare(ours, stock, *inputs):
    """Outputs and the gradients of the inputs."""
    results = []
    for compute in (ours, stock):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        outputs = compute(*leaves)
        weights = [noise(*output.shape, seed=9 + i) for i, output in enumerate(outputs)]
        results.append([*outputs, *torch.autograd.grad(outputs, leaves, weights)])
    for one, other in zip(*results, strict=True):
        assert one.shape == other.shape
        assert relative_error(one.detach(), other.detach()) < TOLERANCE[torch.float32]


def stock_norm(x, weight):
    layer = Qwen2_5_VLRMSNorm(len(weight), eps=1e-3)
    del layer.weight
    layer.weight = weight
    return layer(x)


@pytest.mark.parametrize("rows", [1, 11])
def test_norm(rows, monkeypatch):
    monkeypatch.setattr(fused, "PROGRAMS", 4)
    compare(
        lambda x, w: [fused.norm(x, w, 1e-3)],
        lambda x, w: [stock_norm(x, w)],
        noise(1, rows, 24),
        1 + noise(24, seed=1),
    )


def test_sum_and_norm():
    compare(
        lambda x, y, w: fused.add_norm(x, y, w, 1e-3),
        lambda x, y, w: (stock_norm(x + y, w), x + y),
        noise(2, 5, 24), noise(2, 5, 24, seed=1), 1 + noise(24, seed=2),
    )  # fmt: skip


def test_a_sum_of_two_types_as_under_autocast():
    """Hidden states in float32, what a layer adds to them in half precision: each gets a gradient of its own type."""
    x, added, weight = noise(3, 5, 24), noise(3, 5, 24, seed=1).half(), 1 + noise(24, seed=2)
    leaves = [tensor.clone().requires_grad_() for tensor in (x, added, weight)]
    normed, total = fused.add_norm(*leaves, 1e-3)
    assert normed.dtype == total.dtype == torch.float32
    assert torch.equal(total, x + added)
    gradients = torch.autograd.grad([normed, total], leaves, [noise(3, 5, 24, seed=3), noise(3, 5, 24, seed=4)])
    assert [gradient.dtype for gradient in gradients] == [torch.float32, torch.float16, torch.float32]
    assert torch.equal(gradients[0].half(), gradients[1])


@pytest.mark.parametrize("hidden", [torch.float16, torch.float32])
def test_the_norm_in_the_type_that_products_round_it_to(hidden):
    """As under autocast: weights in float32, hidden states in either."""
    x, weight = noise(3, 5, 24).to(hidden).requires_grad_(), (1 + noise(24, seed=2)).requires_grad_()
    normed = fused.norm(x, weight, 1e-3, torch.float16)
    expected = stock_norm(x, weight).half()
    assert torch.equal(normed, expected)
    grad = noise(3, 5, 24, seed=3).half()
    ours, stock = (torch.autograd.grad(output, (x, weight), grad) for output in (normed, expected))
    for one, other in zip(ours, stock, strict=True):
        assert one.dtype == other.dtype
        assert relative_error(one, other) < TOLERANCE[torch.float16]


def test_rotation_of_a_part_of_each_row():
    """Heads of 12 between other numbers, as in the product of one layer for query, key and value."""
    angles = noise(7, 6)
    cosines, sines = (torch.cat([f(angles), f(angles)], -1) for f in (torch.cos, torch.sin))

    def part(x):
        return x.unflatten(1, (3, 5, 12))[:, 1]

    compare(
        lambda x: [fused.rotate(part(x), cosines, sines)],
        lambda x: [apply_rotary_pos_emb(part(x), part(x), cosines, sines)[0]],
        noise(7, 180, seed=1),
    )


def test_activation():
    compare(lambda g, u: [fused.gated(g, u)], lambda g, u: [silu(g) * u], noise(3, 500), noise(3, 500, seed=1))
