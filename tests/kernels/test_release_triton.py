"""Release semantics on the Triton backend: in the interpreter, and on a GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers import TOLERANCE, attention_inputs, relative_error
from videonsa.bench import release as bench
from videonsa.bench.case import Case
from videonsa.kernels import release
from videonsa.names import DIFFERENCES

HERE = Path(__file__).parent
TRITON = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
ALL = frozenset(DIFFERENCES)


@TRITON  # its quick part runs with all other kernels': test_triton.py
@pytest.mark.long
@pytest.mark.timeout(3600)
def test_every_difference_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=1200", "-m", "long"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [*command, str(HERE / "interpreted_release.py")],
        env=environment, cwd=HERE.parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]


@TRITON
def test_without_a_device_it_says_so():
    inputs = attention_inputs(8, size=16, dtype=torch.bfloat16)
    is_vision = torch.ones(8, dtype=torch.bool)
    with pytest.raises(ValueError, match="runs on a CUDA device, or 'reference' anywhere; got tensors on cpu"):
        release.mixed_attention(**inputs, is_vision=is_vision, block_size=16, block_count=2, window=4, backend="triton")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    "sizes",
    [
        (5000, 28, 4, 128, 64, 32, 256),
        (4097, 28, 4, 128, 64, 5, 37),
        (3001, 28, 4, 128, 32, 32, 100),
        (2500, 14, 2, 64, 16, 8, 64),
        (700, 10, 2, 64, 64, 40, 1000),
        (300, 6, 2, 32, 128, 2, 9),
        (4000, 3, 3, 128, 128, 3, 64),
    ],
)
def test_choices_and_outputs_are_those_of_the_torch_path(sizes, dtype):
    case = Case(*sizes, dtype, "random")
    bench.check(*bench.make_inputs(case), case, ALL)


@pytest.mark.gpu
@pytest.mark.parametrize("difference", DIFFERENCES)
def test_each_difference_alone_and_the_release_without_it(difference):
    case = Case(4500, 28, 4, 128, 64, 20, 100, "bfloat16", "random")
    for names in ({difference}, ALL - {difference}):
        bench.check(*bench.make_inputs(case), case, frozenset(names))


@pytest.mark.gpu
@pytest.mark.parametrize("without", [None, "cmp_mask", "head_layout", "vision_packing", "importance_round_up"])
@pytest.mark.parametrize("sizes", [(1500, 28, 4, 128, 64, 32, 100), (3000, 14, 2, 64, 16, 200, 64)])
def test_gradients_are_those_of_the_torch_path(sizes, without):
    """Where all blocks are chosen: no choice can differ."""
    case = Case(*sizes, "bfloat16", "random")
    names = ALL - {without} - ({"importance_round_up"} if case.block_count > case.block_size else set())
    tensors, is_vision = bench.make_inputs(case)
    grad = torch.randn_like(tensors["query"])
    found = []
    for backend in ("triton", "reference"):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
        output = bench.attention(leaves, is_vision, case, names, backend)
        found.append([output.detach(), *torch.autograd.grad(output, list(leaves.values()), grad)])
    assert max(relative_error(ours, torchs) for ours, torchs in zip(*found, strict=True)) < TOLERANCE[torch.bfloat16]
