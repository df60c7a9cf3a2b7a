"""`release.mixed_attention` on Triton kernels: the paper's kernels where a difference is another layout.

cmp_mask: reversed in time, "its own and all later blocks" is "all blocks up to its own": means and positions are turned
round, and flash.py attends as ever. head_layout: kernels compute slots (slots.py). vision_packing: text is set to zero.
The branches are in release_branches.py, their gradients in release_gradients.py; here are the dense attention of text,
the means of earlier values and the gated sum.

Shapes: T tokens of all samples, one after the other; the branches' sequence holds all of them, or the vision tokens.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable
from triton import knobs

from videonsa.kernels.plan import Plan
from videonsa.kernels.release import Sizes
from videonsa.kernels.release_branches import Branches, packed, plan_of, sparse_branches
from videonsa.kernels.release_gradients import gradients
from videonsa.kernels.slots import Slots, doubled, plain
from videonsa.kernels.text import Span, text_attention
from videonsa.kernels.tiles import load_rows, store_rows
from videonsa.names import BRANCHES

ROWS = 16  # (token, head) pairs of a program of _sum
RUN = 64  # tokens of a program of _running_sums


@triton.jit
def _running_sums(value, before, out, length, runs, HK: tl.constexpr, D: tl.constexpr, RUN: tl.constexpr,
                  MEAN: tl.constexpr):  # fmt: skip
    """out[t] = before[t's run] + the values of the run up to t, MEAN: / (t + 1); of each sample of `length` tokens."""
    run = tl.program_id(0)
    head = tl.program_id(1)
    token = run % runs * RUN + tl.arange(0, RUN)
    rows = run // runs * length + token
    live = token < length
    values = load_rows(value, rows, live, head, HK, D).to(tl.float32)
    earlier = tl.load(before + (run.to(tl.int64) * HK + head) * D + tl.arange(0, D))
    sum_ = tl.cumsum(values, 0) + earlier[None, :]
    if MEAN:
        sum_ = sum_ / (token + 1).to(tl.float32)[:, None]
    store_rows(out, sum_, rows, live, head, HK, D)


def running_sums(value: Tensor, mean: bool) -> Tensor:
    """The sum, or the mean, of the values up to each token: value [B, L, H, D] -> [B, L, H, D] float32."""
    batch, length, heads, size = value.shape
    runs = -(-length // RUN)
    padded = torch.nn.functional.pad(value, (0, 0, 0, 0, 0, runs * RUN - length))
    sums = padded.unflatten(1, (runs, RUN)).sum(2, dtype=torch.float32).cumsum(1)
    before = torch.nn.functional.pad(sums[:, :-1], (0, 0, 0, 0, 1, 0))
    out = torch.empty(value.shape, dtype=torch.float32, device=value.device)
    _running_sums[(batch * runs, heads)](value, before, out, length, runs, HK=heads, D=size, RUN=RUN, MEAN=mean)
    return out


class _Means(torch.autograd.Function):
    """The mean of the values up to each token."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        ctx.dtype = value.dtype
        return running_sums(value.contiguous(), mean=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        count = torch.arange(1, grad.shape[1] + 1, device=grad.device)[:, None, None]
        return running_sums((grad / count).flip(1).contiguous(), mean=False).flip(1).to(ctx.dtype)


@triton.jit
def _branch(branch, token, head, live, SLOTS: tl.constexpr, HQ: tl.constexpr, D: tl.constexpr):
    """A branch's output for some heads: the mean of their slots, where they have two."""
    place = (token.to(tl.int64) * SLOTS + head)[:, None] * D + tl.arange(0, D)[None, :]
    tile = tl.load(branch + place, mask=live[:, None], other=0.0).to(tl.float32)
    if SLOTS > HQ:
        tile = (tile + tl.load(branch + place + HQ * D, mask=live[:, None], other=0.0).to(tl.float32)) / 2
    return tile


@triton.jit
def _gate(gates, at, branch, vision, live, TEXT_GATE: tl.constexpr):
    gate = tl.load(gates + at * 3 + branch, mask=live, other=0.0).to(tl.float32)
    return tl.where(vision, gate, TEXT_GATE)[:, None]


@triton.jit
def _sum(cmp, slc, swa, gates, means, is_vision, tokens, out, rows, HQ: tl.constexpr, HK: tl.constexpr,
         SLOTS: tl.constexpr, D: tl.constexpr, CMP: tl.constexpr, SLC: tl.constexpr, SWA: tl.constexpr,
         MEANS: tl.constexpr, TEXT: tl.constexpr, TEXT_GATE: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    """out[tokens[n]] = the gated branches of row n of their sequence; vision: plus MEANS; TEXT: plus out itself."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    live = row < rows
    token = row // HQ
    head = row - token * HQ
    to = tl.load(tokens + token, mask=live, other=0).to(tl.int64)
    vision = tl.load(is_vision + to, mask=live, other=0) != 0
    at = to * HQ + head
    size = tl.arange(0, D)
    place = at[:, None] * D + size[None, :]
    sum_ = tl.zeros([ROWS, D], tl.float32)
    if MEANS:
        source = (to * HK + head // (HQ // HK))[:, None] * D + size[None, :]
        sum_ += tl.load(means + source, mask=(live & vision)[:, None], other=0.0)
    if TEXT:
        is_text = vision == 0
        sum_ += tl.load(out + place, mask=(live & is_text)[:, None], other=0.0).to(tl.float32)
    if CMP:
        sum_ += _gate(gates, at, 0, vision, live, TEXT_GATE) * _branch(cmp, token, head, live, SLOTS, HQ, D)
    if SLC:
        sum_ += _gate(gates, at, 1, vision, live, TEXT_GATE) * _branch(slc, token, head, live, SLOTS, HQ, D)
    if SWA:
        sum_ += _gate(gates, at, 2, vision, live, TEXT_GATE) * _branch(swa, token, head, live, SLOTS, HQ, D)
    tl.store(out + place, sum_.to(out.dtype.element_ty), mask=live[:, None])


def mixed_attention_triton(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gates: Tensor,
    is_vision: Tensor,
    branches: tuple[str, ...],
    sizes: Sizes,
) -> Tensor:
    """`release.mixed_attention` without its checks, on CUDA or in Triton's interpreter."""
    if not (query.is_cuda or knobs.runtime.interpret):
        raise ValueError(
            f"backend='triton' runs on a CUDA device, or 'reference' anywhere; got tensors on {query.device}"
        )
    needs_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value, gates))
    with torch.cuda.device_of(query):  # kernels run on the current device
        if needs_gradient:
            return _differentiable(query, key, value, gates, is_vision, branches, sizes)
        query, key, value, gates = (tensor.contiguous() for tensor in (query, key, value, gates))
        return _mixed(query, key, value, gates, is_vision, branches, sizes)


def _mixed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gates: Tensor,
    is_vision: Tensor,
    branches: tuple[str, ...],
    sizes: Sizes,
) -> Tensor:
    batch, length, heads, size = query.shape
    text = (~is_vision).nonzero()[:, 0]
    out = torch.empty_like(query)
    if len(text):
        out[:, text] = _text(query, key, value, text, sizes.scale)
    if len(text) == length:
        return out
    packing = sizes.has("vision_packing")
    rows = torch.arange(length, device=query.device) if packing else is_vision.nonzero()[:, 0]
    slots = (doubled if sizes.has("head_layout") else plain)(heads, key.shape[2])
    query_N, key_N, value_N = (_vision(tensor, is_vision, rows, packing) for tensor in (query, key, value))
    outputs = sparse_branches(*packed(query_N, key_N, value_N), plan_of(query_N, sizes), branches, slots, sizes).outputs
    leaks = sizes.has("gate_leak") and (len(text) > 0 or not sizes.has("dense_decode"))
    means = running_sums(value, mean=True) if leaks else out
    tokens = (torch.arange(batch, device=query.device)[:, None] * length + rows).flatten()
    count = len(tokens) * heads
    cmp, slc, swa = (outputs.get(name, out) for name in BRANCHES)
    _sum[(triton.cdiv(count, ROWS),)](
        cmp, slc, swa, gates, means, is_vision.to(torch.int8).repeat(batch), tokens, out, count,
        HQ=heads, HK=key.shape[2], SLOTS=slots.used, D=size, **{name.upper(): name in outputs for name in BRANCHES},
        MEANS=leaks, TEXT=packing and len(text) > 0, TEXT_GATE=0.5 if sizes.has("gate_leak") else 0.0, ROWS=ROWS,
    )  # fmt: skip
    return out


def _differentiable(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gates: Tensor,
    is_vision: Tensor,
    branches: tuple[str, ...],
    sizes: Sizes,
) -> Tensor:
    """As `_mixed`, put together in torch, so that only the branches and the means need a backward pass of their own."""
    heads, kv_heads = query.shape[2], key.shape[2]
    text = (~is_vision).nonzero()[:, 0]
    out = torch.zeros(query.shape, dtype=torch.float32, device=query.device)
    if len(text):
        out = out.index_copy(1, text, _text(query, key, value, text, sizes.scale).float())
    if len(text) == query.shape[1]:
        return out.to(query.dtype)
    if sizes.has("gate_leak") and (len(text) > 0 or not sizes.has("dense_decode")):
        means = _Means.apply(value).repeat_interleave(heads // kv_heads, dim=2)
        out = out + torch.where(is_vision[:, None, None], means, 0.0)
    if not branches:
        return out.to(query.dtype)
    packing = sizes.has("vision_packing")
    rows = torch.arange(query.shape[1], device=query.device) if packing else is_vision.nonzero()[:, 0]
    gates_N = gates[:, rows].float()
    if packing:
        gates_N = torch.where(is_vision[:, None, None], gates_N, 0.5 if sizes.has("gate_leak") else 0.0)
    query_N, key_N, value_N = (_vision(tensor, is_vision, rows, packing) for tensor in (query, key, value))
    slots = (doubled if sizes.has("head_layout") else plain)(heads, kv_heads)
    sparse = _Branches.apply(
        *packed(query_N, key_N, value_N), gates_N.flatten(0, 1), plan_of(query_N, sizes), branches, slots, sizes
    )
    return out.index_add(1, rows, sparse.view(query_N.shape).float()).to(query.dtype)


class _Branches(torch.autograd.Function):
    """The gated sum of the branches of packed tokens."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, gates: Tensor, plan: Plan, branches: tuple[str, ...],
        slots: Slots, sizes: Sizes,
    ) -> Tensor:  # fmt: skip
        found = sparse_branches(query, key, value, plan, branches, slots, sizes)
        out = torch.empty_like(query)
        gates = gates.contiguous()
        cmp, slc, swa = (found.outputs.get(name, out) for name in BRANCHES)
        count = query.shape[0] * query.shape[1]
        everything = torch.ones(len(query), dtype=torch.int8, device=query.device)
        _sum[(triton.cdiv(count, ROWS),)](
            cmp, slc, swa, gates, out, everything, plan.token(), out, count,
            HQ=query.shape[1], HK=key.shape[1], SLOTS=slots.used, D=query.shape[2],
            **{name.upper(): name in found.outputs for name in BRANCHES},
            MEANS=False, TEXT=False, TEXT_GATE=0.0, ROWS=ROWS,
        )  # fmt: skip
        ctx.names, ctx.rest = tuple(found.outputs), (plan, slots, sizes)
        ctx.save_for_backward(query, key, value, gates, found.index, *found.outputs.values(), *found.lses.values())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, gates, index, *rest = ctx.saved_tensors
        outputs = dict(zip(ctx.names, rest, strict=False))
        lses = dict(zip(ctx.names, rest[len(ctx.names) :], strict=True))
        found = Branches(outputs, lses, index)
        return *gradients(query, key, value, gates, grad.contiguous(), found, *ctx.rest), None, None, None, None


def _text(query: Tensor, key: Tensor, value: Tensor, text: Tensor, scale: float) -> Tensor:
    """Dense attention of the text tokens [N], alike in all samples: [B, N, Hq, D]. All samples in one launch, as many
    launches take longer than the work of short samples."""
    batch, length, count = query.shape[0], query.shape[1], len(text)
    spans = [Span(at * count, (at + 1) * count, at * length, (at + 1) * length) for at in range(batch)]
    asking, keys, values = (tensor.flatten(0, 1) for tensor in (query[:, text], key, value))
    return text_attention(asking, keys, values, text.repeat(batch), scale, spans=spans).unflatten(0, (batch, count))


def _vision(tensor: Tensor, is_vision: Tensor, rows: Tensor, packing: bool) -> Tensor:
    """release.vision_rows, without a copy where all tokens are vision."""
    if len(rows) == len(is_vision) and not packing:
        return tensor
    return tensor * is_vision[:, None, None] if packing else tensor[:, rows]
