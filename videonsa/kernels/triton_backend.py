"""`nsa_attention` on Triton kernels: the order of the steps, forward and backward, and their autograd function.

forward:  means of blocks -> compressed attention, lse -> choice of blocks -> attention to them -> window -> gated sum
backward: gates -> compressed -> window -> chosen blocks -> gradients of keys and values

Everything runs on packed tokens [T, heads, D] (plan.py). No step adds floats atomically: equal inputs give equal bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from triton import knobs

from videonsa.kernels import combine, compress, prefix, rowstats, select, selected, tiling, window
from videonsa.kernels.empty import empty_output
from videonsa.kernels.plan import Chunk, Plan, make_plan
from videonsa.limits import next_power_of_two
from videonsa.names import BRANCHES

LONGEST = 1 << 30  # a window that sees everything, and to which a position can be added in 32 bits
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class Settings:
    """What a call computes besides its tensors."""

    plan: Plan
    block_count: int
    window: int
    branches: tuple[str, ...]
    scale: float

    @property
    def chooses_from(self) -> int:
        """The position from which on a query sees more blocks than it may choose."""
        return self.block_count * self.plan.block_size


@torch.compiler.disable
def nsa_attention_triton(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gates: Tensor,
    *,
    block_size: int,
    block_count: int,
    window: int,
    branches: Sequence[str],
    cu_seqlens: Tensor | None,
    scale: float,
) -> Tensor:
    """`nsa_attention` without its argument checks, on CUDA (or anywhere in Triton's interpreter).

    Reading cu_seqlens waits for the device, once per tensor and once after each change in place (inference tensors tell
    of no change, and are read at every call). torch.compile leaves this call as it is.
    """
    _check(query, block_size, scale)
    plan = make_plan(query, cu_seqlens, block_size)
    if query.numel() == 0:
        return empty_output(query, key, value, gates)
    if not (query.is_cuda or knobs.runtime.interpret):
        raise ValueError(
            f"backend='triton' runs on a CUDA device, or 'reference' anywhere; got tensors on {query.device}"
        )
    block_count = min(block_count, plan.most_blocks)
    if block_count < plan.most_blocks and next_power_of_two(block_count) * query.shape[3] > tiling.MOST_ELEMENTS:
        most = tiling.MOST_ELEMENTS // query.shape[3]
        raise ValueError(f"block_count={block_count} is not served by backend='triton': at most {most}, or 'reference'")
    settings = Settings(plan, block_count, min(window, LONGEST), tuple(branches), scale)
    with torch.cuda.device_of(query):  # kernels run on the current device
        out = _Attention.apply(*(tensor.flatten(0, 1) for tensor in (query, key, value, gates)), settings)
    return out.view(query.shape)


def _check(query: Tensor, block_size: int, scale: float) -> None:
    if not scale > 0:
        raise ValueError(f"scale={scale} is not served by backend='triton': above 0, or 'reference'")
    size = query.shape[3]
    if size not in tiling.HEAD_SIZES:
        raise ValueError(
            f"head size {size} is not served by backend='triton': one of {tiling.HEAD_SIZES}, or 'reference'"
        )
    if query.is_cuda and query.dtype == torch.float32 and size == block_size == 128:
        raise ValueError(
            "float32 with heads and blocks of 128 is not served by backend='triton': bfloat16, or 'reference'"
        )
    if query.dtype not in DTYPES:
        raise ValueError(
            f"{query.dtype} is not served by backend='triton': float16, bfloat16 or float32, or 'reference'"
        )


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, gates: Tensor, settings: Settings) -> Tensor:
        query, key, value, gates = (tensor.contiguous() for tensor in (query, key, value, gates))
        outputs, lses, index = attend(query, key, value, settings)
        out = combine.combine(outputs, gates)
        ctx.settings, ctx.names = settings, tuple(outputs)
        ctx.save_for_backward(query, key, value, gates, index, *outputs.values(), *(lses[name] for name in outputs))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, gates, index, *rest = ctx.saved_tensors
        outputs = dict(zip(ctx.names, rest, strict=False))
        lses = dict(zip(ctx.names, rest[len(ctx.names) :], strict=True))
        return *gradients(query, key, value, gates, grad.contiguous(), outputs, lses, index, ctx.settings), None


def attend(
    query: Tensor, key: Tensor, value: Tensor, settings: Settings
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor | None]:
    """Each branch's output [T, HQ, D], its lse, and the chosen blocks [T, HK, block_count] (global numbers).

    The chosen blocks are undefined for queries that see no more than block_count of them, and so choose all.
    The lse is [T, HQ] for slc, which reads it by query, and [HQ, T] for cmp and swa, which read it by head.
    """
    plan, scale, branches = settings.plan, settings.scale, settings.branches
    outputs: dict[str, Tensor] = {}
    lses: dict[str, Tensor] = {}
    index = None
    if "cmp" in branches or ("slc" in branches and plan.most_blocks > settings.block_count):
        key_high, key_low, value_mean = compress.mean_blocks(key, value, plan)
        out, lse = compress.forward(query, key_high, value_mean, plan, scale, "cmp" in branches)
        if out is not None:
            outputs["cmp"], lses["cmp"] = out, lse
    if "slc" in branches:
        index = torch.empty(len(query), key.shape[1], settings.block_count, dtype=torch.int32, device=query.device)
        outputs["slc"] = torch.empty_like(query)
        lses["slc"] = torch.empty(query.shape[:2], dtype=torch.float32, device=query.device)
        prefix.forward(query, key, value, plan, settings.chooses_from, scale, out=outputs["slc"], lse=lses["slc"])
        for chunk in chunks(query, key, settings, tiling.FORWARD_CHUNK):
            importance, peaks = select.importances(
                query, key_high, key_low, lse, plan, chunk, scale, settings.block_count
            )
            select.choose(importance, peaks, index, plan, chunk)
            del importance, peaks
            selected.forward_chunk(query, key, value, index, plan, chunk, scale, out=outputs["slc"], lse=lses["slc"])
    if "swa" in branches:
        outputs["swa"], lses["swa"] = window.forward(query, key, value, plan, scale, settings.window)
    return outputs, lses, index


def gradients(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gates: Tensor,
    grad: Tensor,
    outputs: dict[str, Tensor],
    lses: dict[str, Tensor],
    index: Tensor | None,
    settings: Settings,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value and gates; each branch adds to the query's, the chosen blocks last."""
    plan, scale = settings.plan, settings.scale
    shares = combine.shares(outputs, grad)
    gate = {name: gates[:, :, i] for i, name in enumerate(BRANCHES)}
    share = {name: shares[:, :, i] for i, name in enumerate(BRANCHES)}

    def statistics(name: str) -> Tensor:
        if name == "slc":
            return rowstats.pack(lses[name], gate[name], share[name], plan.token(), by_query=True)
        return rowstats.pack(lses[name], gate[name], share[name], plan.position())

    grad_query = torch.empty_like(query)
    block_key = block_value = token_key = token_value = None
    add = False
    if "cmp" in outputs:
        key_high, _, value_mean = compress.mean_blocks(key, value, plan)
        block_key, block_value = compress.backward(
            query, key_high, value_mean, grad, statistics("cmp"), plan, scale,
            grad_query=grad_query, add=add,
        )  # fmt: skip
        add = True
    if "swa" in outputs:
        token_key, token_value = window.backward(
            query, key, value, grad, statistics("swa"), plan, scale, settings.window,
            grad_query=grad_query, add=add,
        )  # fmt: skip
        add = True
    if "slc" in outputs:
        assert index is not None
        if token_key is None or token_value is None:
            token_key, token_value = (torch.zeros_like(key, dtype=torch.float32) for _ in range(2))
        row_statistics = statistics("slc")
        prefix.backward(
            query, key, value, grad, row_statistics, plan, settings.chooses_from, scale,
            grad_query=grad_query, grad_key=token_key, grad_value=token_value, add=add,
        )  # fmt: skip
        for chunk in chunks(query, key, settings, tiling.backward_chunk(len(query))):
            selected.backward_chunk(
                query, key, value, grad, row_statistics, index, plan, chunk, scale,
                grad_query=grad_query, grad_key=token_key, grad_value=token_value, add=add,
            )  # fmt: skip
    grad_key = combine.spread(token_key, block_key, key, plan)
    grad_value = combine.spread(token_value, block_value, value, plan)
    return grad_query, grad_key, grad_value, shares.to(gates.dtype)


def chunks(query: Tensor, key: Tensor, settings: Settings, most: int) -> tuple[Chunk, ...]:
    """The runs of at most `most` queries that the selection branch takes in turn, where there is a choice to make."""
    tokens = tiling.chunk_tokens(
        most, query.shape[1:], key.shape[1], settings.block_count, settings.plan.most_blocks, query.element_size()
    )
    return tuple(chunk for chunk in settings.plan.chunks(tokens) if chunk.columns > settings.block_count)
