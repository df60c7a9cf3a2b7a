"""Choices on a GPU: the same as on the CPU, and in memory at 128K tokens."""

from __future__ import annotations

import pytest
import torch

from tests.methods.test_choices import METHODS
from videonsa.bench.lifelike import lifelike
from videonsa.methods import registry

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
NAMES = ("tri_shape", "minference", "flexprefill", "xattention")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_a_gpu_chooses_as_the_cpu_does(method, dtype):
    """But for near ties: products are summed in another order there."""
    made = lifelike(777, 4, 2, 128, dtype=dtype, device="cpu", seed=3)
    here, there = (METHODS[method](made.query.to(d), made.key.to(d), 128**-0.5).mask().cpu() for d in ("cpu", "cuda"))
    assert int((here != there).sum()) <= here.numel() // 10_000


@pytest.mark.parametrize("name", NAMES)
def test_a_choice_of_128k_tokens_is_repeated_and_takes_little_memory(name):
    made = lifelike(131_072, device="cuda")
    entry = registry.entries()[name]
    method = registry.load(entry)(entry.settings(), None)
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    one, other = (method.choose(made.query, made.key, 128**-0.5, 9) for _ in range(2))
    assert torch.cuda.max_memory_allocated() - held < 4 * 2**30
    assert torch.equal(one.counts, other.counts)
    used = torch.arange(one.starts.shape[-1], device="cuda") < one.counts[..., None]
    assert torch.equal(one.starts.where(used, 0), other.starts.where(used, 0))
    assert one.columns is None or torch.equal(one.columns, other.columns)
