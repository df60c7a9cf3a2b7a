"""One shape of the benchmark: its sizes, its operation counts and its inputs (torch)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

DATA = ("random", "video")
CORRELATION = 0.98  # of a frame's content with the next frame's, in `video` data
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


class Inputs(NamedTuple):
    """query, grad [1, L, Hq, D]; key, value [1, L, Hkv, D]; gates [1, L, Hq, 3]. All but grad require gradients."""

    query: Tensor
    key: Tensor
    value: Tensor
    gates: Tensor
    grad: Tensor


@dataclass(frozen=True)
class Case:
    length: int
    heads: int
    kv_heads: int
    head_dim: int
    block_size: int
    block_count: int
    window: int
    dtype: str
    data: str

    @property
    def scale(self) -> float:
        return self.head_dim**-0.5


def visible_keys(case: Case) -> dict[str, int]:
    """Pairs of a query and a key it attends to, for one head: of each branch, and of dense causal attention."""
    position = torch.arange(case.length, dtype=torch.int64)
    own = position // case.block_size
    blocks = (own + 1).clamp_max(case.block_count)
    return {
        "cmp": int(((position + 1) // case.block_size).sum()),
        "slc": int(((blocks - 1) * case.block_size + position % case.block_size + 1).sum()),
        "swa": int((position + 1).clamp_max(case.window).sum()),
        "dense": case.length * (case.length + 1) // 2,
    }


def flops(case: Case, stage: str, mode: str) -> float:
    """Floating-point operations that the method needs: 2 products forward, 5 backward; 1 for the choice of blocks."""
    pairs = visible_keys(case)
    pairs["all"] = pairs["cmp"] + pairs["slc"] + pairs["swa"]
    products = {"fwd": 2, "bwd": 5}[mode] if stage != "topk" else 1
    count = pairs["cmp" if stage == "topk" else stage] if stage != "combine" else 0
    return 2.0 * products * count * case.heads * case.head_dim


def make_inputs(case: Case, device: torch.device, seed: int = 0) -> Inputs:
    """`random`: independent Gaussian numbers, so neighbouring queries choose unrelated blocks: the worst case.

    `video`: a block of tokens is a frame; each frame has a content vector that drifts from frame to frame (an
    autoregression with CORRELATION), one for keys and one for queries of each key/value head; a token is
    0.9 content + 0.44 noise, and values are Gaussian. Neighbouring queries then share most of their choice.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device, dtype=DTYPES[case.dtype])

    query = noise(1, case.length, case.heads, case.head_dim)
    key = noise(1, case.length, case.kv_heads, case.head_dim)
    if case.data == "video":
        frames = -(-case.length // case.block_size)
        content_FKD = drift(noise(frames, 2 * case.kv_heads, case.head_dim).float()).to(query.dtype)
        content_LKD = content_FKD.repeat_interleave(case.block_size, 0)[None, : case.length]
        key = 0.44 * key + 0.9 * content_LKD[:, :, : case.kv_heads]
        group = case.heads // case.kv_heads
        query = 0.44 * query + 0.9 * content_LKD[:, :, case.kv_heads :].repeat_interleave(group, 2)
    elif case.data != "random":
        raise ValueError(f"data={case.data!r} is not valid: one of {', '.join(DATA)}")
    gates = torch.rand(1, case.length, case.heads, 3, generator=generator, device=device).to(query.dtype)
    value, grad = noise(*key.shape), noise(*query.shape)
    for tensor in (query, key, value, gates):
        tensor.requires_grad_()
    return Inputs(query, key, value, gates, grad)


def drift(noise_FKD: Tensor) -> Tensor:
    """Unit-variance autoregression over frames."""
    frames = [noise_FKD[0]]
    for fresh in noise_FKD[1:]:
        frames.append(CORRELATION * frames[-1] + (1 - CORRELATION**2) ** 0.5 * fresh)
    return torch.stack(frames)
