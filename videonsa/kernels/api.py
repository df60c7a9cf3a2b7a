"""One public function, `nsa_attention`: checks its arguments and hands them to a backend."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from videonsa.kernels import tiling
from videonsa.kernels.reference import nsa_reference
from videonsa.limits import refusal
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
        query: [B, L, Hq, D], position encoding applied; Hq is a multiple of Hkv. B and L may be 0. Of one sequence
            (B = 1, no cu_seqlens) also the last R tokens' alone, [1, R, Hq, D]: gates and output are then theirs.
        key, value: [B, L, Hkv, D].
        gates: [B, L, Hq, 3], one for each of cmp, slc, swa.
        block_size, block_count, window: in tokens, blocks, tokens.
        branches: non-empty subset of cmp, slc, swa; one left out contributes 0.
        cu_seqlens: int32 [N + 1], 0 = first <= ... <= last = L: sequences packed one after the other, with B = 1.
        scale: of the dot products; 1/sqrt(D) when None.
        backend: reference (torch, any device and dtype), triton (CUDA), or auto: triton on CUDA in half precision
            for the head and block sizes that it serves.

    Returns:
        [B, L, Hq, D], as query, and in its dtype.

    Raises:
        ValueError: a shape, a name or a size that does not fit; the message says what is right.
    """
    branches = (branches,) if isinstance(branches, str) else tuple(branches)
    _check_shapes(query, key, value, gates)
    _check_types(query, key, value, gates)
    _check_settings(block_size, block_count, window, branches, backend)
    if cu_seqlens is not None:
        _check_cu_seqlens(cu_seqlens, query, key)
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
    if min(heads, kv_heads, size) < 1:
        raise ValueError(f"heads and D must be at least 1; got query {list(query.shape)} and key {list(key.shape)}")
    if heads % kv_heads:
        raise ValueError(f"the {heads} query heads must be a multiple of the {kv_heads} key/value heads")
    keys = max(length, key.shape[1]) if batch == 1 else length
    expected = {"key": [batch, keys, kv_heads, size], "value": [batch, keys, kv_heads, size]}
    expected["gates"] = [batch, length, heads, 3]
    for name, tensor in (("key", key), ("value", value), ("gates", gates)):
        if list(tensor.shape) != expected[name]:
            raise ValueError(
                f"{name} must be {expected[name]} beside query {list(query.shape)}; got {list(tensor.shape)}"
            )


def _check_types(query: Tensor, key: Tensor, value: Tensor, gates: Tensor) -> None:
    """Gates may have a type of their own: a gate network kept in float32 serves attention in bfloat16."""
    types = [tensor.dtype for tensor in (query, key, value)]
    if len(set(types)) > 1 or not query.is_floating_point():
        raise ValueError(f"query, key and value must share one floating type; got {', '.join(map(str, types))}")
    if not gates.is_floating_point():
        raise ValueError(f"gates must be of a floating type; got {gates.dtype}")
    devices = [str(tensor.device) for tensor in (query, key, value, gates)]
    if len(set(devices)) > 1:
        raise ValueError(f"query, key, value and gates must be on one device; got {', '.join(devices)}")


def _check_settings(block_size: int, block_count: int, window: int, branches: tuple[str, ...], backend: str) -> None:
    if not branches:
        raise ValueError(f"branches=() is not valid: give a non-empty subset of {', '.join(BRANCHES)}")
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} is not valid: choose one of {', '.join(BACKENDS)}")
    refused = refusal(block_size=block_size, block_count=block_count, window=window, branches=branches, backend=backend)
    if refused is not None:
        raise ValueError(str(refused))


def _check_cu_seqlens(cu_seqlens: Tensor, query: Tensor, key: Tensor) -> None:
    """What can be told without its values, for which one may have to wait; the backends look at those."""
    if query.shape[0] != 1:
        raise ValueError(f"cu_seqlens packs sequences into one row: B must be 1, got {query.shape[0]}")
    if key.shape[1] > query.shape[1]:
        raise ValueError(
            f"{query.shape[1]} queries of {key.shape[1]} tokens are the last ones of one sequence: without cu_seqlens"
        )
    whole = cu_seqlens.dtype in (torch.int32, torch.int64)
    if cu_seqlens.dim() != 1 or cu_seqlens.numel() < 1 or not whole:
        raise ValueError(f"cu_seqlens must be int32 [N + 1]; got {cu_seqlens.dtype} {list(cu_seqlens.shape)}")
