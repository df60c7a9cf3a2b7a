"""What adaptive choices are made of: attention of the last queries, sums along diagonals, the fewest that hold most.

All is float32, whatever the inputs are, and comes out the same on every device: ties go to the first, and sums that are
compared with a share are sums of whole numbers, which have no order. Sizes: L tokens, Hq query heads, Hkv key/value
heads of G query heads each, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

UNITS = 2**40  # of a probability: sums of up to 2**13 rows of them are exact in float64
ROUNDING = 1e-6  # a sum this near to what is needed reaches it: float32 holds no more of a softmax


def products(rows: Tensor, columns: Tensor) -> Tensor:
    """Every row times every column, [M, D] and [N, D] -> float32 [M, N]: of half precision exact products, summed."""
    if rows.is_cuda and rows.dtype in (torch.float16, torch.bfloat16):
        return torch.mm(rows, columns.T, out_dtype=torch.float32)
    return rows.float() @ columns.float().T


def of_group(query: Tensor, key: Tensor, head: int) -> Tensor:
    """The queries of a key/value head: [L, Hq, D] -> [G, L, D], a view."""
    return query.unflatten(1, (key.shape[1], -1))[:, head].transpose(0, 1)


def last_attention(query: Tensor, key: Tensor, last: int, scale: float) -> Iterator[Tensor]:
    """Causal attention probabilities of the `last` (at most L) queries over all keys: by key/value head, [G, last, L].

    query [L, Hq, D], key [L, Hkv, D]. At 128K tokens and 64 queries one head's are 0.2 GiB.
    """
    later = torch.ones(last, last, dtype=torch.bool, device=query.device).triu(1)
    for head in range(key.shape[1]):
        rows = of_group(query[-last:], key, head)
        scores = products(rows.flatten(0, 1), key[:, head]).unflatten(0, rows.shape[:2]) * scale
        scores[..., -last:].masked_fill_(later, -torch.inf)
        yield scores.softmax(-1)


def diagonal_sums(probabilities: Tensor) -> Tensor:
    """Sums along diagonals of the last R rows of a causal map: [G, R, L] -> [G, L], at d the pairs with i - j = d."""
    heads, rows, length = probabilities.shape
    width = length + rows - 1
    padded = pad(probabilities, (rows - 1, 0))  # so that a diagonal's next pair lies width + 1 places on
    return padded.as_strided((heads, length, rows), (rows * width, 1, width + 1)).sum(-1).flip(-1)


def block_sums(values: Tensor, block_size: int) -> Tensor:
    """[..., L] -> [..., ceil(L / block_size)]."""
    return pad(values, (0, -values.shape[-1] % block_size)).unflatten(-1, (-1, block_size)).sum(-1)


def block_means(tokens: Tensor, block_size: int) -> Tensor:
    """[L, heads, D] -> float32 [ceil(L / block_size), heads, D]; a partial last block is the mean of what it has."""
    missing = -len(tokens) % block_size
    whole = pad(tokens, (0, 0, 0, 0, 0, missing)) if missing else tokens
    means = whole.unflatten(0, (-1, block_size)).mean(1, dtype=torch.float32)
    means[-1] *= block_size / (block_size - missing)
    return means


def best(scores: Tensor, counts: Tensor) -> Tensor:
    """The counts[h] highest of each row, ties to the first, NaN lowest: [H, N], [H] -> bool [H, N]."""
    order = scores.nan_to_num(-torch.inf, torch.inf, -torch.inf).sort(dim=-1, descending=True, stable=True).indices
    taken = torch.arange(scores.shape[-1], device=scores.device) < counts[:, None]
    return torch.zeros_like(taken).scatter_(-1, order, taken)


def fewest(mass: Tensor, needed: Tensor) -> Tensor:
    """The fewest entries of each row whose sum reaches `needed`, highest first: [..., N], [..., 1] -> bool [..., N].

    All that are above 0 where their sum does not reach it; none where nothing is needed. NaN counts as 0.
    """
    ordered, order = mass.nan_to_num(0, 0, 0).sort(dim=-1, descending=True, stable=True)
    units = _units(ordered)
    before = units.cumsum(-1) - units
    taken = (before < _units(needed) * (1 - ROUNDING)) & (units > 0)
    return torch.zeros_like(taken).scatter_(-1, order, taken)


def _units(mass: Tensor) -> Tensor:
    return (mass.double() * UNITS).round().long()
