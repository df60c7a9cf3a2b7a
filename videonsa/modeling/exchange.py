"""A training's sample over several processes, for lengths whose activations one GPU does not hold.

Each process takes a run of the sample's tokens through the decoder's layers. For attention the processes exchange: each
gets all tokens of some heads, whole groups of them, so that the choice of blocks, which a group shares, is made in one
place (DeepSpeed-Ulysses, arXiv 2309.14509). What comes before the layers and after them every process does for all
tokens.

Gradients: a process's are those of its own tokens, `degree` times too large, before the layers and in them; and those
of all tokens after. So their mean over the processes is the whole gradient everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class SequenceParallel:
    """The processes of `group`, each with an equal run of tokens, in the order of their ranks in it."""

    group: dist.ProcessGroup
    degree: int
    rank: int

    def split(self, tensor: Tensor, dim: int = 1) -> Tensor:
        """This process's run of tokens. Raises ValueError for a length that cannot be split evenly."""
        length = tensor.shape[dim]
        if length % self.degree:
            raise ValueError(f"{length} tokens do not fall into {self.degree} equal runs: pad them")
        each = length // self.degree
        return tensor.narrow(dim, self.rank * each, each)

    def join(self, tensor: Tensor) -> Tensor:
        """[B, l, ...], runs -> [B, L, ...] in every process."""
        return _Join.apply(tensor, self)

    def to_heads(self, tensor: Tensor) -> Tensor:
        """[B, l, heads, D] of a run, all heads -> [B, L, heads / degree, D], all tokens."""
        return _Exchange.apply(tensor, self, True)

    def to_tokens(self, tensor: Tensor) -> Tensor:
        """[B, L, heads / degree, D], all tokens -> [B, l, heads, D] of a run, all heads."""
        return _Exchange.apply(tensor, self, False)

    def heads(self, count: int) -> slice:
        """Of `count` heads those of this process."""
        each = count // self.degree
        return slice(self.rank * each, (self.rank + 1) * each)

    def exchange(self, tensor: Tensor, heads: bool) -> Tensor:
        split, joined = (2, 1) if heads else (1, 2)
        sent = torch.stack(tensor.chunk(self.degree, split)).contiguous()
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=self.group)
        return torch.cat(received.unbind(), joined)


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, parallel: SequenceParallel, heads: bool) -> Tensor:
        ctx.parallel, ctx.heads = parallel, heads
        return parallel.exchange(tensor, heads)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.parallel.exchange(grad, not ctx.heads), None, None


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, parallel: SequenceParallel) -> Tensor:
        ctx.parallel = parallel
        parts = [torch.empty_like(tensor) for _ in range(parallel.degree)]
        dist.all_gather(parts, tensor.contiguous(), group=parallel.group)
        return torch.cat(parts, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.parallel.degree * ctx.parallel.split(grad), None


class GivenGates:
    """Stands for an attention layer to a method that asks it for gates: they were computed where the tokens are."""

    captured = None

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def gates(self, logits: Tensor, temperature: float) -> Tensor:
        """Gates [..., heads, 3] of logits [..., heads * 3]."""
        return torch.sigmoid(logits / temperature).unflatten(-1, (-1, 3))


def exchanged(parallel: SequenceParallel, call: Any, logits: Tensor | None) -> Any:
    """A layer's call for a run of tokens -> for all tokens of this process's heads; logits: of gates [B, l, heads * 3],
    which then stand for the hidden states."""
    query, key, value = (parallel.to_heads(tensor) for tensor in (call.query, call.key, call.value))
    states = call.hidden_states if logits is None else parallel.to_heads(logits.unflatten(2, (-1, 3))).flatten(2)
    return type(call)(
        call.layer, query, key, value, states, call.scale, GivenGates(call.module),
        parallel.heads(call.query.shape[2]),
    )  # fmt: skip
