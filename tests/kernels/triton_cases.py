"""Shapes shared by the Triton tests, and the comparison of an output and every gradient with the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tests.helpers import relative_error
from videonsa.bench.case import Case
from videonsa.bench.choices import TIE, Choices, compare
from videonsa.kernels import nsa_attention

ALL = ("cmp", "slc", "swa")
NAMES = ("output", "query", "key", "value", "gates")
BY_QUERY = ("output", "query", "gates")


@dataclass(frozen=True)
class Shape:
    length: int
    heads: int
    kv_heads: int
    size: int
    block_size: int
    block_count: int
    window: int
    branches: tuple[str, ...] = ALL
    ends: tuple[int, ...] | None = None
    batch: int = 1
    queries: int | None = None  # of so many last tokens alone

    def __str__(self) -> str:
        packed = "" if self.ends is None else "-packed" + "_".join(map(str, self.ends))
        packed += "" if self.queries is None else f"-last{self.queries}"
        return (
            f"L{self.length}x{self.batch}-h{self.heads}_{self.kv_heads}-d{self.size}-s{self.block_size}"
            f"-b{self.block_count}-w{self.window}-{'+'.join(self.branches)}{packed}"
        )


def tensors(shape: Shape, dtype: torch.dtype, device: str, seed: int = 0) -> list[Tensor]:
    """query, key, value, gates and the output's gradient."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(heads: int, last: int) -> Tensor:
        size = (shape.batch, shape.length, heads, last)
        return torch.randn(size, generator=generator, device=device).to(dtype)

    query, key, value = (normal(heads, shape.size) for heads in (shape.heads, shape.kv_heads, shape.kv_heads))
    gates, grad = normal(shape.heads, 3).sigmoid(), normal(shape.heads, shape.size)
    first = shape.length - (shape.queries or shape.length)
    return [query[:, first:], key, value, gates[:, first:], grad[:, first:]]


def run(shape: Shape, backend: str, inputs: list[Tensor]) -> list[Tensor]:
    """Output, then the gradients of query, key, value and gates."""
    *leaves, grad = inputs
    leaves = [tensor.detach().requires_grad_() for tensor in leaves]
    output = nsa_attention(
        *leaves,
        block_size=shape.block_size,
        block_count=shape.block_count,
        window=shape.window,
        branches=shape.branches,
        cu_seqlens=_ends(shape, grad.device),
        backend=backend,
    )
    return [output.detach(), *torch.autograd.grad(output, leaves, grad)]


def errors(shape: Shape, dtype: torch.dtype, device: str, seed: int = 0) -> dict[str, float]:
    """Relative error of each of NAMES against the reference in float64, at the queries that choose the same blocks.

    The few others must choose between blocks that tie. The output's gradient is 0 there: no gradient knows of them.
    """
    inputs = tensors(shape, dtype, device, seed)
    queries = shape.queries or shape.length
    same = torch.ones(shape.batch, queries, dtype=torch.bool, device=device)
    if "slc" in shape.branches and dtype != torch.float32:  # in which the interpreter's few queries do not tie
        whole = replace(shape, queries=None)
        same = choices(whole, tensors(whole, dtype, device, seed)).same[:, shape.length - queries :]
        assert same.float().mean() > 0.98
    inputs[-1] = inputs[-1] * same[..., None, None]
    ours = run(shape, "triton", inputs)
    exact = run(shape, "reference", [tensor.double() for tensor in inputs])
    assert all(tensor.isfinite().all() for tensor in ours)
    rows = {name: same if name in BY_QUERY else slice(None) for name in NAMES}
    return {name: _error(a[rows[name]], b[rows[name]]) for name, a, b in zip(NAMES, ours, exact, strict=True)}


def choices(shape: Shape, inputs: list[Tensor]) -> Choices:
    """The kernels' choices of blocks against float64's; a block may be worse than the one left out by TIE at most."""
    case = Case(
        shape.length, shape.heads, shape.kv_heads, shape.size, shape.block_size, shape.block_count, shape.window,
        "", "random",
    )  # fmt: skip
    found = compare(*inputs[:3], case, _ends(shape, inputs[0].device), shape.branches)
    tie = TIE[inputs[0].dtype]
    assert found.widest <= tie, f"a block was chosen that is worse than another by {found.widest:.1e}, beyond {tie:.1e}"
    return found


def _ends(shape: Shape, device: torch.device) -> Tensor | None:
    return None if shape.ends is None else torch.tensor(shape.ends, dtype=torch.int32, device=device)


def _error(ours: Tensor, exact: Tensor) -> float:
    """Relative; absolute where the exact result is zero but for rounding, as a lone key's score has no gradient."""
    vanishes = exact.norm() < 1e-9 * exact.numel() ** 0.5
    return float(ours.double().norm()) if vanishes else relative_error(ours, exact)


def poisoned(call: Callable[[], list[Tensor]], monkeypatch) -> list[Tensor]:
    """Run with fresh memory full of NaN (or of large integers), so that a value nobody wrote shows."""
    empty, empty_like = torch.empty, torch.empty_like

    def poison(tensor: Tensor) -> Tensor:
        return tensor.fill_(float("nan") if tensor.is_floating_point() else 2**24)

    monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: poison(empty(*args, **kwargs)))
    monkeypatch.setattr(torch, "empty_like", lambda *args, **kwargs: poison(empty_like(*args, **kwargs)))
    try:
        return call()
    finally:
        monkeypatch.undo()
