"""The Triton backend: its logic in the interpreter (anywhere triton is installed), and on a GPU every promise of it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.helpers import TOLERANCE, relative_error
from tests.kernels.triton_cases import ALL, Shape, errors, poisoned, run, tensors
from videonsa.bench import fuzz
from videonsa.kernels import nsa_attention, tiling

HERE = Path(__file__).parent
GPU_SHAPES = [
    Shape(4097, 28, 4, 128, 64, 32, 256),
    Shape(1, 28, 4, 128, 64, 32, 256),
    Shape(63, 7, 1, 64, 64, 4, 16),
    Shape(65, 14, 2, 128, 32, 2, 300),
    Shape(111, 16, 1, 128, 16, 3, 10, batch=3),
    Shape(1000, 28, 4, 128, 64, 4, 100, ends=(0, 1, 64, 127, 500, 1000)),
    Shape(3000, 4, 4, 64, 128, 7, 1000),
    Shape(6000, 14, 2, 128, 16, 8, 64),
    Shape(500, 4, 2, 32, 16, 3, 40),
    Shape(2000, 6, 2, 64, 16, 20, 64),
    *(Shape(4097, 14, 2, 128, 64, 8, 256, queries=queries) for queries in (4000, 1001, 3)),
    *(Shape(777, 7, 1, 128, 64, 5, 64, branches=names) for names in (("cmp",), ("slc",), ("swa",), ("cmp", "slc"))),
]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed: no interpreter")
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "marked", ["not long", pytest.param("long", marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)
def test_logic_in_the_interpreter(marked):
    files = sorted(map(str, HERE.glob("interpreted_*.py")))  # of all kernels, in one process
    if marked == "long":
        files = [str(HERE / "interpreted_triton.py")]  # the release's take longer: test_release_triton.py
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", marked, *files]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, cwd=HERE.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize(("size", "block_size", "dtype"), [(24, 16, None), (64, 48, None), (64, 16, torch.float64)])
def test_what_is_not_served_is_refused(size, block_size, dtype):
    inputs = tensors(Shape(8, 2, 1, size, block_size, 2, 4), dtype or torch.float32, "cpu")
    with pytest.raises(ValueError, match=r"triton|share"):
        nsa_attention(*inputs[:4], block_size=block_size, block_count=2, window=4, backend="triton")


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_without_a_device_it_says_so():
    inputs = tensors(Shape(8, 2, 1, 16, 16, 2, 4), torch.bfloat16, "cpu")
    with pytest.raises(ValueError, match="runs on a CUDA device, or 'reference' anywhere; got tensors on cpu"):
        nsa_attention(*inputs[:4], block_size=16, block_count=2, window=4, backend="triton")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("way", ["listed", "masked"])
@pytest.mark.parametrize("shape", GPU_SHAPES, ids=str)
def test_output_and_gradients_equal_the_reference(shape, way, dtype):
    with tiling.selection(way):
        found = errors(shape, dtype, "cuda")
    assert max(found.values()) < TOLERANCE[dtype], found


@pytest.mark.gpu
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
@pytest.mark.parametrize("way", ["listed", "masked"])
def test_drawn_shapes(way, data):
    ends = sorted(data.draw(st.lists(st.integers(1, 900), min_size=1, max_size=4, unique=True)))
    group = data.draw(st.integers(1, 16))
    kv_heads = data.draw(st.integers(1, 4))
    branches = data.draw(st.lists(st.sampled_from(ALL), min_size=1, unique=True))
    shape = Shape(
        ends[-1], group * kv_heads, kv_heads, data.draw(st.sampled_from([64, 128])),
        data.draw(st.sampled_from([16, 32, 64, 128])), data.draw(st.integers(1, 40)), data.draw(st.integers(1, 400)),
        tuple(name for name in ALL if name in branches), (0, *ends),
    )  # fmt: skip
    assume(shape.length > 0)
    with tiling.selection(way):
        found = errors(shape, torch.bfloat16, "cuda")
    assert max(found.values(), default=0) < TOLERANCE[torch.bfloat16], found


@pytest.mark.gpu
@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize(("block_size", "block_count"), [(16, 2), (16, 3), (32, 2), (32, 3)])
def test_large_scores_choose_as_float64_does(size, block_size, block_count):
    shape = fuzz.Shape(
        900, 14, 2, size, block_size, block_count, 64, "bfloat16", "large", ALL, batch=1, ends=None, given_scale=0.3
    )
    found = fuzz.judge(shape, 0, "cuda")
    assert max(found.values()) <= 1, found


@pytest.mark.gpu
def test_error_is_at_most_twice_that_of_plain_torch_in_the_same_type(monkeypatch):
    shape = Shape(2049, 28, 4, 128, 64, 32, 256)  # every visible block is chosen in most rows: no choice differs
    inputs = tensors(shape, torch.bfloat16, "cuda")
    exact = run(shape, "reference", [tensor.double() for tensor in inputs])
    ours = run(shape, "triton", inputs)
    monkeypatch.setattr(torch, "promote_types", lambda dtype, other: dtype)  # the reference then stays in bfloat16
    plain = run(shape, "reference", inputs)
    for a, b, c in zip(ours, plain, exact, strict=True):
        assert relative_error(a, c) < 2 * relative_error(b, c)


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["listed", "masked"])
def test_bits_repeat_and_nothing_is_left_unwritten(way, monkeypatch):
    shape = Shape(3001, 28, 4, 128, 64, 16, 256)
    inputs = tensors(shape, torch.bfloat16, "cuda")
    with tiling.selection(way):
        first = run(shape, "triton", inputs)
        again = poisoned(lambda: run(shape, "triton", inputs), monkeypatch)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["listed", "masked"])
@pytest.mark.parametrize("at", [0, 64, 700, 1999])
def test_no_output_depends_on_a_later_token(at, way):
    shape = Shape(2000, 7, 1, 128, 64, 8, 100)
    inputs = tensors(shape, torch.bfloat16, "cuda")
    changed = [tensor.clone() for tensor in inputs]
    for tensor in changed[:3]:
        tensor[:, at:] = torch.randn_like(tensor[:, at:]) * 3
    with tiling.selection(way):
        before, after = run(shape, "triton", inputs)[0], run(shape, "triton", changed)[0]
    assert torch.equal(before[:, :at], after[:, :at])
    assert not torch.equal(before[:, at:], after[:, at:])


@pytest.mark.gpu
def test_under_compile_autocast_and_checkpointing():
    shape = Shape(600, 14, 2, 64, 64, 4, 64)
    inputs = tensors(shape, torch.bfloat16, "cuda")
    sizes = {"block_size": 64, "block_count": 4, "window": 64, "backend": "triton"}

    def layer(*tensors):
        return nsa_attention(*(tensor * 1 for tensor in tensors), **sizes) * 1

    wanted = run(shape, "triton", inputs)
    checkpointed = lambda *leaves: torch.utils.checkpoint.checkpoint(layer, *leaves, use_reentrant=False)  # noqa: E731
    for call in (torch.compile(layer), checkpointed):
        leaves = [tensor.detach().requires_grad_() for tensor in inputs[:4]]
        with torch.autocast("cuda", torch.bfloat16):
            output = call(*leaves)
        found = [output, *torch.autograd.grad(output, leaves, inputs[4])]
        assert all(relative_error(a, b) < 1e-3 for a, b in zip(found, wanted, strict=True))
