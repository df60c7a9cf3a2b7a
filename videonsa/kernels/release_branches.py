"""The three branches under release semantics, forward (Triton): the paper's kernels over turned positions and slots.

The choice of blocks has kernels of its own (release_choice.py). Shapes: query [T, Q, D]; key, value [T, H, D].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from videonsa.kernels import compress, flash, release_choice, selected, tiling
from videonsa.kernels.plan import Chunk, Plan
from videonsa.kernels.release import Sizes
from videonsa.kernels.slots import Slots, doubled, plain
from videonsa.kernels.triton_backend import LONGEST
from videonsa.limits import next_power_of_two


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
        key_mean, value_mean = block_means(key, value, plan, sizes)
        out, lse = _compressed(query, key_mean, value_mean, plan, slots, sizes, "cmp" in branches)
        if out is not None:
            found.outputs["cmp"], found.lses["cmp"] = out, lse
    if "slc" in branches:
        found.index = choices(query, key_mean, _ranking_lse(lse, plan, slots, sizes), plan, slots, sizes)
        out, lse = _selected(query, key, value, found.index, plan, slots, sizes)
        found.outputs["slc"], found.lses["slc"] = out, lse
    if "swa" in branches:
        tiles = plan.query_tiles(tiling.flash_forward(query.shape[2], window_of(sizes)).rows, False)
        out, lse = flash.forward(
            query, key, value, plan.position(), tiles, sizes.scale, window=window_of(sizes), slots=slots
        )
        assert out is not None
        found.outputs["swa"], found.lses["swa"] = out, lse
    return found


def _compressed(
    query: Tensor, key_mean: Tensor, value_mean: Tensor, plan: Plan, slots: Slots, sizes: Sizes, with_out: bool
) -> tuple[Tensor | None, Tensor]:
    """Compression branch [T, slots.used, D] and its lse [slots.used, T], base 2.

    cmp_mask: of J blocks of s tokens, a token at t sees J - t // s. Turned round, the last mean is the first, and a
    query stands where it sees so many.
    """
    key_mean, value_mean, position = turned(key_mean, value_mean, plan, sizes)
    tiles = plan.query_tiles(tiling.flash_forward(query.shape[2]).rows, True)
    return flash.forward(
        query, key_mean, value_mean, position, tiles, sizes.scale, stride=plan.block_size, with_out=with_out,
        slots=slots,
    )  # fmt: skip


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
    for chunk in chunks(query, plan, slots, sizes):
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
    for chunk in chunks(query, plan, slots, sizes):
        importance, peaks = release_choice.importances(
            ranking, key_mean, lse, plan, chunk, slots, own_weight, count, width, least
        )
        release_choice.choose(importance, peaks, index, plan, chunk, width, least)
        del importance, peaks
    return index


def block_choices(query: Tensor, key: Tensor, sizes: Sizes) -> Tensor:
    """As release.block_choices, the blocks in any order: [B, N, H, count]; query [B, N, Q, D], key [B, N, H, D]."""
    shape, plan = query.shape[:2], plan_of(query, sizes)
    slots = (doubled if sizes.has("head_layout") else plain)(query.shape[2], key.shape[2])
    query, key, _ = packed(query, key, key)
    key_mean, value_mean = block_means(key, key, plan, sizes)
    lse = _compressed(query, key_mean, value_mean, plan, slots, sizes, False)[1]
    index = choices(query, key_mean, _ranking_lse(lse, plan, slots, sizes), plan, slots, sizes)
    block = torch.where(index < 0, -1, index - plan.first_block()[:, None, None])
    own = (plan.position() // sizes.block_size)[:, None, None]
    every = torch.arange(index.shape[2], device=index.device, dtype=index.dtype)
    taken = torch.where(every <= own, every, -1)
    return torch.where(own < first_choosing(plan, sizes), taken, block).unflatten(0, shape)


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


def window_of(sizes: Sizes) -> int:
    return min(sizes.window, LONGEST)


def block_means(key: Tensor, value: Tensor, plan: Plan, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Means of blocks, the keys' rounded."""
    key_mean, _, value_mean = compress.mean_blocks(key, value, plan, centred=False)
    return key_mean.to(sizes.rounding).to(key.dtype), value_mean


def turned(key_mean: Tensor, value_mean: Tensor, plan: Plan, sizes: Sizes) -> tuple[Tensor, Tensor, Tensor]:
    """What the compression branch attends to, and where its queries stand: cmp_mask turns both round."""
    if not sizes.has("cmp_mask"):
        return key_mean, value_mean, plan.position()
    position = (plan.most_blocks + 1) * plan.block_size - 2 - plan.position()
    return flipped(key_mean, plan), flipped(value_mean, plan), position


def flipped(mean: Tensor, plan: Plan) -> Tensor:
    """Each sample's blocks, the last first."""
    return mean.unflatten(0, (-1, plan.most_blocks)).flip(1).flatten(0, 1).contiguous()


def _count(plan: Plan, sizes: Sizes) -> int:
    """Blocks of a query at most."""
    if sizes.has("importance_round_up"):
        return next_power_of_two(sizes.block_count)
    return min(sizes.block_count, plan.most_blocks)


def first_choosing(plan: Plan, sizes: Sizes) -> int:
    """The first block whose queries have a choice; before it they take all. The network may leave one out anywhere."""
    return 0 if sizes.has("importance_round_up") else _count(plan, sizes)


def chunks(query: Tensor, plan: Plan, slots: Slots, sizes: Sizes, most: int = tiling.FORWARD_CHUNK) -> list[Chunk]:
    """Runs of queries that the selection branch takes in turn, where there is a choice to make."""
    tokens = tiling.chunk_tokens(
        most, (slots.all, query.shape[2]), slots.kv_heads, _count(plan, sizes), plan.most_blocks,
        query.element_size(),
    )  # fmt: skip
    return [chunk for chunk in plan.chunks(tokens) if chunk.columns > first_choosing(plan, sizes)]


def plan_of(query: Tensor, sizes: Sizes) -> Plan:
    """Of samples [B, N, ...], one after the other."""
    batch, length = query.shape[:2]
    return Plan(tuple(range(0, batch * length + 1, length)), sizes.block_size, query.device)


def packed(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[B, N, heads, D] -> contiguous [T, heads, D]."""
    return query.flatten(0, 1).contiguous(), key.flatten(0, 1).contiguous(), value.flatten(0, 1).contiguous()
