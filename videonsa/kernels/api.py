"""One public function, `nsa_attention`: checks its arguments and hands them to a backend."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from videonsa.kernels import tiling
from videonsa.kernels.reference import nsa_reference
from videonsa.names import BACKENDS, BRANCHES


def nsa_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gates: Tensor,
    *,
    block_size: int,
    block_count: int,
    window: int,
    branches: Sequence[str] = BRANCHES,
    cu_seqlens: Tensor | None = None,
    scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """Causal native sparse attention of L tokens to themselves (arXiv 2510.02295, section 3; equation 2).

        output_t = sum over branches c of gates[t, :, c] * Attn(query_t, K_t^c, V_t^c)

    cmp: means of the complete blocks of `block_size` tokens that end at or before t (0 for a query that sees none);
    slc: the tokens up to t of `block_count` blocks, t's own and those of highest compression probability, summed over
    the query heads of a key/value head, no gradient through the choice; swa: the last `window` tokens, t included.

    Args:
        query: [B, L, Hq, D], position encoding applied; Hq is a multiple of Hkv.
        key, value: [B, L, Hkv, D].
        gates: [B, L, Hq, 3], one for each of cmp, slc, swa.
        block_size, block_count, window: in tokens, blocks, tokens.
        branches: non-empty subset of cmp, slc, swa; one left out contributes 0.
        cu_seqlens: int32 [N + 1], 0 = first < ... < last = L: sequences packed one after the other, with B = 1.
        scale: of the dot products; 1/sqrt(D) when None.
        backend: reference (torch, any device and dtype), triton (CUDA), or auto: triton on CUDA in half precision
            for the head and block sizes that it serves.

    Returns:
        [B, L, Hq, D] in the dtype of query.

    Raises:
        ValueError: a shape, a name or a size that does not fit; the message says what is right.
    """
    _check_shapes(query, key, value, gates)
    _check_sizes(block_size, block_count, window, branches)
    if cu_seqlens is not None:
        _check_cu_seqlens(cu_seqlens, query)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    compute = _backend(backend, query, block_size)
    return compute(
        query,
        key,
        value,
        gates,
        block_size=block_size,
        block_count=block_count,
        window=window,
        branches=tuple(name for name in BRANCHES if name in branches),
        cu_seqlens=cu_seqlens,
        scale=scale,
    )


def _backend(name: str, query: Tensor, block_size: int):
    if name not in BACKENDS:
        raise ValueError(f"backend={name!r} is not valid: choose one of {', '.join(BACKENDS)}")
    if name == "auto":
        half = query.is_cuda and query.dtype in (torch.float16, torch.bfloat16)
        name = "triton" if half and tiling.serves(query.shape[-1], block_size) else "reference"
    if name == "reference":
        return nsa_reference
    from videonsa.kernels.triton_backend import nsa_attention_triton  # triton is not installed everywhere

    return nsa_attention_triton


def _check_shapes(query: Tensor, key: Tensor, value: Tensor, gates: Tensor) -> None:
    if query.dim() != 4 or key.dim() != 4:
        raise ValueError(f"query and key must be [B, L, heads, D]; got {list(query.shape)} and {list(key.shape)}")
    batch, length, heads, size = query.shape
    kv_heads = key.shape[2]
    if kv_heads == 0 or heads % kv_heads:
        raise ValueError(f"the {heads} query heads must be a multiple of the {kv_heads} key/value heads")
    expected = {"key": [batch, length, kv_heads, size], "value": [batch, length, kv_heads, size]}
    expected["gates"] = [batch, length, heads, 3]
    for name, tensor in (("key", key), ("value", value), ("gates", gates)):
        if list(tensor.shape) != expected[name]:
            raise ValueError(
                f"{name} must be {expected[name]} beside query {list(query.shape)}; got {list(tensor.shape)}"
            )


def _check_sizes(block_size: int, block_count: int, window: int, branches: Sequence[str]) -> None:
    unknown = [name for name in branches if name not in BRANCHES]
    if isinstance(branches, str) or unknown or not branches:
        raise ValueError(f"branches={branches!r} is not valid: give a non-empty subset of {', '.join(BRANCHES)}")
    for name, size in (("block_size", block_size), ("block_count", block_count)):
        if size < 1:
            raise ValueError(f"{name}={size} is not valid: at least 1")
    if window < (1 if "swa" in branches else 0):
        raise ValueError(f"window={window} is not valid: at least 1 while swa is a branch")


def _check_cu_seqlens(cu_seqlens: Tensor, query: Tensor) -> None:
    if query.shape[0] != 1:
        raise ValueError(f"cu_seqlens packs sequences into one row: B must be 1, got {query.shape[0]}")
    if cu_seqlens.dim() != 1 or cu_seqlens.numel() < 2:
        raise ValueError(f"cu_seqlens must be [N + 1] with N of at least 1; got {list(cu_seqlens.shape)}")
    if cu_seqlens.is_cuda:
        return  # a look at the values would wait for the device at each call
    ends = cu_seqlens.tolist()
    if ends[0] != 0 or ends[-1] != query.shape[1] or any(a > b for a, b in itertools.pairwise(ends)):
        raise ValueError(f"cu_seqlens must rise from 0 to {query.shape[1]}, the packed length; got {ends}")
