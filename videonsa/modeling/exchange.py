"""A training's sample over several processes, for lengths whose activations one GPU does not hold.

Each process encodes its share of the temporal patches in the vision tower, takes its tokens through the decoder's
layers, and computes its share of the logits. For attention there are two ways:

- *heads*: the processes exchange, and each gets all tokens of some heads, whole groups of them, so that the choice of
  blocks, which a group shares, is made in one place (DeepSpeed-Ulysses, arXiv 2309.14509).
- *parts*: each keeps the queries of its tokens, and gathers the keys and values of all (methods/runs.py).

The first moves less, and serves as many processes as there are key/value heads; the second any number. A degree that
does not divide the key/value heads takes both: heads over as many processes as their greatest common divisor, parts
over the rest. 7B, with 4 key/value heads, has at degree 8 its heads over 4, and the queries of each in 2 parts. A later
query sees more, so a part is two runs of a row, one from its front and one from its back: all parts see equally many
pairs.

Gradients: all that is summed over processes forward is backward, too, so what a process calls backward on is its share
of `degree` times the loss. The mean of the gradients over the processes is the whole gradient everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

# That a process waits for the others. NCCL's own ten minutes end trainings whose videos come late, or whose weights
# take long to write; a process that died ends the others sooner, through what started them.
PATIENCE = timedelta(hours=3)

all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)  # named so since torch 2.13
reduce_scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)


def ways(degree: int, kv_heads: int) -> tuple[int, int]:
    """(processes over which the heads lie, parts of a row's tokens) of this many processes."""
    heads = math.gcd(degree, kv_heads)
    return heads, degree // heads


@dataclass(frozen=True)
class SequenceParallel:
    """The `degree` processes of `group`, part by part, and this one's place among them."""

    group: dist.ProcessGroup
    part_group: dist.ProcessGroup  # the `heads` processes that hold this one's part
    head_group: dist.ProcessGroup  # the `parts` processes that hold this one's heads
    heads: int
    parts: int
    rank: int  # in `group`

    @classmethod
    def of(cls, degree: int, kv_heads: int) -> SequenceParallel:
        """Of each `degree` processes whose ranks follow one another; every process calls it."""
        heads, parts = ways(degree, kv_heads)
        table = torch.arange(dist.get_world_size()).view(-1, parts, heads)
        rows = table.flatten(1), table.flatten(0, 1), table.transpose(1, 2).flatten(0, 1)
        made = (dist.new_subgroups_by_enumeration(each.tolist(), timeout=PATIENCE)[0] for each in rows)
        group, part_group, head_group = made
        return cls(group, part_group, head_group, heads, parts, dist.get_rank() % degree)

    @property
    def degree(self) -> int:
        return self.heads * self.parts

    @property
    def multiple(self) -> int:
        """What a row's tokens must be a multiple of."""
        return self.degree if self.parts == 1 else 2 * self.degree

    def runs(self, length: int) -> tuple[slice, ...]:
        """This process's part of a row. Raises ValueError for a length that cannot be split evenly."""
        if length % self.multiple:
            raise ValueError(f"{length} tokens do not fall into {self.multiple} equal runs: pad them")
        if self.parts == 1:
            return (slice(0, length),)
        each, order = length // (2 * self.parts), _order(self.parts)
        own = order[2 * (self.rank // self.heads) :][:2]
        return tuple(slice(run * each, (run + 1) * each) for run in own)

    def split(self, tensor: Tensor, dim: int = 1) -> Tensor:
        """This process's tokens, of its part a run; a copy, which does not keep the others' in memory."""
        runs = [tensor.narrow(dim, run.start, run.stop - run.start) for run in self.runs(tensor.shape[dim])]
        part = runs[0] if len(runs) == 1 else torch.cat(runs, dim)
        return part.chunk(self.heads, dim)[self.rank % self.heads].clone()

    def join(self, tensor: Tensor) -> Tensor:
        """[B, l, ...], this process's tokens -> [B, L, ...], all, in every process."""
        return self._in_order(_Gather.apply(tensor, self.group))

    def to_heads(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Each [B, l, heads, D] of its tokens, all heads -> [B, L / parts, heads / self.heads, D], of its part."""
        return tensors if self.heads == 1 else _Exchange.apply(self.part_group, True, *tensors)

    def to_tokens(self, tensor: Tensor) -> Tensor:
        """[B, L / parts, heads / self.heads, D] of its part -> [B, l, heads, D] of its tokens, all heads."""
        return tensor if self.heads == 1 else _Exchange.apply(self.part_group, False, tensor)[0]

    def all_parts(self, tensor: Tensor) -> Tensor:
        """[B, L / parts, ...] of its part -> [B, L, ...]."""
        return tensor if self.parts == 1 else self._in_order(_Gather.apply(tensor, self.head_group))

    def own_heads(self, count: int) -> slice:
        """Of `count` heads those of this process."""
        each, number = count // self.heads, self.rank % self.heads
        return slice(number * each, (number + 1) * each)

    def gather_shares(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """[counts[rank], C] in each process -> [all of them, C] in every one, by rank."""
        most = max(counts)
        gathered = _Gather.apply(pad(rows, (0, 0, 0, most - len(rows)))[None], self.group)
        return torch.cat([each[:count] for each, count in zip(gathered[0].split(most), counts, strict=True)])

    def deal(self, tensor: Tensor, places: Tensor) -> Tensor:
        """[B, l, C] of its tokens -> [B, k, C], those at its share of places [K] of a row."""
        length, places = tensor.shape[1] * self.degree, self._filled(places)
        own = self.split(torch.arange(length, device=places.device), 0)
        number = torch.full((length,), -1, device=places.device)
        number[own] = torch.arange(len(own), device=places.device)
        at = number[places]
        return _Scatter.apply(torch.where((at >= 0)[:, None], tensor[:, at.clamp(min=0)], 0.0), self.group)

    def share(self, places: Tensor) -> Tensor:
        """Of places [K] those that `deal` gives this process, [k], as many in all: filled up with -1, a row's last."""
        return self._filled(places).chunk(self.degree)[self.rank]

    def collect(self, tensor: Tensor) -> Tensor:
        """[B, k, ...] of its share of places, as `share` gives them -> [B, K, ...] of all, in every process."""
        return _Gather.apply(tensor, self.group)

    def _filled(self, places: Tensor) -> Tensor:
        each = max(1, -(-len(places) // self.degree))
        return pad(places, (0, each * self.degree - len(places)), value=-1)

    def _in_order(self, tensor: Tensor) -> Tensor:
        """[B, L, ...], part after part -> in the order of the tokens."""
        if self.parts == 1:
            return tensor
        order, runs = _order(self.parts), tensor.chunk(2 * self.parts, 1)
        return torch.cat([runs[order.index(run)] for run in range(2 * self.parts)], 1)


def _order(parts: int) -> list[int]:
    """The runs of a row, of 2 * parts, part after part: 0, 3, 1, 2 of two parts."""
    return [run for part in range(parts) for run in (part, 2 * parts - 1 - part)]


def exchange(tensors: Sequence[Tensor], group: dist.ProcessGroup, heads: bool) -> tuple[Tensor, ...]:
    """Each [B, l, h * n, D] of a run -> [B, l * n, h, D] of some heads, in n processes; or back. h and D are a tensor's
    own; all go at once, as a layer's calls wait less for each other than for being made."""
    split, joined = (2, 1) if heads else (1, 2)
    parts = [tensor.unflatten(split, (group.size(), -1)).movedim(split, 0) for tensor in tensors]  # [n, B, l, h, D]
    sent = torch.cat([part.flatten(3) for part in parts], 3).contiguous()
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, group=group)
    each = received.split([part.shape[3] * part.shape[4] for part in parts], 3)
    return tuple(
        whole.unflatten(3, part.shape[3:]).movedim(0, joined).flatten(joined, joined + 1).contiguous()
        for whole, part in zip(each, parts, strict=True)
    )


def gather(tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
    """[B, l, ...] in each of n processes -> [B, n * l, ...] in every one, by rank; a view of B = 1."""
    gathered = tensor.new_empty(group.size() * len(tensor), *tensor.shape[1:])
    all_gather(gathered, tensor.contiguous(), group=group)
    return gathered.unflatten(0, (group.size(), -1)).transpose(0, 1).flatten(1, 2)


def scatter(tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
    """[B, n * l, ...] in each of n processes -> [B, l, ...], the sum over them of this one's run."""
    runs = tensor.unflatten(1, (group.size(), -1)).transpose(0, 1).flatten(0, 1).contiguous()
    summed = runs.new_empty(tensor.shape[0], *runs.shape[1:])
    reduce_scatter(summed, runs, group=group)
    return summed


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, group: dist.ProcessGroup, heads: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.group, ctx.heads = group, heads
        ctx.set_materialize_grads(False)
        return exchange(tensors, group, heads)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """What nothing was made of, such as gates of text alone, has no gradient, not one of 0."""
        back = iter(exchange([grad for grad in grads if grad is not None], ctx.group, not ctx.heads))
        return None, None, *(None if grad is None else next(back) for grad in grads)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return gather(tensor, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return scatter(grad, ctx.group), None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return scatter(tensor, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return gather(grad, ctx.group), None


class GivenGates:
    """Stands for an attention layer to a method that asks it for gates: they were computed where the tokens are."""

    captured = None

    def __init__(self) -> None:
        self.given: list[Tensor] = []

    def gates(self, logits: Tensor, temperature: float) -> Tensor:
        """Gates [..., heads, 3] of logits [..., heads * 3]."""
        self.given.append(torch.sigmoid(logits / temperature).unflatten(-1, (-1, 3)))
        return self.given[-1]


def exchanged(parallel: SequenceParallel, call: Any, logits: Tensor | None) -> Any:
    """A layer's call for this process's tokens -> for its heads: queries of its part, keys and values of all tokens.

    logits: of gates [B, l, heads * 3], which then stand for the hidden states.
    """
    by_head = () if logits is None else (logits.unflatten(2, (-1, 3)),)
    query, key, value, *gates = parallel.to_heads(call.query, call.key, call.value, *by_head)
    states = gates[0].flatten(2) if gates else call.hidden_states
    return type(call)(
        call.layer, query, parallel.all_parts(key), parallel.all_parts(value), states, call.scale,
        GivenGates(), parallel.own_heads(call.query.shape[2]),
    )  # fmt: skip


def collected(parallel: SequenceParallel, call: Any, output: Tensor) -> Tensor:
    """The attention of an exchanged call -> of this process's tokens, [B, l, heads, D].

    What the layer was asked for gets a gradient, if of 0, in all processes or in none, for they sum it; also in those
    whose queries are padding, or no vision.
    """
    if parallel.parts > 1:
        asked = (call.query, call.key, call.value, *call.module.given)
        output = output + sum(tensor[:, :0].sum() for tensor in asked)
    return parallel.to_tokens(output)
