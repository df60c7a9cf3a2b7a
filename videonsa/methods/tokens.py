"""Which tokens to keep, and what becomes of the others: arithmetic that the methods which drop tokens share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import normalize


def whole(share: float, count: int) -> int:
    """Whole tokens in a share of `count`, the rest cut off; 0.57 of 100 are 57, though the product of floats is less."""
    return int(share * count + 1e-6)


def top(scores: Tensor, count: int) -> Tensor:
    """Places of the `count` highest of scores [N], ascending; of equal scores the earlier is kept."""
    return scores.sort(descending=True, stable=True).indices[:count].sort().values


def evenly(count: int, total: int) -> Tensor:
    """Places of `count` of `total` tokens, evenly spaced from the first: floor(i * total / count)."""
    return torch.arange(count) * total // max(count, 1)


def at_random(count: int, total: int, seed: int) -> Tensor:
    """Places of `count` of `total` tokens, ascending, drawn without replacement; the same on every machine."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(total, generator=generator)[:count].sort().values


def seed_of(seed: int, content: Iterable[Tensor]) -> int:
    """A seed for what the tensors hold: equal contents draw alike, whenever and beside whatever they are asked."""
    digest = hashlib.sha256(str(seed).encode())
    for tensor in content:
        digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
    return int.from_bytes(digest.digest()[:7], "big")


def last_token_scores(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Attention of one token to all keys, mean of the heads: [L], float32, of sum 1. Nothing of L x L is made.

    query [Hq, D]; key [L, Hkv, D], every key one that the token sees; query head h reads key head h // (Hq / Hkv).
    """
    grouped = query.float().unflatten(0, (key.shape[1], -1))
    logits = torch.einsum("kgd,lkd->kgl", grouped, key.float()) * scale
    return logits.softmax(dim=-1).mean(dim=(0, 1))


def nearest(features: Tensor, targets: Tensor) -> Tensor:
    """The target of highest cosine similarity for each of features [N, C] among targets [T, C]: places [N]."""
    return (normalize(features.float(), dim=-1) @ normalize(targets.float(), dim=-1).T).argmax(dim=-1)


def sums_by_target(tokens: Tensor, assigned: Tensor, targets: int) -> tuple[Tensor, Tensor]:
    """Sums [T, C] of the tokens [N, C] of each target, and how many they are [T, 1]; float32."""
    sums = torch.zeros(targets, tokens.shape[1], device=tokens.device).index_add_(0, assigned, tokens.float())
    return sums, assigned.bincount(minlength=targets)[:, None]


def others(kept: Tensor, total: int) -> Tensor:
    """The places from 0 to total - 1 that are not among the kept."""
    rest = torch.ones(total, dtype=torch.bool, device=kept.device)
    rest[kept] = False
    return rest.nonzero().squeeze(1)
