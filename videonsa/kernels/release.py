"""What the public release computes instead of the paper's method, in plain torch, each difference on its own switch.

`mixed_attention` is one decoder layer's attention, text and vision together. With no difference it is the
paper's method: dense causal attention for text, `nsa_attention` among the vision tokens. With all of them it is what
the released checkpoint was trained and evaluated with. docs/semantics.md gives each difference's evidence and effect.

Shape suffixes:
    B samples with text and vision at the same places, L tokens, N tokens of the branches' sequence (L, or the vision
    tokens), C queries of a chunk, J blocks, Q query heads, S head slots, H key/value heads, G slots of a key/value head
    (S = H*G), D head size, K keys
Queries go in chunks, and several chunks are computed anew in the backward pass, so memory is O(chunk x L).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from functools import cache, partial, reduce

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from videonsa.kernels.bitonic import network_topk
from videonsa.kernels.empty import empty_output
from videonsa.kernels.reference import score
from videonsa.kernels.tiling import MOST_ELEMENTS, serves
from videonsa.limits import next_power_of_two, refusal
from videonsa.names import BRANCHES, DIFFERENCES

log = logging.getLogger(__name__)

CHUNK_ELEMENTS = 1 << 26  # scores held at once: 256 MiB in float32; a few such tensors live at a time


@dataclass(frozen=True)
class Sizes:
    """The sizes of NSA and the differences in force."""

    block_size: int  # tokens
    block_count: int  # blocks, the query's own included
    window: int  # tokens, the query's own included
    scale: float  # of the dot products
    differences: Set[str]  # of DIFFERENCES
    rounding: torch.dtype  # of what the release stores on its way to the choice: block means of keys, scaled queries

    def has(self, name: str) -> bool:
        """Whether this difference is in force."""
        return name in self.differences


def vision_by_position(position_ids: Tensor) -> Tensor:
    """modality_by_position: [3, B, L] M-RoPE positions -> bool [B, L], vision where the three are not all equal."""
    time, height, width = position_ids
    return (time != height) | (height != width)


def check(
    differences: Set[str],
    block_size: int,
    block_count: int,
    window: int,
    branches: tuple[str, ...] = BRANCHES,
    backend: str = "reference",
) -> None:
    """Raise ValueError for an unknown difference and for sizes that the release's kernel has no answer for."""
    unknown = sorted(set(differences) - set(DIFFERENCES))
    if unknown:
        raise ValueError(f"difference {unknown[0]!r} is not known: choose among {', '.join(DIFFERENCES)}")
    refused = refusal(
        block_size=block_size,
        block_count=block_count,
        window=window,
        branches=branches,
        differences=differences,
        backend=backend,
    )
    if refused is not None:
        raise ValueError(str(refused))


def _on_triton(backend: str, query: Tensor, key: Tensor, value: Tensor, gates: Tensor, sizes: Sizes) -> bool:
    """Whether the Triton kernels compute this call."""
    half = query.is_cuda and query.dtype in (torch.float16, torch.bfloat16)
    if backend == "reference" or (backend == "auto" and not (half and serves(query.shape[-1], sizes.block_size))):
        return False
    reason = _unserved(query, sizes)
    if reason is not None:
        _say_once(reason)
    return reason is None


def _unserved(query: Tensor, sizes: Sizes) -> str | None:
    """What about a call the Triton kernels do not serve, or None."""
    size, dtype = query.shape[-1], query.dtype
    if not serves(size, sizes.block_size):
        return f"heads of {size} with blocks of {sizes.block_size} are not served"
    if dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return f"{dtype} is not served"
    if query.is_cuda and dtype == torch.float32 and size == sizes.block_size == 128:
        return "float32 with heads and blocks of 128 is not served"
    if dtype != torch.float32 and sizes.rounding != dtype:
        return f"{dtype} with a choice rounded to {sizes.rounding} is not served"
    if not sizes.scale > 0:
        return f"scale={sizes.scale} is not served"
    blocks = -(-query.shape[1] // sizes.block_size)
    if next_power_of_two(min(sizes.block_count, blocks)) * size > MOST_ELEMENTS:
        return f"block_count={sizes.block_count} is not served"
    return None


@cache
def _say_once(reason: str) -> None:
    log.warning("release semantics run in plain torch and not on Triton kernels: %s", reason)


def mixed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gates: Tensor,
    is_vision: Tensor,
    *,
    block_size: int,
    block_count: int,
    window: int,
    branches: tuple[str, ...] = BRANCHES,
    differences: Set[str] = frozenset(DIFFERENCES),
    scale: float | None = None,
    rounding: torch.dtype | None = None,
    backend: str = "auto",
) -> Tensor:
    """Attention of each sample's text and vision tokens to themselves.

    query [B, L, Q, D], key and value [B, L, H, D] with position encoding applied, gates [B, L, Q, 3] for cmp, slc, swa,
    is_vision bool [L], rounding: query's dtype when None. Returns [B, L, Q, D] in query's dtype; arithmetic is float32
    (float64 for float64). Raises ValueError as `check` does.

    backend: reference (this file, any device and type); triton (release_triton.py, on CUDA; what it does not serve
    falls to the reference, and the log says so once); auto: triton on CUDA in half precision for the head and block
    sizes that it serves.
    """
    check(differences, block_size, block_count, window, branches, backend)
    if query.numel() == 0:
        return empty_output(query, key, value, gates)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    sizes = Sizes(block_size, block_count, window, scale, differences, rounding or query.dtype)
    if _on_triton(backend, query, key, value, gates, sizes):
        from videonsa.kernels.release_triton import mixed_attention_triton  # triton is not installed everywhere

        return mixed_attention_triton(query, key, value, gates, is_vision, branches, sizes)
    output = dense_part(query, key, value, is_vision, sizes)
    if not is_vision.any():
        return output.to(query.dtype)
    rows = (
        torch.arange(len(is_vision), device=query.device) if sizes.has("vision_packing") else is_vision.nonzero()[:, 0]
    )
    query_N, key_N, value_N = (vision_rows(tensor, is_vision, sizes) for tensor in (query, key, value))
    gates_N = gates[:, rows].to(output.dtype)
    if sizes.has("vision_packing"):
        gates_N = torch.where(is_vision[:, None, None], gates_N, 0.5 if sizes.has("gate_leak") else 0.0)
    for name, branch in sparse_branches(query_N, key_N, value_N, branches, sizes).items():
        output = output.index_add(1, rows, gates_N[..., BRANCHES.index(name), None] * branch)
    return output.to(query.dtype)


def vision_rows(tensor: Tensor, is_vision: Tensor, sizes: Sizes) -> Tensor:
    """The branches' sequence: vision tokens packed; under vision_packing all tokens with text set to zero."""
    if sizes.has("vision_packing"):
        return tensor * is_vision[:, None, None]
    return tensor[:, is_vision]


def dense_part(query: Tensor, key: Tensor, value: Tensor, is_vision: Tensor, sizes: Sizes) -> Tensor:
    """Causal attention of the text queries to every token, [B, L, Q, D]; zero at vision tokens.

    gate_leak: vision tokens pass through the dense path with a zero query, which weighs all earlier values alike.
    dense_decode: a call of vision tokens only skips the dense path.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    heads = key.shape[2]
    key_BHLD, value_BHLD = (tensor.to(dtype).transpose(1, 2) for tensor in (key, value))
    output_BLQD = torch.zeros(query.shape, dtype=dtype, device=query.device)
    if sizes.has("gate_leak") and not (sizes.has("dense_decode") and bool(is_vision.all())):
        count_L11 = torch.arange(1, query.shape[1] + 1, device=query.device)[:, None, None]
        mean_BLHD = value.to(dtype).cumsum(dim=1) / count_L11
        mean_BLQD = mean_BLHD.repeat_interleave(query.shape[2] // heads, dim=2)
        output_BLQD = torch.where(is_vision[:, None, None], mean_BLQD, output_BLQD)
    text = (~is_vision).nonzero()[:, 0]
    for part in chunks(len(text), query.shape[0] * query.shape[2] * query.shape[1]):
        rows = text[part]
        end = int(rows[-1]) + 1
        query_BHGCD = query[:, rows].to(dtype).unflatten(2, (heads, -1)).permute(0, 2, 3, 1, 4)
        visible_CK = torch.arange(end, device=query.device) <= rows[:, None]
        attended = attend(query_BHGCD * sizes.scale, key_BHLD[:, :, :end], value_BHLD[:, :, :end], visible_CK)
        output_BLQD = output_BLQD.index_copy(1, rows, attended.permute(0, 3, 1, 2, 4).flatten(2, 3))
    return output_BLQD


def sparse_branches(
    query: Tensor, key: Tensor, value: Tensor, branches: tuple[str, ...], sizes: Sizes
) -> dict[str, Tensor]:
    """Output of each branch before its gate, {name: [B, N, Q, D]}, of N tokens to themselves."""
    inputs = prepare(query, key, value, sizes)
    outputs: dict[str, list[Tensor]] = {name: [] for name in branches}
    for part in inputs.chunks():
        anew = torch.is_grad_enabled() and part.stop - part.start < query.shape[1]  # else all is kept for the gradient
        for name in branches:
            chosen_BHCb = choose(inputs, part, sizes) if name == "slc" else None
            compute = partial(BRANCH[name], inputs, part, sizes, chosen_BHCb)
            slots_BCSD = checkpoint(compute, use_reentrant=False, preserve_rng_state=False) if anew else compute()
            outputs[name].append(from_slots(slots_BCSD, query.shape[2], sizes))
    return {name: torch.cat(chunk, dim=1) for name, chunk in outputs.items()}


def block_choices(query: Tensor, key: Tensor, sizes: Sizes) -> Tensor:
    """The blocks that each query attends to in the selection branch, [B, N, H, b], best first; -1 is none."""
    inputs = prepare(query, key, key, sizes)
    return torch.cat([choose(inputs, part, sizes).transpose(1, 2) for part in inputs.chunks()], dim=1)


@dataclass(frozen=True)
class Inputs:
    """What the branches share: queries laid into slots, keys and values by head, whole and as means of blocks."""

    query_BHGND: Tensor  # not scaled
    ranking_BHGND: Tensor  # scaled and rounded, as the release's ranking kernel holds it
    key_BHND: Tensor
    value_BHND: Tensor
    key_BHJD: Tensor
    value_BHJD: Tensor
    lse_BNS: Tensor  # what the ranking takes for the log-sum-exp of token n and slot s

    def chunks(self) -> Iterator[slice]:
        """Slices of the N queries, each small enough for its scores against all keys."""
        batch, heads, group, length, _ = self.query_BHGND.shape
        return chunks(length, batch * heads * group * length)


def prepare(query: Tensor, key: Tensor, value: Tensor, sizes: Sizes) -> Inputs:
    """Slots, block means and log-sum-exps of sequences: query [B, N, Q, D], key and value [B, N, H, D]."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    slots_BNSD = to_slots(query, key.shape[2], sizes).to(dtype)
    key_BHND, value_BHND = (tensor.to(dtype).transpose(1, 2) for tensor in (key, value))
    key_BHJD = block_means(key_BHND, sizes.block_size).to(sizes.rounding).to(dtype)
    value_BHJD = block_means(value_BHND, sizes.block_size)
    query_BHGND = slots_BNSD.unflatten(2, (key.shape[2], -1)).permute(0, 2, 3, 1, 4)
    lse_BSN = log_sum_exps(query_BHGND, key_BHJD, sizes)
    # importance_lse: an array laid out [slot, token] is read as if laid out [token, slot].
    lse_BNS = lse_BSN.transpose(1, 2)
    if sizes.has("importance_lse"):
        lse_BNS = lse_BSN.reshape(lse_BNS.shape)
    ranking_BHGND = (query_BHGND * sizes.scale).to(sizes.rounding).to(dtype)
    return Inputs(query_BHGND, ranking_BHGND, key_BHND, value_BHND, key_BHJD, value_BHJD, lse_BNS)


def to_slots(query: Tensor, kv_heads: int, sizes: Sizes) -> Tensor:
    """head_layout: the heads twice, then empty slots up to a power of two for each key/value head; [B, N, S, D].

    28 heads of 4 key/value heads: slots 0..27 and 28..55, 56..63 empty, 16 slots a key/value head.
    """
    if not sizes.has("head_layout"):
        return query
    heads = query.shape[2]
    slots = kv_heads * next_power_of_two(-(-2 * heads // kv_heads))
    empty = query.new_zeros(*query.shape[:2], slots - 2 * heads, query.shape[3])
    return torch.cat([query, query, empty], dim=2)


def slots_of(heads: int, kv_heads: int, sizes: Sizes) -> list[list[int]]:
    """Of each query head the key/value heads that its slots are paired with: one, or under head_layout two."""
    if not sizes.has("head_layout"):
        return [[head * kv_heads // heads] for head in range(heads)]
    group = next_power_of_two(-(-2 * heads // kv_heads))
    return [[head // group, (heads + head) // group] for head in range(heads)]


def from_slots(output_BCSD: Tensor, heads: int, sizes: Sizes) -> Tensor:
    """The heads' outputs, [B, C, Q, D]: under head_layout the mean of a head's two slots."""
    if not sizes.has("head_layout"):
        return output_BCSD
    return (output_BCSD[:, :, :heads] + output_BCSD[:, :, heads : 2 * heads]) / 2


def block_means(tokens_BHND: Tensor, block_size: int) -> Tensor:
    """Mean of each block, a partial last one averaging what it has, [B, H, J, D]."""
    length = tokens_BHND.shape[2]
    blocks = -(-length // block_size)
    padded = torch.nn.functional.pad(tokens_BHND, (0, 0, 0, blocks * block_size - length))
    filled_J1 = (length - torch.arange(blocks, device=padded.device) * block_size).clamp(max=block_size)[:, None]
    return padded.unflatten(2, (blocks, block_size)).sum(dim=3) / filled_J1


def visible_blocks(position_C1: Tensor, blocks: int, sizes: Sizes) -> Tensor:
    """Which block means a query sees, bool [C, J]: of blocks ended by it; cmp_mask: of its own and all later ones."""
    end_J = torch.arange(1, blocks + 1, device=position_C1.device) * sizes.block_size - 1
    return position_C1 <= end_J if sizes.has("cmp_mask") else end_J <= position_C1


@torch.no_grad()
def log_sum_exps(query_BHGND: Tensor, key_BHJD: Tensor, sizes: Sizes) -> Tensor:
    """Log-sum-exp of each slot's compression scores, [B, S, N]; 0 for a query that sees no block."""
    batch, heads, group, length, _ = query_BHGND.shape
    parts = []
    for part in chunks(length, batch * heads * group * key_BHJD.shape[2]):
        visible_CJ = visible_blocks(positions(part, key_BHJD), key_BHJD.shape[2], sizes)
        score_BHGCJ = score(query_BHGND[:, :, :, part] * sizes.scale, key_BHJD).masked_fill(~visible_CJ, -torch.inf)
        lse_BSC = score_BHGCJ.logsumexp(dim=-1).flatten(1, 2)
        parts.append(lse_BSC.masked_fill(~visible_CJ.any(dim=-1), 0.0))
    return torch.cat(parts, dim=2)


@torch.no_grad()
def choose(inputs: Inputs, part: slice, sizes: Sizes) -> Tensor:
    """Blocks chosen by a chunk's queries for each key/value head, int64 [B, H, C, b], best first; -1 is none."""
    own_C1 = positions(part, inputs.key_BHJD) // sizes.block_size
    importance_BHCJ = importances(inputs, part, own_C1, sizes)
    if not sizes.has("importance_round_up"):
        candidate_BHCJ = importance_BHCJ.masked_fill(
            torch.arange(importance_BHCJ.shape[-1], device=own_C1.device) > own_C1, -torch.inf
        )
        rank_BHCb = candidate_BHCJ.argsort(dim=-1, descending=True, stable=True)[..., : sizes.block_count]
        return rank_BHCb.masked_fill(rank_BHCb > own_C1, -1)
    shape = importance_BHCJ.shape
    count = next_power_of_two(sizes.block_count)
    own_R = own_C1[:, 0].expand(shape[:3]).flatten()
    return network_topk(importance_BHCJ.flatten(0, 2), own_R, count, sizes.block_size).unflatten(0, shape[:3])


def importances(inputs: Inputs, part: slice, own_C1: Tensor, sizes: Sizes) -> Tensor:
    """What blocks are ranked by, [B, H, C, J]: exp(score - lse) summed over a key/value head's slots.

    The query's own block always wins; importance_own_block: it weighs 1 a slot, which others can exceed.
    """
    heads, group = inputs.query_BHGND.shape[1:3]
    lse_BHGC1 = inputs.lse_BNS[:, part].transpose(1, 2).unflatten(1, (heads, group))[..., None]
    weight_BHGCJ = (score(inputs.ranking_BHGND[:, :, :, part], inputs.key_BHJD) - lse_BHGC1).exp()
    # Added slot by slot: every column in the same order, so that columns with equal terms tie exactly.
    total_BHCJ = reduce(torch.add, weight_BHGCJ.unbind(dim=2))
    own_weight = float(group) if sizes.has("importance_own_block") else torch.inf
    is_own_CJ = torch.arange(total_BHCJ.shape[-1], device=own_C1.device) == own_C1
    return total_BHCJ.masked_fill(is_own_CJ, own_weight)


def compressed(inputs: Inputs, part: slice, sizes: Sizes, chosen_BHCb: Tensor | None) -> Tensor:
    """Compression branch of a chunk's slots, [B, C, S, D]."""
    visible_CJ = visible_blocks(positions(part, inputs.key_BHJD), inputs.key_BHJD.shape[2], sizes)
    query_BHGCD = inputs.query_BHGND[:, :, :, part] * sizes.scale
    return slots_last(attend(query_BHGCD, inputs.key_BHJD, inputs.value_BHJD, visible_CJ))


def selected(inputs: Inputs, part: slice, sizes: Sizes, chosen_BHCb: Tensor | None) -> Tensor:
    """Selection branch of a chunk's slots, [B, C, S, D]: the tokens up to the query of its chosen blocks."""
    assert chosen_BHCb is not None
    blocks = inputs.key_BHJD.shape[2]
    # Column J takes the -1s and is cut off again.
    column_BHCb = chosen_BHCb.masked_fill(chosen_BHCb < 0, blocks)
    is_chosen_BHCJ = torch.zeros(*chosen_BHCb.shape[:3], blocks + 1, dtype=torch.bool, device=chosen_BHCb.device)
    is_chosen_BHCJ = is_chosen_BHCJ.scatter(3, column_BHCb, True)[..., :blocks]
    chosen_BHCK = is_chosen_BHCJ.repeat_interleave(sizes.block_size, dim=-1)[..., : part.stop]
    causal_CK = torch.arange(part.stop, device=chosen_BHCb.device) <= positions(part, inputs.key_BHND)
    query_BHGCD = inputs.query_BHGND[:, :, :, part] * sizes.scale
    keys, values = inputs.key_BHND[:, :, : part.stop], inputs.value_BHND[:, :, : part.stop]
    return slots_last(attend(query_BHGCD, keys, values, (chosen_BHCK & causal_CK)[:, :, None]))


def windowed(inputs: Inputs, part: slice, sizes: Sizes, chosen_BHCb: Tensor | None) -> Tensor:
    """Sliding-window branch of a chunk's slots, [B, C, S, D]."""
    first = max(0, part.start - sizes.window + 1)
    position_C1 = positions(part, inputs.key_BHND)
    token_K = torch.arange(first, part.stop, device=position_C1.device)
    visible_CK = (token_K <= position_C1) & (token_K > position_C1 - sizes.window)
    query_BHGCD = inputs.query_BHGND[:, :, :, part] * sizes.scale
    keys, values = inputs.key_BHND[:, :, first : part.stop], inputs.value_BHND[:, :, first : part.stop]
    return slots_last(attend(query_BHGCD, keys, values, visible_CK))


BRANCH: dict[str, Callable[[Inputs, slice, Sizes, Tensor | None], Tensor]] = {
    "cmp": compressed,
    "slc": selected,
    "swa": windowed,
}


def attend(query_BHGCD: Tensor, key_BHKD: Tensor, value_BHKD: Tensor, visible: Tensor) -> Tensor:
    """Softmax attention of scaled queries over the visible keys, [B, H, G, C, D]; 0 for a query that sees none.

    visible is broadcast to [B, H, G, C, K]. torch's own attention, with the queries of a key/value head side by side.
    """
    group, queries = query_BHGCD.shape[2:4]
    sees_any = visible.any(dim=-1, keepdim=True)
    mask = (visible | ~sees_any).expand(*visible.shape[:-3], group, queries, -1).flatten(-3, -2)
    flat = scaled_dot_product_attention(query_BHGCD.flatten(2, 3), key_BHKD, value_BHKD, attn_mask=mask, scale=1.0)
    return flat.unflatten(2, (group, queries)).masked_fill(~sees_any, 0.0)


def chunks(length: int, elements_a_query: int) -> Iterator[slice]:
    """Slices that cover 0..length with at most CHUNK_ELEMENTS elements each."""
    size = max(1, CHUNK_ELEMENTS // max(1, elements_a_query))
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def positions(part: slice, like: Tensor) -> Tensor:
    """The places of a chunk's queries in the sequence, int64 [C, 1]."""
    return torch.arange(part.start, part.stop, device=like.device)[:, None]


def slots_last(output_BHGCD: Tensor) -> Tensor:
    """[B, H, G, C, D] -> [B, C, S, D]."""
    return output_BHGCD.permute(0, 3, 1, 2, 4).flatten(2, 3)
