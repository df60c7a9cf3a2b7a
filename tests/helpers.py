"""Shared by the tests: the one tolerance table, and small random inputs."""

from __future__ import annotations

import torch
from torch import Tensor

# Relative error in norm, |out - reference| / |reference|, that a correct implementation may show in each precision.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def relative_error(output: Tensor, reference: Tensor) -> float:
    """|output - reference| / |reference| in float64; NaN where either holds one, so that no comparison passes."""
    output, reference = output.double(), reference.double()
    return float((output - reference).norm() / reference.norm().clamp_min(1e-30))


def attention_inputs(
    length: int,
    *,
    batch: int = 1,
    heads: int = 4,
    kv_heads: int = 2,
    size: int = 8,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Random query, key, value and gates for `nsa_attention`; gates from 0 to 1."""
    generator = torch.Generator().manual_seed(seed)

    def normal(count: int, last: int) -> Tensor:
        return torch.randn(batch, length, count, last, generator=generator, dtype=torch.float64).to(dtype)

    gates = normal(heads, 3).double().sigmoid().to(dtype)
    return {
        "query": normal(heads, size),
        "key": normal(kv_heads, size),
        "value": normal(kv_heads, size),
        "gates": gates,
    }
