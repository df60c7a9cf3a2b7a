"""The whole method in plain torch: what every fast path is compared with, and what runs where there is no GPU.

Paper: arXiv 2510.02295, section 3 (equations 1 to 8); definitions in the docstrings. Shape suffixes:
    B samples, C queries of a chunk, L tokens, J blocks, H key/value heads, G query heads of one of them, D head size
Queries are handled in chunks against the keys up to the chunk's end: memory is O(chunk x L), and no future key is read.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from videonsa.kernels.empty import empty_output
from videonsa.kernels.plan import sequence_ends
from videonsa.names import BRANCHES

CHUNK_ELEMENTS = 1 << 26  # scores held at once: 256 MiB in float32; a few such tensors live at a time


def nsa_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gates: Tensor,
    *,
    block_size: int,
    block_count: int,
    window: int,
    branches: Sequence[str],
    cu_seqlens: Tensor | None,
    scale: float,
) -> Tensor:
    """`nsa_attention` without its argument checks; computes in float32, or in float64 for float64 inputs."""
    ends = None if cu_seqlens is None else sequence_ends(cu_seqlens, query.shape[1])
    if query.numel() == 0:
        return empty_output(query, key, value, gates)
    if ends is not None:
        pieces = [
            nsa_reference(
                query[:, start:end],
                key[:, start:end],
                value[:, start:end],
                gates[:, start:end],
                block_size=block_size,
                block_count=block_count,
                window=window,
                branches=branches,
                cu_seqlens=None,
                scale=scale,
            )
            for start, end in itertools.pairwise(ends)
            if end > start
        ]
        return torch.cat(pieces, dim=1)
    dtype = torch.promote_types(query.dtype, torch.float32)
    earlier = key.shape[1] - query.shape[1]  # tokens that are keys alone
    value_BHLD = value.to(dtype).transpose(1, 2)
    value_BHJD = mean_blocks(value_BHLD, block_size)
    gates_BHGL3 = gates.to(dtype).unflatten(2, (key.shape[2], -1)).permute(0, 2, 3, 1, 4)
    chunks = []
    for start, probabilities in attention_probabilities(
        query,
        key,
        block_size=block_size,
        block_count=block_count,
        window=window,
        branches=branches,
        scale=scale,
    ):
        last = start + next(iter(probabilities.values())).shape[3]
        gate = {name: gates_BHGL3[:, :, :, start:last, i, None] for i, name in enumerate(BRANCHES)}
        end = earlier + last
        output = torch.zeros((), dtype=dtype, device=query.device)
        if "cmp" in probabilities:
            output = output + weigh(gate["cmp"] * probabilities["cmp"], value_BHJD[:, :, : end // block_size])
        tokenwise = [gate[name] * probabilities[name] for name in ("slc", "swa") if name in probabilities]
        if tokenwise:  # both sum over tokens, so their gated probabilities are added before they meet the values
            output = output + weigh(sum(tokenwise[1:], tokenwise[0]), value_BHLD[:, :, :end])
        chunks.append(output)
    return torch.cat(chunks, dim=3).permute(0, 3, 1, 2, 4).flatten(2, 3).to(query.dtype)


def attention_probabilities(
    query: Tensor,
    key: Tensor,
    *,
    block_size: int,
    block_count: int,
    window: int,
    branches: Sequence[str],
    scale: float,
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Yield (start, {branch: probabilities}) for consecutive chunks of queries.

    query [B, L, H*G, D], or that of the last tokens alone; key [B, L, H, D]. Probabilities are [B, H, G, C, keys]: over
    the blocks that are complete at the chunk's end for cmp, over the tokens up to the chunk's end for slc and swa.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    length, heads = key.shape[1], key.shape[2]
    earlier = length - query.shape[1]
    query_BHGLD = query.to(dtype).unflatten(2, (heads, -1)).permute(0, 2, 3, 1, 4)
    key_BHLD = key.to(dtype).transpose(1, 2)
    key_BHJD = mean_blocks(key_BHLD, block_size)
    size = max(1, CHUNK_ELEMENTS // max(1, query.shape[0] * query.shape[2] * length))
    for start in range(0, query.shape[1], size):
        query_BHGCD = query_BHGLD[:, :, :, start : start + size] * scale
        end = earlier + start + query_BHGCD.shape[3]
        position_C1 = torch.arange(earlier + start, end, device=query.device)[:, None]
        token_L = torch.arange(end, device=query.device)
        result = {}
        if "cmp" in branches or "slc" in branches:
            visible_CJ = block_ends(end // block_size, block_size, query.device) <= position_C1
            compressed_BHGCJ = masked_softmax(score(query_BHGCD, key_BHJD[:, :, : end // block_size]), visible_CJ)
        if "cmp" in branches:
            result["cmp"] = compressed_BHGCJ
        if "slc" in branches or "swa" in branches:
            score_BHGCL = score(query_BHGCD, key_BHLD[:, :, :end])
            causal_CL = token_L <= position_C1
        if "slc" in branches:
            importance_BHCJ = compressed_BHGCJ.detach().sum(dim=2)
            chosen_BHCJ = choose_blocks(importance_BHCJ, position_C1, block_size, block_count)
            chosen_BHCL = chosen_BHCJ.repeat_interleave(block_size, dim=-1)[..., :end]
            result["slc"] = masked_softmax(score_BHGCL, (chosen_BHCL & causal_CL)[:, :, None])
        if "swa" in branches:
            result["swa"] = masked_softmax(score_BHGCL, causal_CL & (token_L > position_C1 - window))
        yield start, result


def choose_blocks(importance_BHCJ: Tensor, position_C1: Tensor, block_size: int, block_count: int) -> Tensor:
    """The blocks that each query attends to in the selection branch, True in [B, H, C, ceil(end / block_size)].

    The block that holds the query is always chosen and is one of the block_count; the others are the most important of
    the blocks that end before the query. Of equally important blocks the earlier one is taken.
    """
    own_C1 = position_C1 // block_size
    blocks = int(own_C1.max()) + 1
    candidate_BHCJ = torch.nn.functional.pad(importance_BHCJ, (0, blocks - importance_BHCJ.shape[-1]))
    block_J = torch.arange(blocks, device=importance_BHCJ.device)
    candidate_BHCJ = candidate_BHCJ.masked_fill(block_J > own_C1, -torch.inf).masked_fill(block_J == own_C1, torch.inf)
    rank_BHCJ = candidate_BHCJ.argsort(dim=-1, descending=True, stable=True)[..., :block_count]
    chosen_BHCJ = torch.zeros_like(candidate_BHCJ, dtype=torch.bool).scatter(-1, rank_BHCJ, True)
    return chosen_BHCJ & (block_J <= own_C1)


def mean_blocks(tokens_BHLD: Tensor, block_size: int) -> Tensor:
    """Mean of each complete block, [B, H, L // block_size, D]: the compressed keys or values (equation 3)."""
    blocks = tokens_BHLD.shape[2] // block_size
    return tokens_BHLD[:, :, : blocks * block_size].unflatten(2, (blocks, block_size)).mean(dim=3)


def block_ends(blocks: int, block_size: int, device: torch.device) -> Tensor:
    """Position of each block's last token, [J]: a query sees a compressed block from there on."""
    return torch.arange(1, blocks + 1, device=device) * block_size - 1


def score(query_BHGCD: Tensor, key_BHKD: Tensor) -> Tensor:
    """Dot products [B, H, G, C, K]; the heads of a group share their key without a copy of it."""
    flat = query_BHGCD.flatten(2, 3) @ key_BHKD.transpose(-1, -2)
    return flat.unflatten(2, query_BHGCD.shape[2:4])


def weigh(probability_BHGCK: Tensor, value_BHKD: Tensor) -> Tensor:
    """Probability-weighted sums of the values, [B, H, G, C, D]. What weighs 0 adds nothing, be it NaN."""
    flat_BHRK = probability_BHGCK.flatten(2, 3)
    broken_BHK1 = ~value_BHKD.isfinite().all(dim=-1, keepdim=True)
    if bool(broken_BHK1.any()):
        reached_BHR1 = (flat_BHRK != 0).to(flat_BHRK.dtype) @ broken_BHK1.to(flat_BHRK.dtype) > 0
        flat = (flat_BHRK @ value_BHKD.masked_fill(broken_BHK1, 0)).masked_fill(reached_BHR1, torch.nan)
    else:
        flat = flat_BHRK @ value_BHKD
    return flat.unflatten(2, probability_BHGCK.shape[2:4])


def masked_softmax(score_BHGCK: Tensor, visible: Tensor) -> Tensor:
    """Softmax over the visible keys (mask broadcast to the scores); a query that sees none gets zeros, with no NaN."""
    sees_any = visible.any(dim=-1, keepdim=True)
    probability = score_BHGCK.where(visible | ~sees_any, -torch.inf).softmax(dim=-1)
    return probability if bool(sees_any.all()) else probability.where(sees_any, 0.0)
