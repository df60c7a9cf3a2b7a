"""Attention of the last tokens of a sample, vision by NSA and text densely: of a run's tokens (runs.py)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from videonsa.config import NSASettings
from videonsa.kernels import nsa_attention
from videonsa.kernels.text import text_attention
from videonsa.methods.runs import Piece, Places, find_places


@dataclass(frozen=True)
class Tail:
    """Which of a piece's N tokens are vision, and which of its M queries."""

    vision_keys: Places  # among N; the vision queries are the last of these
    vision_queries: Places  # among M
    text_queries: Places  # among M
    text_positions: Tensor  # of these among N


def make_tail(piece: Piece, is_vision: Tensor) -> Tail:
    """The tail of a piece; is_vision: bool [B * L]."""
    is_vision = is_vision[piece.keys]
    vision = is_vision.nonzero()[:, 0]
    count = piece.queries.stop - piece.queries.start if isinstance(piece.queries, slice) else len(piece.queries)
    earlier = len(is_vision) - count
    asks = is_vision[earlier:]
    text = (~asks).nonzero()[:, 0]
    return Tail(
        vision_keys=find_places(vision, is_vision),
        vision_queries=find_places(asks.nonzero()[:, 0], is_vision),
        text_queries=find_places(text, is_vision),
        text_positions=text + earlier,
    )


def tail_attention(
    query: Tensor, key: Tensor, value: Tensor, gates: Tensor, tail: Tail, nsa: NSASettings, scale: float
) -> Tensor:
    """Vision queries attend to earlier vision tokens by NSA, text queries to all earlier tokens.

    query [M, Hq, D] of the last of N tokens, gates [M, Hq, 3]; key, value [N, Hkv, D] -> [M, Hq, D].
    """
    output = torch.zeros_like(query, memory_format=torch.contiguous_format)
    vision_query = query[tail.vision_queries]
    if len(vision_query):
        output[tail.vision_queries] = nsa_attention(
            vision_query[None],
            key[tail.vision_keys][None],
            value[tail.vision_keys][None],
            gates[tail.vision_queries][None],
            block_size=nsa.block_size,
            block_count=nsa.block_count,
            window=nsa.window,
            branches=nsa.branches,
            scale=scale,
            backend=nsa.backend,
        )[0]
    if len(tail.text_positions):
        text_query = query[tail.text_queries]
        output[tail.text_queries] = text_attention(text_query, key, value, tail.text_positions, scale, nsa.backend)
    return output
