"""`release.mixed_attention` on Triton kernels: the paper's kernels where a difference is another layout.

cmp_mask: reversed in time, "its own and all later blocks" is "all blocks up to its own": means and positions are turned
round, and flash.py attends as ever. head_layout: kernels compute slots (slots.py). vision_packing: text is set to zero.
The choice of blocks has kernels of its own (release_choice.py), and so have the means of earlier values and the sum.

Shapes: T tokens of all samples, one after the other; the branches' sequence holds all of them, or the vision tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable
from triton import knobs

from videonsa.kernels import combine, compress, flash, prefix, release_choice, rowstats, selected, tiling, window
from videonsa.kernels.plan import Chunk, Plan
from videonsa.kernels.release import Sizes
from videonsa.kernels.slots import Slots, doubled, plain
from videonsa.kernels.text import text_attention
from videonsa.kernels.tiles import load_rows, store_rows
from videonsa.kernels.triton_backend import LONGEST
from videonsa.limits import next_power_of_two
from videonsa.names import BRANCHES

ROWS = 16  # (token, head) pairs of a program of _sum
RUN = 64  # tokens of a program of _running_sums

Shared = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # query, keys, values, gradient of the output, statistics


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
    for sample in range(batch if len(text) else 0):
        out[sample, text] = text_attention(query[sample, text], key[sample], value[sample], text, sizes.scale)
    if len(text) == length:
        return out
    packing = sizes.has("vision_packing")
    rows = torch.arange(length, device=query.device) if packing else is_vision.nonzero()[:, 0]
    slots = (doubled if sizes.has("head_layout") else plain)(heads, key.shape[2])
    query_N, key_N, value_N = (_vision(tensor, is_vision, rows, packing) for tensor in (query, key, value))
    outputs = sparse_branches(*_packed(query_N, key_N, value_N), _plan(query_N, sizes), branches, slots, sizes).outputs
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
        samples = zip(query[:, text], key, value, strict=True)
        attended = torch.stack([text_attention(q, k, v, text, sizes.scale) for q, k, v in samples])
        out = out.index_copy(1, text, attended.float())
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
        *_packed(query_N, key_N, value_N), gates_N.flatten(0, 1), _plan(query_N, sizes), branches, slots, sizes
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


def gradients(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gates: Tensor,
    grad: Tensor,
    found: Branches,
    plan: Plan,
    slots: Slots,
    sizes: Sizes,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of packed query, key, value and gates [T, Q, 3]; each branch adds to the slots', chosen blocks last."""
    copies = slots.used // slots.heads
    shares = combine.shares(found.outputs, grad)
    slot_gates = (gates.float() / copies).repeat(1, copies, 1)
    grad_slots = torch.empty(len(query), slots.used, query.shape[2], dtype=query.dtype, device=query.device)
    tokens = torch.zeros_like(key, dtype=torch.float32), torch.zeros_like(key, dtype=torch.float32)

    def statistics(name: str, position: Tensor) -> Tensor:
        branch = BRANCHES.index(name)
        gate, share = slot_gates[:, :, branch], shares[:, :, branch]
        return rowstats.pack(found.lses[name], gate, share, position, by_query=name == "slc")

    add = False
    if "cmp" in found.outputs:
        key_mean, value_mean = _means(key, value, plan, sizes)
        key_mean, value_mean, position = _turned(key_mean, value_mean, plan, sizes)
        shared = query, key_mean, value_mean, grad, statistics("cmp", position)
        by_means = _mean_gradients(shared, position, grad_slots, plan, slots, sizes)
        for total, more in zip(tokens, by_means, strict=True):
            total += more
        add = True
    if "swa" in found.outputs:
        shared = query, key, value, grad, statistics("swa", plan.position())
        sums = window.backward(*shared, plan, sizes.scale, _window(sizes), grad_query=grad_slots, add=add, slots=slots)
        for total, more in zip(tokens, sums, strict=True):
            total += more
        add = True
    if "slc" in found.outputs:
        assert found.index is not None
        shared = query, key, value, grad, statistics("slc", plan.token())
        into: dict[str, Any] = {
            "grad_query": grad_slots,
            "grad_key": tokens[0],
            "grad_value": tokens[1],
            "add": add,
            "slots": slots,
        }
        least = first_choosing(plan, sizes)
        if least:
            prefix.backward(*shared, plan, least * plan.block_size, sizes.scale, **into)
        for chunk in _chunks(query, plan, slots, sizes, tiling.backward_chunk(len(query))):
            selected.backward_chunk(*shared, found.index, plan, chunk, sizes.scale, **into, least=least)
    grad_query = grad_slots.unflatten(1, (copies, -1)).sum(1, dtype=torch.float32).to(query.dtype)
    grad_gates = shares.unflatten(1, (copies, -1)).sum(1) / copies
    return grad_query, tokens[0].to(key.dtype), tokens[1].to(value.dtype), grad_gates.to(gates.dtype)


def _mean_gradients(
    shared: Shared, position: Tensor, grad_slots: Tensor, plan: Plan, slots: Slots, sizes: Sizes
) -> list[Tensor]:
    """Compression branch: writes the slots' gradients; returns each token's share of its mean's, of keys and values."""
    stride, turned = plan.block_size, sizes.has("cmp_mask")
    tiles = plan.query_tiles(tiling.flash_query_gradient().rows, True)
    flash.query_gradient(
        *shared, position, tiles, sizes.scale, grad_query=grad_slots, add=False, stride=stride, slots=slots
    )
    split_rows = tiling.rows_per_split(plan.longest)
    sums = flash.key_gradient(
        *shared, plan.key_tiles(tiling.flash_key_gradient().columns, True, partial=turned), sizes.scale,
        splits=-(-plan.longest // split_rows), split_rows=split_rows, ordered=not turned, stride=stride, slots=slots,
        reach=plan.most_blocks,
    )  # fmt: skip
    place = torch.arange(plan.longest, device=position.device)
    filled = (plan.longest - place // stride * stride).clamp(max=stride)
    seen = place >= 0 if turned else place // stride < plan.longest // stride  # else the mean has no gradient
    found = []
    for means in sums:
        means = _flipped(means.sum(0), plan) if turned else means.sum(0)
        by_token = means.unflatten(0, (-1, plan.most_blocks))[:, place // stride] / filled[:, None, None]
        found.append(torch.where(seen[:, None, None], by_token, 0.0).flatten(0, 1))
    return found


def _vision(tensor: Tensor, is_vision: Tensor, rows: Tensor, packing: bool) -> Tensor:
    """release.vision_rows, without a copy where all tokens are vision."""
    if len(rows) == len(is_vision) and not packing:
        return tensor
    return tensor * is_vision[:, None, None] if packing else tensor[:, rows]


def _plan(query: Tensor, sizes: Sizes) -> Plan:
    """Of samples [B, N, ...], one after the other."""
    batch, length = query.shape[:2]
    return Plan(tuple(range(0, batch * length + 1, length)), sizes.block_size, query.device)


def _packed(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[B, N, heads, D] -> contiguous [T, heads, D]."""
    return query.flatten(0, 1).contiguous(), key.flatten(0, 1).contiguous(), value.flatten(0, 1).contiguous()


@dataclass
class Branches:
    """Each branch before its gate, {name: [T, slots.used, D]}, its lse, and the chosen blocks."""

    outputs: dict[str, Tensor]
    lses: dict[str, Tensor]  # base 2; [T, slots.used] of slc, [slots.used, T] of the others
    index: Tensor | None


def sparse_branches(
    query: Tensor, key: Tensor, value: Tensor, plan: Plan, branches: tuple[str, ...], slots: Slots, sizes: Sizes
) -> Branches:
    """The branches of packed tokens: query [T, Q, D], key and value [T, H, D]."""
    found = Branches({}, {}, None)
    if "cmp" in branches or "slc" in branches:
        key_mean, value_mean = _means(key, value, plan, sizes)
        out, lse = _compressed(query, key_mean, value_mean, plan, slots, sizes, "cmp" in branches)
        if out is not None:
            found.outputs["cmp"], found.lses["cmp"] = out, lse
    if "slc" in branches:
        found.index = choices(query, key_mean, _ranking_lse(lse, plan, slots, sizes), plan, slots, sizes)
        out, lse = _selected(query, key, value, found.index, plan, slots, sizes)
        found.outputs["slc"], found.lses["slc"] = out, lse
    if "swa" in branches:
        tiles = plan.query_tiles(tiling.flash_forward(query.shape[2], _window(sizes)).rows, False)
        out, lse = flash.forward(
            query, key, value, plan.position(), tiles, sizes.scale, window=_window(sizes), slots=slots
        )
        assert out is not None
        found.outputs["swa"], found.lses["swa"] = out, lse
    return found


def _window(sizes: Sizes) -> int:
    return min(sizes.window, LONGEST)


def _means(key: Tensor, value: Tensor, plan: Plan, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Means of blocks, the keys' rounded."""
    key_mean, _, value_mean = compress.mean_blocks(key, value, plan)
    return key_mean.to(sizes.rounding).to(key.dtype), value_mean


def _turned(key_mean: Tensor, value_mean: Tensor, plan: Plan, sizes: Sizes) -> tuple[Tensor, Tensor, Tensor]:
    """What the compression branch attends to, and where its queries stand: cmp_mask turns both round."""
    if not sizes.has("cmp_mask"):
        return key_mean, value_mean, plan.position()
    position = (plan.most_blocks + 1) * plan.block_size - 2 - plan.position()
    return _flipped(key_mean, plan), _flipped(value_mean, plan), position


def _flipped(mean: Tensor, plan: Plan) -> Tensor:
    """Each sample's blocks, the last first."""
    return mean.unflatten(0, (-1, plan.most_blocks)).flip(1).flatten(0, 1).contiguous()


def _compressed(
    query: Tensor, key_mean: Tensor, value_mean: Tensor, plan: Plan, slots: Slots, sizes: Sizes, with_out: bool
) -> tuple[Tensor | None, Tensor]:
    """Compression branch [T, slots.used, D] and its lse [slots.used, T], base 2.

    cmp_mask: of J blocks of s tokens, a token at t sees J - t // s. Turned round, the last mean is the first, and a
    query stands where it sees so many.
    """
    key_mean, value_mean, position = _turned(key_mean, value_mean, plan, sizes)
    tiles = plan.query_tiles(tiling.flash_forward(query.shape[2]).rows, True)
    return flash.forward(
        query, key_mean, value_mean, position, tiles, sizes.scale, stride=plan.block_size, with_out=with_out,
        slots=slots,
    )  # fmt: skip


def _ranking_lse(lse: Tensor, plan: Plan, slots: Slots, sizes: Sizes) -> Tensor:
    """What the choice takes for each token's lse, [T, slots.all], from the branch's own [slots.used, T], base 2.

    An empty slot's scores are 0. importance_lse: each sample's [slot, token] array read as [token, slot].
    """
    position = plan.position()
    if sizes.has("cmp_mask"):
        seen = plan.most_blocks - position // plan.block_size
    else:
        seen = (position + 1) // plan.block_size
    empty = seen.clamp(min=1).float().log2().expand(slots.all - slots.used, -1)
    lse_SBN = torch.cat([lse, empty]).unflatten(1, (-1, plan.longest))
    if sizes.has("importance_lse"):
        return lse_SBN.transpose(0, 1).reshape(-1, slots.all)
    return lse_SBN.flatten(1).t().contiguous()


def _selected(
    query: Tensor, key: Tensor, value: Tensor, index: Tensor, plan: Plan, slots: Slots, sizes: Sizes
) -> tuple[Tensor, Tensor]:
    """Selection branch [T, slots.used, D] and its lse [T, slots.used]; a chunk of queries at a time."""
    out = torch.empty(len(query), slots.used, query.shape[2], dtype=query.dtype, device=query.device)
    lse = torch.empty(out.shape[:2], dtype=torch.float32, device=query.device)
    least = first_choosing(plan, sizes)
    if least:
        tiles = plan.query_tiles(tiling.flash_forward(query.shape[2]).rows, False, prefix=least * plan.block_size)
        flash.forward(query, key, value, plan.position(), tiles, sizes.scale, into=(out, lse), slots=slots)
    for chunk in _chunks(query, plan, slots, sizes):
        selected.forward_chunk(
            query, key, value, index, plan, chunk, sizes.scale, out=out, lse=lse, slots=slots, least=least
        )
    return out, lse


def choices(query: Tensor, key_mean: Tensor, lse: Tensor, plan: Plan, slots: Slots, sizes: Sizes) -> Tensor:
    """Chosen blocks [T, H, count] (global numbers, -1 for none), undefined before block `first_choosing`."""
    count = _count(plan, sizes)
    width = sizes.block_size if sizes.has("importance_round_up") else 0
    least = first_choosing(plan, sizes)
    own_weight = float(slots.group) if sizes.has("importance_own_block") else math.inf
    ranking = (query.float() * sizes.scale).to(sizes.rounding).to(query.dtype)
    index = torch.full((len(query), slots.kv_heads, count), -1, dtype=torch.int32, device=query.device)
    for chunk in _chunks(query, plan, slots, sizes):
        importance, peaks = release_choice.importances(
            ranking, key_mean, lse, plan, chunk, slots, own_weight, count, width, least
        )
        release_choice.choose(importance, peaks, index, plan, chunk, width, least)
        del importance, peaks
    return index


def block_choices(query: Tensor, key: Tensor, sizes: Sizes) -> Tensor:
    """As release.block_choices, the blocks in any order: [B, N, H, count]; query [B, N, Q, D], key [B, N, H, D]."""
    shape, plan = query.shape[:2], _plan(query, sizes)
    slots = (doubled if sizes.has("head_layout") else plain)(query.shape[2], key.shape[2])
    query, key, _ = _packed(query, key, key)
    key_mean, value_mean = _means(key, key, plan, sizes)
    lse = _compressed(query, key_mean, value_mean, plan, slots, sizes, False)[1]
    index = choices(query, key_mean, _ranking_lse(lse, plan, slots, sizes), plan, slots, sizes)
    block = torch.where(index < 0, -1, index - plan.first_block()[:, None, None])
    own = (plan.position() // sizes.block_size)[:, None, None]
    every = torch.arange(index.shape[2], device=index.device, dtype=index.dtype)
    taken = torch.where(every <= own, every, -1)
    return torch.where(own < first_choosing(plan, sizes), taken, block).unflatten(0, shape)


def _count(plan: Plan, sizes: Sizes) -> int:
    """Blocks of a query at most."""
    if sizes.has("importance_round_up"):
        return next_power_of_two(sizes.block_count)
    return min(sizes.block_count, plan.most_blocks)


def first_choosing(plan: Plan, sizes: Sizes) -> int:
    """The first block whose queries have a choice; before it they take all. The network may leave one out anywhere."""
    return 0 if sizes.has("importance_round_up") else _count(plan, sizes)


def _chunks(query: Tensor, plan: Plan, slots: Slots, sizes: Sizes, most: int = tiling.FORWARD_CHUNK) -> list[Chunk]:
    """Runs of queries that the selection branch takes in turn, where there is a choice to make."""
    tokens = tiling.chunk_tokens(
        most, (slots.all, query.shape[2]), slots.kv_heads, _count(plan, sizes), plan.most_blocks,
        query.element_size(),
    )  # fmt: skip
    return [chunk for chunk in plan.chunks(tokens) if chunk.columns > first_choosing(plan, sizes)]
