"""Attention of one sample to chosen keys, `block_sparse_attention`: its checks, and the reference in plain torch.

What is chosen is a `KeyChoice` (key_choice.py); block_sparse_triton.py is the fast path. Prefill only: the sample's
tokens attend to one another. Shape suffixes: R rows (queries) of a chunk, K keys, H key/value heads, G query heads of
one of them, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from videonsa.kernels import tiling
from videonsa.kernels.empty import empty_output
from videonsa.kernels.key_choice import KeyChoice
from videonsa.names import BACKENDS

__all__ = ["KeyChoice", "block_sparse_attention", "block_sparse_reference"]

CHUNK_ELEMENTS = 1 << 26  # scores held at once
CPU_CHUNK_ELEMENTS = 1 << 18  # on a CPU so few that they stay in its cache
HIDDEN = -1e30  # added to the score of a key that is not chosen: it then weighs exactly 0


def block_sparse_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    choice: KeyChoice,
    scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """Causal attention of one sample's tokens to the keys that `choice` names; one softmax over all of them.

    A query for which nothing is chosen gets 0. No output depends on a later token, be it NaN.

    Args:
        query: [L, Hq, D], position encoding applied; Hq is a multiple of Hkv.
        key, value: [L, Hkv, D].
        choice: of L tokens and Hq heads.
        scale: of the dot products; 1/sqrt(D) when None.
        backend: reference (torch, any device and dtype, differentiable), triton (CUDA, forward only), or auto: triton
            on CUDA in half precision, for the head and block sizes that it serves and where no gradient is asked.

    Returns:
        [L, Hq, D] in the dtype of query.

    Raises:
        ValueError: a shape, a name or a size that does not fit; the message says what is right.
    """
    _check(query, key, value, choice)
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} is not valid: choose one of {', '.join(BACKENDS)}")
    if query.numel() == 0:
        return empty_output(query, key, value)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return _backend(backend, (query, key, value), choice)(query, key, value, choice, scale)


def _backend(name: str, tensors: tuple[Tensor, ...], choice: KeyChoice):
    if name == "auto":
        query = tensors[0]
        half = query.is_cuda and query.dtype in (torch.float16, torch.bfloat16)
        no_gradient = not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))
        served = half and no_gradient and tiling.serves(query.shape[-1], choice.block_size)
        name = "triton" if served else "reference"
    if name == "reference":
        return block_sparse_reference
    from videonsa.kernels.block_sparse_triton import block_sparse_triton  # triton is not installed everywhere

    return block_sparse_triton


def _check(query: Tensor, key: Tensor, value: Tensor, choice: KeyChoice) -> None:
    if query.dim() != 3 or key.dim() != 3:
        raise ValueError(f"query and key must be [L, heads, D]; got {list(query.shape)} and {list(key.shape)}")
    length, heads, size = query.shape
    if key.shape[1] < 1 or heads % key.shape[1]:
        raise ValueError(f"the {heads} query heads must be a multiple of the {key.shape[1]} key/value heads")
    for name, tensor in (("key", key), ("value", value)):
        if tensor.shape != (length, key.shape[1], size):
            raise ValueError(
                f"{name} must be {[length, key.shape[1], size]} beside query {list(query.shape)}; "
                f"got {list(tensor.shape)}"
            )
    if not query.dtype == key.dtype == value.dtype or not query.is_floating_point():
        types = ", ".join(str(tensor.dtype) for tensor in (query, key, value))
        raise ValueError(f"query, key and value must share one floating type; got {types}")
    if (choice.length, choice.heads) != (length, heads):
        raise ValueError(
            f"choice is of {choice.length} tokens and {choice.heads} heads; query has {length} and {heads}"
        )
    devices = [str(tensor.device) for tensor in (query, key, value, choice.starts)]
    if len(set(devices)) > 1:
        raise ValueError(f"query, key, value and choice must be on one device; got {', '.join(devices)}")


def block_sparse_reference(query: Tensor, key: Tensor, value: Tensor, choice: KeyChoice, scale: float) -> Tensor:
    """`block_sparse_attention` without its checks; computes in float32, or in float64 for float64 inputs.

    Runs of whole blocks of queries against all keys up to the run's end, with what is not chosen hidden: dense
    attention with a mask, in O(run x L) memory. The mask is added, by block of queries, and what is later only where
    the run meets itself: 2.6 times as fast as a mask of all scores (1,000 tokens, 4 heads, blocks of 4, one core).
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    missing = -len(query) % choice.block_size
    query_LHGD = pad(query.to(dtype) * scale, (0, 0, 0, 0, 0, missing)).unflatten(1, (key.shape[1], -1))
    query_HGLD = query_LHGD.permute(1, 2, 0, 3)
    key_HLD, value_HLD = key.to(dtype).transpose(0, 1), value.to(dtype).transpose(0, 1)
    broken_HL = ~(key_HLD.isfinite().all(-1) & value_HLD.isfinite().all(-1))  # 0 * NaN is NaN: they go apart
    any_broken = bool(broken_HL.any())
    if any_broken:
        key_HLD, value_HLD = (tensor.masked_fill(broken_HL[..., None], 0) for tensor in (key_HLD, value_HLD))
    outputs = []
    for first_block, last_block in _runs(choice):
        hidden_HGBK = _hidden(choice.by_block(first_block, last_block), dtype).unflatten(0, (key.shape[1], -1))
        start, end = first_block * choice.block_size, hidden_HGBK.shape[-1]
        own = slice(start if choice.band is None else 0, end)  # all that is before a run is seen, but for a band
        score_HGRK = _times(query_HGLD[:, :, start : last_block * choice.block_size], key_HLD[:, :end].mT)
        score_HGRK.unflatten(2, (last_block - first_block, -1)).add_(hidden_HGBK[:, :, :, None])
        score_HGRK = score_HGRK[:, :, : end - start]
        score_HGRK[..., own] += _hidden(choice.seen(start, end)[:, own], dtype)
        nothing_HGR1 = score_HGRK.detach().amax(-1, keepdim=True) < HIDDEN / 2
        output_HGRD = _times(score_HGRK.softmax(-1), value_HLD[:, :end]).masked_fill(nothing_HGR1, 0)
        if any_broken:
            visible_HGRK = choice.rows(first_block, last_block).unflatten(0, (key.shape[1], -1)).to(dtype)
            reached_HGR1 = _times(visible_HGRK, broken_HL[:, :end, None].to(dtype)) > 0
            output_HGRD = output_HGRD.masked_fill(reached_HGR1, torch.nan)
        outputs.append(output_HGRD)
    return torch.cat(outputs, 2).permute(2, 0, 1, 3).flatten(1, 2).to(query.dtype)


def _hidden(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """What to add to scores: 0 where a key is seen."""
    return (~seen).to(dtype) * HIDDEN


def _runs(choice: KeyChoice) -> list[tuple[int, int]]:
    """Runs of blocks of queries, [first, last), whose scores fit the chunk."""
    most = CPU_CHUNK_ELEMENTS if choice.starts.device.type == "cpu" else CHUNK_ELEMENTS
    rows = most // (choice.heads * choice.length)
    blocks = max(1, rows // choice.block_size)
    return [(first, min(first + blocks, choice.blocks)) for first in range(0, choice.blocks, blocks)]


def _times(left_HGRA: Tensor, right_HAB: Tensor) -> Tensor:
    """Products [H, G, R, B]; the heads of a group share the right side without a copy of it."""
    return (left_HGRA.flatten(1, 2) @ right_HAB).unflatten(1, left_HGRA.shape[1:3])
