"""Attention between blocks by the sums of antidiagonals, XAttention's estimate (Triton).

A group is `stride` tokens; the score of two groups is the sum of the products of one's tokens and the other's in
reverse order. A product of matrices whose rows are groups gives it, and a view does for the reversal: no copy is made.
One program takes a tile of groups of queries and one of keys of a head, and writes, for each group of queries and each
block of keys, the logarithm of the sum of the weights; a softmax over the blocks of a row then makes their shares.

Tensors: query [L, HQ, D]; key [L, HK, D]; weight [HQ, blocks * groups per block, blocks], base 2.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import pad

from videonsa.kernels import tiling_sparse
from videonsa.kernels.flash import LOG2E
from videonsa.kernels.tiles import rows_of


@triton.jit(do_not_specialize=["groups", "blocks"])
def _block_weights(query, key, weight, groups, blocks, scale, HQ: tl.constexpr, HK: tl.constexpr, D: tl.constexpr,
                   STRIDE: tl.constexpr, PER_BLOCK: tl.constexpr, ROWS: tl.constexpr,
                   COLUMNS: tl.constexpr):  # fmt: skip
    first_key = tl.program_id(0) * COLUMNS  # neighbours share their queries, and the heads of a group their keys
    first = tl.program_id(1) * ROWS
    head = tl.program_id(2)
    if first_key < tl.minimum(first + ROWS, groups):
        score = tl.zeros([ROWS, COLUMNS], tl.float32)
        for token in range(0, STRIDE):
            query_tile = query.load([first, ((STRIDE - 1 - token) * HQ + head) * D])
            key_tile = key.load([first_key, (token * HK + head // (HQ // HK)) * D])
            score = tl.dot(query_tile, tl.trans(key_tile), score, input_precision="ieee")
        row = first + tl.arange(0, ROWS)
        index = first_key + tl.arange(0, COLUMNS)
        score = tl.where(index[None, :] <= row[:, None], score * scale, float("-inf"))
        score = tl.reshape(score, [ROWS, COLUMNS // PER_BLOCK, PER_BLOCK])
        top = tl.max(score, 2)
        top = tl.where(top == float("-inf"), 0.0, top)
        total = top + tl.log2(tl.sum(tl.exp2(score - top[:, :, None]), 2))
        block = first_key // PER_BLOCK + tl.arange(0, COLUMNS // PER_BLOCK)
        place = (tl.cast(head, tl.int64) * blocks * PER_BLOCK + row)[:, None] * blocks + block[None, :]
        tl.store(weight + place, total, mask=(row < groups)[:, None] & (block < blocks)[None, :])


def antidiagonal_scores(query: Tensor, key: Tensor, scale: float, stride: int, block_size: int) -> Tensor:
    """Attention between blocks of tokens, summed over the groups of a block of queries: float32 [Hq, n, n].

    query [L, Hq, D], key [L, Hkv, D], on a CUDA device (or anywhere in Triton's interpreter); head and block size as
    tiling.py serves them; stride divides block_size. The sample is padded with zeros to whole groups. A group of
    queries sees the groups up to its own. The reference is `block_scores` of videonsa/methods/xattention.py.
    """
    length, heads, size = query.shape
    blocks, groups, per_block = -(-length // block_size), -(-length // stride), block_size // stride
    tile = tiling_sparse.antidiagonals(per_block)
    rows, columns = (
        rows_of(pad(tensor, (0, 0, 0, 0, 0, -length % stride)).reshape(groups, -1, size).contiguous(), count)
        for tensor, count in ((query, tile.rows), (key, tile.columns))
    )
    weight = torch.full((heads, blocks * per_block, blocks), -torch.inf, dtype=torch.float32, device=query.device)
    with torch.cuda.device_of(query):  # kernels run on the current device
        _block_weights[(triton.cdiv(groups, tile.columns), triton.cdiv(groups, tile.rows), heads)](
            rows, columns, weight, groups, blocks, scale / stride * LOG2E,
            HQ=heads, HK=key.shape[1], D=size, STRIDE=stride, PER_BLOCK=per_block, ROWS=tile.rows,
            COLUMNS=tile.columns, **tile.options,
        )  # fmt: skip
    share = weight.mul_(math.log(2)).softmax(-1)
    share[:, groups:] = 0
    return share.unflatten(1, (blocks, per_block)).sum(2)
