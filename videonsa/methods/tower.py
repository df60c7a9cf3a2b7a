"""What a vision tower's attention says of its tokens, read while it runs: no layer is changed, none runs twice.

Qwen2.5-VL's tower works on patches, `merge`^2 of them a token, and orders tokens by window. Its blocks of full
attention see one temporal patch of one video at a time. It may take the temporal patches in several pieces, one after
the other. Readings are in the order of the tokens that it returns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import groupby
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn

from videonsa.methods.meter import Clock

CHUNK = 1 << 25  # attention weights in memory at a time: 128 MiB in float32


class Readings(dict[str, Tensor]):
    """What is read, by name, and how long reading took."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.clock = Clock(device)


@contextmanager
def reading(tower: Any, blocks: Mapping[str, int]) -> Iterator[Readings]:
    """Readings of the named blocks, filled while the tower runs in the context.

    For a block named x: `x`, the attention that each token received, [tokens], float32: mean of heads and of the
    token's patches, summed over the queries of its temporal patch; and `x.keys`, its rotated keys, mean of heads and
    patches, [tokens, D]. Always there: `pixels`, one value of each token's pixels, [tokens].
    """
    found = Readings(tower.device)
    order: list[Tensor] = []  # of the present call
    parts: dict[str, list[Tensor]] = {}  # what was read in the present call, piece by piece
    merge, thread = tower.spatial_merge_size, get_ident()  # another thread's call is none of ours

    def begin(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if get_ident() != thread:
            return
        pixels, grids = (*args, *(kwargs[name] for name in ("hidden_states", "grid_thw") if name in kwargs))
        found["pixels"] = pixels[:: merge**2, 0].float()
        order[:] = [window_order(grids.tolist(), merge, tower.window_size // merge // tower.patch_size)]
        parts.update({each: [] for name in blocks for each in (name, f"{name}.keys")})

    def read(name: str) -> Any:
        def hook(attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if get_ident() != thread:
                return
            hidden = args[0] if args else kwargs["hidden_states"]
            bounds = kwargs["cu_seqlens"] if "cu_seqlens" in kwargs else args[1]
            with found.clock.running():
                query, key = _query_and_key(attention, hidden, *kwargs["position_embeddings"])
                received = attention_received(query, key, bounds.diff().tolist(), query.shape[-1] ** -0.5)
                begun, tokens = sum(map(len, parts[name])), len(received) // merge**2
                places = order[0][begun : begun + tokens].argsort().to(received.device)  # a piece is whole frames
                parts[name].append(received.unflatten(0, (-1, merge**2)).mean(dim=1)[places])
                parts[f"{name}.keys"].append(key.float().mean(dim=1).unflatten(0, (-1, merge**2)).mean(dim=1)[places])

        return hook

    def end(*_: Any) -> None:
        if get_ident() == thread:
            found.update({name: torch.cat(pieces) for name, pieces in parts.items()})

    with ExitStack() as stack:
        stack.callback(tower.register_forward_pre_hook(begin, with_kwargs=True).remove)
        stack.callback(tower.register_forward_hook(end).remove)
        for name, block in blocks.items():
            attention = tower.blocks[block].attn
            stack.callback(attention.register_forward_pre_hook(read(name), with_kwargs=True).remove)
        yield found


def attention_received(query: Tensor, key: Tensor, lengths: list[int], scale: float) -> Tensor:
    """Attention that each of N patches receives from those of its own segment: mean of heads, sum of queries; [N].

    query, key [N, H, D]; segments of the given lengths, one after the other, attend each within itself. Weights are
    made in pieces of at most CHUNK, and never between segments.
    """
    heads = query.shape[1]
    received = torch.zeros(len(query), device=query.device)
    start = 0
    for length, run in groupby(lengths):
        segments = len(list(run))
        together = max(1, CHUNK // (heads * length * length))
        rows = max(1, CHUNK // (heads * length))
        for first in range(0, segments, together):
            part = slice(start + first * length, start + min(first + together, segments) * length)
            q, k = (x[part].float().unflatten(0, (-1, length)).transpose(1, 2) for x in (query, key))  # [S, H, n, D]
            for row in range(0, length, rows):
                weights = (q[:, :, row : row + rows] @ k.transpose(2, 3) * scale).softmax(dim=-1)
                received[part] += weights.sum(dim=2).mean(dim=1).flatten()
        start += segments * length
    return received


def window_order(grids: list[list[int]], merge: int, window: int) -> Tensor:
    """The tokens of all grids (time, height, width, in patches) as the tower orders them: by temporal patch, window of
    `window` x `window` tokens, row, column; [tokens]."""
    orders, start = [], 0
    for time, height, width in grids:
        height, width = height // merge, width // merge
        rows, columns = torch.arange(height)[:, None] // window, torch.arange(width) // window
        within = (rows * width + columns).flatten().argsort(stable=True)
        orders.append((torch.arange(time)[:, None] * height * width + within).flatten() + start)
        start += time * height * width
    return torch.cat(orders)


def _query_and_key(attention: Any, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotated queries and keys of a tower's attention, [patches, H, D] each, of its inputs."""
    query, key, _ = attention.qkv(hidden).unflatten(1, (3, attention.num_heads, -1)).unbind(1)
    return _rotate(query, cos, sin), _rotate(key, cos, sin)


def _rotate(tensor: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary encoding in float32, as of the tower: the two halves of each head turn together."""
    first, second = tensor.float().chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return (tensor.float() * cos[:, None].float() + turned * sin[:, None].float()).to(tensor.dtype)
