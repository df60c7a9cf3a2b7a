"""Which tokens to keep, and what becomes of the others: arithmetic that the methods which drop tokens share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import normalize


def whole(share: float, count: int) -> int:
    """Whole tokens in a share of `count`, the rest cut off; 0.57 of 100 are 57, though floats make it a little less."""
    return int(share * count + 1e-6)


def rounded(share: float, count: int) -> int:
    """The whole number of tokens nearest to a share of `count`, at least one where there are any."""
    return min(count, max(1, round(share * count)))


def top(scores: Tensor, count: int) -> Tensor:
    """Places of the `count` highest of scores [..., N], ascending; of equal scores the earlier is kept."""
    return scores.sort(dim=-1, descending=True, stable=True).indices[..., :count].sort(dim=-1).values


def others(kept: Tensor, total: int) -> Tensor:
    """The places from 0 to total - 1 that are not among the kept [T, K], in order: [T, total - K]."""
    rest = torch.ones(len(kept), total, dtype=torch.bool, device=kept.device).scatter_(1, kept, False)
    return rest.nonzero()[:, 1].view(len(kept), -1)


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

    query [1, Hq, D], or [0, Hq, D] beside no keys, of a row that is all padding; key [L, Hkv, D], every key one that
    the token sees; query head h reads key head h // (Hq / Hkv).
    """
    grouped = query.float().unflatten(1, (key.shape[1], -1))
    logits = torch.einsum("rkgd,lkd->rkgl", grouped, key.float()) * scale
    return logits.softmax(dim=-1).mean(dim=(1, 2)).sum(dim=0)


def nearest(features: Tensor, targets: Tensor) -> Tensor:
    """The target of highest cosine similarity for each of features [T, N, C] among targets [T, K, C]: places [T, N]."""
    return (normalize(features.float(), dim=-1) @ normalize(targets.float(), dim=-1).transpose(1, 2)).argmax(dim=-1)


def means_by_target(tokens: Tensor, assigned: Tensor, targets: int) -> Tensor:
    """Mean of the tokens [T, N, C] that are assigned [T, N] to each target: [T, targets, C], float32; 0 of none.

    By a product, whose sums have one order; those of scattered additions have any on a GPU.
    """
    belongs = (assigned[:, None] == torch.arange(targets, device=assigned.device)[:, None]).float()  # [T, targets, N]
    return belongs @ tokens.float() / belongs.sum(dim=2, keepdim=True).clamp(min=1)


def pick(tokens: Tensor, places: Tensor) -> Tensor:
    """tokens [T, N, C] at places [T, K]: [T, K, C]."""
    return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[2]))
