"""`release.mixed_attention` on Triton kernels, forward: the paper's kernels where a difference is another layout.

cmp_mask: reversed in time, "its own and all later blocks" is "all blocks up to its own": means and positions are turned
round, and flash.py attends as ever. head_layout: kernels compute slots (slots.py). vision_packing: text is set to zero.
The choice of blocks has kernels of its own (release_choice.py), and so have the means of earlier values and the sum.

Shapes: T tokens of all samples, one after the other; the branches' sequence holds all of them, or the vision tokens.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

from videonsa.kernels import compress, flash, release_choice, selected, tiling
from videonsa.kernels.plan import Chunk, Plan
from videonsa.kernels.release import Sizes
from videonsa.kernels.slots import Slots, doubled, plain
from videonsa.kernels.text import text_attention
from videonsa.kernels.tiles import load_rows, store_rows
from videonsa.kernels.triton_backend import LONGEST
from videonsa.limits import next_power_of_two
from videonsa.names import BRANCHES

ROWS = 16  # (token, head) pairs of a program of _sum
RUN = 64  # tokens of a program of _running_means


@triton.jit
def _running_means(value, before, out, length, runs, HK: tl.constexpr, D: tl.constexpr, RUN: tl.constexpr):
    """out[t] = (before[t's run] + the values of the run up to t) / (t + 1), of each sample of `length` tokens."""
    run = tl.program_id(0)
    head = tl.program_id(1)
    token = run % runs * RUN + tl.arange(0, RUN)
    rows = run // runs * length + token
    live = token < length
    values = load_rows(value, rows, live, head, HK, D).to(tl.float32)
    earlier = tl.load(before + (run.to(tl.int64) * HK + head) * D + tl.arange(0, D))
    sum_ = tl.cumsum(values, 0) + earlier[None, :]
    store_rows(out, sum_ / (token + 1).to(tl.float32)[:, None], rows, live, head, HK, D)


def running_means(value: Tensor) -> Tensor:
    """The mean of the values up to each token: value [B, L, H, D] -> [B, L, H, D] float32."""
    batch, length, heads, size = value.shape
    runs = -(-length // RUN)
    padded = torch.nn.functional.pad(value, (0, 0, 0, 0, 0, runs * RUN - length))
    sums = padded.unflatten(1, (runs, RUN)).sum(2, dtype=torch.float32).cumsum(1)
    before = torch.nn.functional.pad(sums[:, :-1], (0, 0, 0, 0, 1, 0))
    out = torch.empty(value.shape, dtype=torch.float32, device=value.device)
    _running_means[(batch * runs, heads)](value, before, out, length, runs, HK=heads, D=size, RUN=RUN)
    return out


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
    """`release.mixed_attention` without its checks and without gradients, on CUDA or in Triton's interpreter."""
    if not (query.is_cuda or knobs.runtime.interpret):
        raise ValueError(
            f"backend='triton' runs on a CUDA device, or 'reference' anywhere; got tensors on {query.device}"
        )
    with torch.no_grad(), torch.cuda.device_of(query):  # kernels run on the current device
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
    outputs = sparse_branches(query_N, key_N, value_N, branches, slots, sizes)
    leaks = sizes.has("gate_leak") and (len(text) > 0 or not sizes.has("dense_decode"))
    means = running_means(value) if leaks else out
    tokens = (torch.arange(batch, device=query.device)[:, None] * length + rows).flatten()
    count = len(tokens) * heads
    cmp, slc, swa = (outputs.get(name, out) for name in BRANCHES)
    _sum[(triton.cdiv(count, ROWS),)](
        cmp, slc, swa, gates, means, is_vision.to(torch.int8).repeat(batch), tokens, out, count,
        HQ=heads, HK=key.shape[2], SLOTS=slots.used, D=size, **{name.upper(): name in outputs for name in BRANCHES},
        MEANS=leaks, TEXT=packing and len(text) > 0, TEXT_GATE=0.5 if sizes.has("gate_leak") else 0.0, ROWS=ROWS,
    )  # fmt: skip
    return out


def _vision(tensor: Tensor, is_vision: Tensor, rows: Tensor, packing: bool) -> Tensor:
    """release.vision_rows, without a copy where all tokens are vision."""
    if len(rows) == len(is_vision) and not packing:
        return tensor
    return tensor * is_vision[:, None, None] if packing else tensor[:, rows]


def sparse_branches(
    query: Tensor, key: Tensor, value: Tensor, branches: tuple[str, ...], slots: Slots, sizes: Sizes
) -> dict[str, Tensor]:
    """Each branch's output before its gate, {name: [T, slots.used, D]}; query [B, N, Q, D], key, value [B, N, H, D]."""
    batch, length = query.shape[:2]
    plan = Plan(tuple(range(0, batch * length + 1, length)), sizes.block_size, query.device)
    query, key, value = (tensor.flatten(0, 1).contiguous() for tensor in (query, key, value))
    outputs: dict[str, Tensor] = {}
    if "cmp" in branches or "slc" in branches:
        key_mean, value_mean = _means(key, value, plan, sizes)
        out, lse = _compressed(query, key_mean, value_mean, plan, slots, sizes, "cmp" in branches)
        if out is not None:
            outputs["cmp"] = out
    if "slc" in branches:
        lse = _ranking_lse(lse, plan, slots, sizes)
        outputs["slc"] = _selected(query, key, value, key_mean, lse, plan, slots, sizes)
    if "swa" in branches:
        window = min(sizes.window, LONGEST)
        tiles = plan.query_tiles(tiling.flash_forward(query.shape[2], window).rows, False)
        out, _ = flash.forward(query, key, value, plan.position(), tiles, sizes.scale, window=window, slots=slots)
        assert out is not None
        outputs["swa"] = out
    return outputs


def _means(key: Tensor, value: Tensor, plan: Plan, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Means of blocks, the keys' rounded."""
    key_mean, _, value_mean = compress.mean_blocks(key, value, plan)
    return key_mean.to(sizes.rounding).to(key.dtype), value_mean


def _compressed(
    query: Tensor, key_mean: Tensor, value_mean: Tensor, plan: Plan, slots: Slots, sizes: Sizes, with_out: bool
) -> tuple[Tensor | None, Tensor]:
    """Compression branch [T, slots.used, D] and its lse [slots.used, T], base 2.

    cmp_mask: of J blocks of s tokens, a token at t sees J - t // s. Turned round, the last mean is the first, and a
    query stands where it sees so many.
    """
    position = plan.position()
    if sizes.has("cmp_mask"):
        blocks = plan.most_blocks
        key_mean, value_mean = (
            mean.unflatten(0, (-1, blocks)).flip(1).flatten(0, 1).contiguous() for mean in (key_mean, value_mean)
        )
        position = (blocks + 1) * plan.block_size - 2 - position
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
    query: Tensor, key: Tensor, value: Tensor, key_mean: Tensor, lse: Tensor, plan: Plan, slots: Slots, sizes: Sizes
) -> Tensor:
    """Selection branch [T, slots.used, D]; a chunk of queries at a time."""
    out = torch.empty(len(query), slots.used, query.shape[2], dtype=query.dtype, device=query.device)
    out_lse = torch.empty(out.shape[:2], dtype=torch.float32, device=query.device)
    index = choices(query, key_mean, lse, plan, slots, sizes)
    least = first_choosing(plan, sizes)
    if least:
        tiles = plan.query_tiles(tiling.flash_forward(query.shape[2]).rows, False, prefix=least * plan.block_size)
        flash.forward(query, key, value, plan.position(), tiles, sizes.scale, into=(out, out_lse), slots=slots)
    for chunk in _chunks(query, plan, slots, sizes):
        selected.forward_chunk(
            query, key, value, index, plan, chunk, sizes.scale, out=out, lse=out_lse, slots=slots, least=least
        )
    return out


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
    batch, length = query.shape[:2]
    plan = Plan(tuple(range(0, batch * length + 1, length)), sizes.block_size, query.device)
    slots = (doubled if sizes.has("head_layout") else plain)(query.shape[2], key.shape[2])
    query, key = (tensor.flatten(0, 1).contiguous() for tensor in (query, key))
    key_mean, value_mean = _means(key, key, plan, sizes)
    lse = _compressed(query, key_mean, value_mean, plan, slots, sizes, False)[1]
    index = choices(query, key_mean, _ranking_lse(lse, plan, slots, sizes), plan, slots, sizes)
    block = torch.where(index < 0, -1, index - plan.first_block()[:, None, None])
    own = (plan.position() // sizes.block_size)[:, None, None]
    every = torch.arange(index.shape[2], device=index.device, dtype=index.dtype)
    taken = torch.where(every <= own, every, -1)
    return torch.where(own < first_choosing(plan, sizes), taken, block).unflatten(0, (batch, length))


def _count(plan: Plan, sizes: Sizes) -> int:
    """Blocks of a query at most."""
    if sizes.has("importance_round_up"):
        return next_power_of_two(sizes.block_count)
    return min(sizes.block_count, plan.most_blocks)


def first_choosing(plan: Plan, sizes: Sizes) -> int:
    """The first block whose queries have a choice; before it they take all. The network may leave one out anywhere."""
    return 0 if sizes.has("importance_round_up") else _count(plan, sizes)


def _chunks(query: Tensor, plan: Plan, slots: Slots, sizes: Sizes) -> list[Chunk]:
    """Runs of queries that the selection branch takes in turn, where there is a choice to make."""
    tokens = tiling.chunk_tokens(
        tiling.FORWARD_CHUNK, (slots.all, query.shape[2]), slots.kv_heads, _count(plan, sizes), plan.most_blocks,
        query.element_size(),
    )  # fmt: skip
    return [chunk for chunk in plan.chunks(tokens) if chunk.columns > first_choosing(plan, sizes)]
