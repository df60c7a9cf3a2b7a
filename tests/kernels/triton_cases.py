"""Shapes shared by the Triton tests, and the comparison of an output and every gradient with the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.helpers import relative_error
from videonsa.kernels import nsa_attention
from videonsa.kernels.plan import Plan, make_plan
from videonsa.kernels.reference import attention_probabilities, choose_blocks

ALL = ("cmp", "slc", "swa")
NAMES = ("output", "query", "key", "value", "gates")
BY_QUERY = ("output", "query", "gates")

# Relative difference of two importances that the kernels may order otherwise than float64. In half precision their
# log-sum-exp is of mean keys rounded to that type, so heads of a group weigh a little otherwise (select.py).
TIE = {torch.float32: 2.0**-17, torch.float16: 2.0**-15, torch.bfloat16: 2.0**-12}


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

    def __str__(self) -> str:
        packed = "" if self.ends is None else "-packed" + "_".join(map(str, self.ends))
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
    return [query, key, value, normal(shape.heads, 3).sigmoid(), normal(shape.heads, shape.size)]


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
    same = torch.ones(shape.batch, shape.length, dtype=torch.bool, device=device)
    if dtype != torch.float32:  # in which the few queries of the interpreter's shapes do not tie
        same = same_choice(shape, inputs)
        assert same.float().mean() > 0.98
    inputs[-1] = inputs[-1] * same[..., None, None]
    ours = run(shape, "triton", inputs)
    exact = run(shape, "reference", [tensor.double() for tensor in inputs])
    assert all(tensor.isfinite().all() for tensor in ours)
    rows = {name: same if name in BY_QUERY else slice(None) for name in NAMES}
    return {name: _error(a[rows[name]], b[rows[name]]) for name, a, b in zip(NAMES, ours, exact, strict=True)}


def same_choice(shape: Shape, inputs: list[Tensor]) -> Tensor:
    """Bool [B, L]: where the kernels choose the blocks that float64 does; asserts that elsewhere blocks tie (TIE)."""
    query, key, value = (tensor.flatten(0, 1) for tensor in inputs[:3])
    same = torch.ones(len(query), dtype=torch.bool, device=query.device)
    plan = make_plan(inputs[0], _ends(shape, query.device), shape.block_size)
    if "slc" in shape.branches and shape.block_count < plan.most_blocks:
        from videonsa.kernels.triton_backend import Settings, attend

        settings = Settings(plan, shape.block_count, shape.window, ("slc",), shape.size**-0.5)
        index = attend(query, key, value, settings)[2]
        for i, (start, end) in enumerate(plan.sequences):
            chosen = index[start:end].long() - plan.block_ends[i]
            same[start:end] = _same_choice(query[start:end], key[start:end], chosen, settings.block_count, plan)
    return same.view(inputs[0].shape[:2])


def _same_choice(query: Tensor, key: Tensor, index_LHb: Tensor, count: int, plan: Plan) -> Tensor:
    """Of one sequence, [L]; index: blocks chosen by the kernels where a query sees more than `count`."""
    found = []
    exact = attention_probabilities(
        query.double()[None], key.double()[None], block_size=plan.block_size, block_count=count, window=0,
        branches=("cmp",), scale=query.shape[-1] ** -0.5,
    )  # fmt: skip
    for start, probability in exact:
        importance_HCJ = probability["cmp"][0].sum(1)
        position_C1 = torch.arange(start, start + importance_HCJ.shape[1], device=query.device)[:, None]
        own_C1 = position_C1 // plan.block_size
        best_HCJ = choose_blocks(importance_HCJ[None], position_C1, plan.block_size, count)[0]
        index_HCb = index_LHb[start : start + len(own_C1)].transpose(0, 1).clamp(0, best_HCJ.shape[-1] - 1)
        ours_HCJ = torch.zeros_like(best_HCJ).scatter(-1, index_HCb, True)
        ours_HCJ = torch.where(own_C1 < count, best_HCJ, ours_HCJ)
        assert (ours_HCJ.sum(-1) == best_HCJ.sum(-1)).all(), "a block was chosen twice"
        assert ours_HCJ.gather(-1, own_C1.expand(len(ours_HCJ), -1, -1)).all(), "a query's own block was left out"
        padded_HCJ = torch.nn.functional.pad(importance_HCJ, (0, best_HCJ.shape[-1] - importance_HCJ.shape[-1]))
        lost_HC = padded_HCJ.masked_fill(~best_HCJ | ours_HCJ, 0.0).amax(-1)
        taken_HC = padded_HCJ.masked_fill(~ours_HCJ | best_HCJ, torch.inf).amin(-1)
        differs_HC = (ours_HCJ != best_HCJ).any(-1)
        gap_HC = ((lost_HC - taken_HC) / lost_HC).where(differs_HC, 0.0)
        assert gap_HC.max() <= TIE[query.dtype], f"a block was chosen that is worse by {float(gap_HC.max()):.1e}"
        found.append(~differs_HC.any(0))
    return torch.cat(found)


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
