"""Fused parts, text of several samples and a decoded token's attention on a card: half precision against float32."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import silu

from tests.helpers import TOLERANCE, relative_error

pytestmark = [pytest.mark.gpu, pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator("cuda").manual_seed(seed), device="cuda")


def hold(ours, exact, inputs, dtype):
    """Outputs and gradients of `ours` in the dtype are those of `exact` in float32."""
    results = []
    for compute, kind in ((ours, dtype), (exact, torch.float32)):
        leaves = [tensor.to(dtype).to(kind).requires_grad_() for tensor in inputs]
        outputs = compute(*leaves)
        weights = [noise(*output.shape, seed=9 + i).to(dtype).to(kind) for i, output in enumerate(outputs)]
        results.append([*outputs, *torch.autograd.grad(outputs, leaves, weights)])
    for one, other in zip(*results, strict=True):
        assert relative_error(one.detach(), other.detach()) < TOLERANCE[dtype]


@pytest.mark.parametrize("columns", [1280, 3584, 100])
@pytest.mark.parametrize("rows", [1, 3000])
def test_norms(rows, columns, dtype):
    from videonsa.kernels import fused

    def exact(x, y, w):
        total = x + y
        return w * total * torch.rsqrt(total.square().mean(-1, keepdim=True) + 1e-6), total

    inputs = noise(rows, columns), noise(rows, columns, seed=1), 1 + noise(columns, seed=2)
    hold(lambda *given: fused.add_norm(*given, 1e-6), exact, inputs, dtype)
    hold(
        lambda x, w: [fused.norm(x, w, 1e-6)],
        lambda x, w: [exact(x, torch.zeros_like(x), w)[0]],
        inputs[::2], dtype,
    )  # fmt: skip


@pytest.mark.parametrize(("heads", "size"), [(28, 128), (16, 80), (1, 16)])
def test_rotation(heads, size, dtype):
    from videonsa.kernels import fused

    angles = noise(1000, size // 2, seed=1)
    cosines, sines = (torch.cat([f(angles), f(angles)], -1) for f in (torch.cos, torch.sin))

    def exact(x):
        middle = x.unflatten(1, (3, heads, size))[:, 1]
        turned = torch.cat([-middle[..., size // 2 :], middle[..., : size // 2]], -1)
        return [middle * cosines[:, None] + turned * sines[:, None]]

    def ours(x):
        return [fused.rotate(x.unflatten(1, (3, heads, size))[:, 1], cosines, sines)]

    hold(ours, exact, [noise(1000, 3 * heads * size)], dtype)


def test_activation(dtype):
    from videonsa.kernels import fused

    inputs = noise(3000, 3456), noise(3000, 3456, seed=1)
    hold(lambda g, u: [fused.gated(g, u)], lambda g, u: [silu(g) * u], inputs, dtype)


def test_text_of_several_samples(dtype):
    from videonsa.kernels.text import Span, text_attention

    spans = (Span(0, 70, 5, 705), Span(70, 70, 705, 800), Span(70, 500, 900, 5000))
    positions = torch.cat([torch.arange(70) + 600, torch.arange(430) * 9]).cuda()
    tensors = noise(500, 28, 128), noise(5100, 4, 128, seed=1), noise(5100, 4, 128, seed=2)

    def run(backend):
        return lambda *given: [text_attention(*given, positions, 128**-0.5, backend, spans)]

    hold(run("auto"), run("reference"), tensors, dtype)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("batch", "length", "step"), [(1, 1, 0), (3, 777, 5), (1, 40_000, 63), (48, 300, 2)])
def test_a_decoded_tokens_attention(batch, length, step, masked, dtype):
    from videonsa.kernels.decode import Prompt, decode_reference, make_table
    from videonsa.kernels.decode_triton import decode_attention

    key, value = (noise(batch, 4, length + 9, 128, seed=seed).to(dtype) for seed in (0, 1))
    is_token = noise(batch, length, seed=2) > 0 if masked else None
    prompt = Prompt(key, value, length, is_token)
    recent, query = noise(2, batch, 4, 64, 128, seed=3).to(dtype), noise(batch, 28, 128, seed=4).to(dtype)
    table = make_table([prompt]).cuda()
    found = decode_attention(query, table[0], recent, torch.tensor([step], device="cuda"), 128**-0.5)
    exact = Prompt(key.float(), value.float(), length, is_token)
    expected = decode_reference(query.float(), exact, recent.float(), step, 128**-0.5)
    assert relative_error(found, expected) < TOLERANCE[dtype]
