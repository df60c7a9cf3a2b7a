"""XAttention: blocks by the sums of their antidiagonals, as many as hold a share of each row's attention.

Source: "XAttention" (arXiv 2503.16428), and `xattn_estimate`, `find_blocks_chunked` of mit-han-lab/x-attention.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from videonsa.kernels import tiling
from videonsa.kernels.key_choice import KeyChoice
from videonsa.methods.estimate import fewest, of_group, products
from videonsa.methods.settings import XAttentionSettings
from videonsa.methods.sparse import SparsePrefill

CHUNK_ELEMENTS = 1 << 27  # scores held at once: 0.5 GiB


class XAttention(SparsePrefill):
    """`xattention_choice` by its settings, the same in every layer."""

    settings: XAttentionSettings

    def choose(self, query: Tensor, key: Tensor, scale: float, layer: int) -> KeyChoice | None:
        asked = self.settings
        return xattention_choice(
            query,
            key,
            scale,
            threshold=asked.threshold,
            stride=asked.stride,
            block_size=asked.block_size,
            backend=asked.backend,
        )


def xattention_choice(
    query: Tensor,
    key: Tensor,
    scale: float,
    *,
    threshold: float = 0.9,
    stride: int = 16,
    block_size: int = 128,
    backend: str = "auto",
) -> KeyChoice | None:
    """For each block of queries the first block, its own, and the best others until they hold a share of the row.

    A block's score is the attention between groups of `stride` tokens, with the sum of their antidiagonal products as
    the score of a pair of groups. A query's own group is seen whole, so that the choice for a block of queries depends
    on all tokens up to the block's end, and on none after it.

    Args:
        query: [L, Hq, D], key: [L, Hkv, D], position encoding applied.
        scale: of their products.
        threshold: share of a row's attention to keep; 1 keeps everything.
        stride: tokens in a group; divides block_size.
        backend: reference (torch), or auto and triton: a kernel for the scores, on CUDA in half precision.

    None, everything, where L is at most one block.
    """
    length = len(query)
    if threshold >= 1 or length <= block_size:
        return None
    scores = _scores(query, key, scale, stride, block_size, backend)
    chosen = [_chosen(part, threshold) for part in scores.split(query.shape[1] // key.shape[1])]
    return KeyChoice.of_blocks(torch.cat(chosen), block_size, length)


def _scores(query: Tensor, key: Tensor, scale: float, stride: int, block_size: int, backend: str) -> Tensor:
    """`block_scores` of all heads, [Hq, n, n]."""
    half = query.is_cuda and query.dtype in (torch.float16, torch.bfloat16)
    if backend != "reference" and half and tiling.serves(query.shape[-1], block_size):
        from videonsa.kernels.antidiagonal import antidiagonal_scores  # triton is not installed everywhere

        return antidiagonal_scores(query, key, scale, stride, block_size)
    heads = range(key.shape[1])
    return torch.cat([block_scores(of_group(query, key, h), key[:, h], scale, stride, block_size) for h in heads])


def _chosen(scores: Tensor, threshold: float) -> Tensor:
    """Scores of blocks [G, n, n] -> bool [G, n, n]."""
    always = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
    always[:, 0] = True
    scores = scores.nan_to_num(0)
    missing = threshold * scores.sum(-1, keepdim=True) - (scores * always).sum(-1, keepdim=True)
    return fewest(scores.masked_fill(always, 0), missing) | always


def block_scores(query: Tensor, key: Tensor, scale: float, stride: int, block_size: int) -> Tensor:
    """Attention between blocks, summed over their groups of `stride` tokens: [G, L, D], [L, D] -> float32 [G, n, n].

    The sample is padded with zeros to whole blocks; groups without a token are no rows.
    """
    length, per_block = len(key), block_size // stride
    missing = -length % block_size
    keys = pad(key, (0, 0, 0, missing)).unflatten(0, (-1, stride)).flatten(1)
    queries = pad(query, (0, 0, 0, missing)).unflatten(1, (-1, stride)).flip(2).flatten(2)
    groups, blocks = len(keys), len(keys) // per_block
    sums = torch.zeros(len(query), blocks, blocks, dtype=torch.float32, device=query.device)
    rows = max(1, CHUNK_ELEMENTS // (len(query) * groups * per_block)) * per_block
    for start in range(0, groups, rows):
        end = min(start + rows, groups)
        scores = products(queries[:, start:end].flatten(0, 1), keys[:end]).unflatten(0, (len(query), -1))
        later = torch.ones(end - start, end - start, dtype=torch.bool, device=query.device).triu(1)
        scores[..., start:].masked_fill_(later, -torch.inf)
        attention = (scores * (scale / stride)).softmax(-1)
        attention[:, -(-length // stride) - start :] = 0
        cells = attention.unflatten(1, (-1, per_block)).sum(2).unflatten(2, (-1, per_block)).sum(-1)
        sums[:, start // per_block : end // per_block, : end // per_block] = cells
    return sums
