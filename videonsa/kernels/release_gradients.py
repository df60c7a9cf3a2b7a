"""Gradients of the three branches under release semantics (Triton)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from videonsa.kernels import combine, flash, prefix, rowstats, selected, tiling, window
from videonsa.kernels.plan import Plan
from videonsa.kernels.release import Sizes
from videonsa.kernels.release_branches import Branches, block_means, chunks, first_choosing, flipped, turned, window_of
from videonsa.kernels.slots import Slots
from videonsa.names import BRANCHES

Shared = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # query, keys, values, gradient of the output, statistics


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
        key_mean, value_mean = block_means(key, value, plan, sizes)
        key_mean, value_mean, position = turned(key_mean, value_mean, plan, sizes)
        shared = query, key_mean, value_mean, grad, statistics("cmp", position)
        by_means = _mean_gradients(shared, position, grad_slots, plan, slots, sizes)
        for total, more in zip(tokens, by_means, strict=True):
            total += more
        add = True
    if "swa" in found.outputs:
        shared = query, key, value, grad, statistics("swa", plan.position())
        sums = window.backward(
            *shared, plan, sizes.scale, window_of(sizes), grad_query=grad_slots, add=add, slots=slots
        )
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
        for chunk in chunks(query, plan, slots, sizes, tiling.backward_chunk(len(query))):
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
        means = flipped(means.sum(0), plan) if turned else means.sum(0)
        by_token = means.unflatten(0, (-1, plan.most_blocks))[:, place // stride] / filled[:, None, None]
        found.append(torch.where(seen[:, None, None], by_token, 0.0).flatten(0, 1))
    return found
