"""Attention sinks: keys that take much attention and carry little (paper, figures 7 to 9).

Key k of a query head is a sink when alpha_k > 0.1 and |v_k| < median(|v|) - 2 IQR(|v|), over the keys of that head.
alpha_k is the mean attention probability that k gets from the queries that may see it. Shape suffixes as in
videonsa/kernels/reference.py; X is Hq, all query heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from evals.branches import GATED, attend, parts
from evals.observers.contract import SeenLayer
from videonsa.config import BRANCHES, NSASettings
from videonsa.kernels.reference import attention_probabilities, mean_blocks
from videonsa.kernels.tiling import serves
from videonsa.modeling import AttentionInputs

MUCH = 0.1  # of a query's attention
LITTLE = 2.0  # interquartile ranges below the median norm


@dataclass(frozen=True)
class Keys:
    """What the keys of one layer and branch take and carry; [Hq, K] each. For cmp keys are blocks, else tokens."""

    alpha: Tensor
    norm: Tensor  # of the value, for cmp of the block's mean value

    @property
    def sink(self) -> Tensor:
        """Bool [Hq, K]."""
        if self.norm.shape[1] == 0:
            return torch.zeros_like(self.norm, dtype=torch.bool)
        quarter, half, three = torch.quantile(self.norm, self.norm.new_tensor([0.25, 0.5, 0.75]), dim=1)
        limit = half - LITTLE * (three - quarter)
        return (self.alpha > MUCH) & (self.norm < limit[:, None])


def keys_of(layer: SeenLayer) -> dict[str, Keys]:
    """`branch_keys` of a layer that observers look at; for `SeenLayer.once`."""
    return branch_keys(layer.inputs, layer.nsa)


def branch_keys(inputs: AttentionInputs, nsa: NSASettings) -> dict[str, Keys]:
    """The keys of each branch, of the gated sum, and of dense causal attention over the same queries and keys.

    The gated sum gives token k, from query t, the sum over branches of gate times probability; a block's probability
    falls on its tokens in equal parts. Queries that may see a token: all from its own position on, and the window's
    for swa. Memory is O(chunk x N): no N x N matrix is formed.
    """
    sums = column_sums(inputs, nsa)
    value_XLD = inputs.value[0].float().transpose(0, 1)
    group = inputs.query.shape[2] // inputs.value.shape[2]
    length = value_XLD.shape[1]
    norm_XL = value_XLD.norm(dim=-1).repeat_interleave(group, dim=0)
    norm_XJ = mean_blocks(value_XLD[None], nsa.block_size)[0].norm(dim=-1).repeat_interleave(group, dim=0)
    later_L = length - torch.arange(length, device=norm_XL.device)
    seen = {"swa": later_L.clamp(max=nsa.window)}
    seen["cmp"] = later_L[nsa.block_size - 1 :: nsa.block_size]  # from each block's last token on
    return {
        name: Keys(sum_XK / seen.get(name, later_L), norm_XJ if name == "cmp" else norm_XL)
        for name, sum_XK in sums.items()
    }


def column_sums(inputs: AttentionInputs, nsa: NSASettings) -> dict[str, Tensor]:
    """Attention that each key gets, summed over the queries: {cmp: [Hq, J], slc, swa, gated, dense: [Hq, N]}.

    By the kernels where they serve, else from the probabilities of some queries at a time.
    """
    return sums_by_gradient(inputs, nsa) if kernels_serve(inputs, nsa) else sums_by_chunks(inputs, nsa)


def kernels_serve(inputs: AttentionInputs, nsa: NSASettings) -> bool:
    """Whether sums by gradient are fast and right here. float16 ends at 65,504: a sink of a long video gets more."""
    query, size = inputs.query, inputs.query.shape[-1]
    fits = 2 * query.shape[2] // inputs.value.shape[2] <= size and serves(size, nsa.block_size)
    return query.is_cuda and query.dtype == torch.bfloat16 and nsa.backend != "reference" and fits


def sums_by_gradient(inputs: AttentionInputs, nsa: NSASettings) -> dict[str, Tensor]:
    """`column_sums` as gradients of the outputs for the values: no probability is kept. Needs heads of two groups."""
    size, length = nsa.block_size, inputs.query.shape[1]
    sums: dict[str, Tensor] = {}
    gated = torch.zeros(inputs.query.shape[2], length, dtype=torch.float32, device=inputs.query.device)
    for part in parts(nsa):
        if part != GATED:
            sums[part], weighed = _gradients(inputs, nsa, part)
            gated += weighed
    if "cmp" in sums:  # a block's sum is that of its tokens, on which it falls in equal parts
        whole = length // size * size
        sums["cmp"] = sums["cmp"][:, :whole].unflatten(1, (-1, size)).sum(2)
    sums[GATED] = gated
    return {part: sums[part] for part in parts(nsa)}


@torch.inference_mode(False)
def _gradients(inputs: AttentionInputs, nsa: NSASettings, part: str) -> tuple[Tensor, Tensor]:
    """Sums over the queries of the probability that a key gets, and of gate times probability, [Hq, N] float32 each.

    The gradient for a value is the sum of the cotangents, weighed by their probabilities, over the queries and heads of
    a group; of whatever values. The i-th head of a group has cotangent 1 at place i, and its gate i places after the
    last of the group, so that all sums stand beside each other.
    """
    query, key, gates = (tensor.clone() for tensor in (inputs.query, inputs.key, inputs.gates))  # no inference tensors
    value = torch.zeros_like(key).requires_grad_()
    group = query.shape[2] // key.shape[2]
    head_X = torch.arange(query.shape[2], device=query.device)
    cotangent = torch.zeros_like(query)
    cotangent[:, :, head_X, head_X % group] = 1
    if part in BRANCHES:
        cotangent[:, :, head_X, group + head_X % group] = gates[..., BRANCHES.index(part)].to(query.dtype)
    with torch.enable_grad():
        output = attend(AttentionInputs(inputs.layer, query, key, value, gates, None), nsa, part)
    (found_1NHD,) = torch.autograd.grad(output, value, cotangent)
    sums_2HGN = found_1NHD[0, :, :, : 2 * group].float().unflatten(2, (2, group)).permute(2, 1, 3, 0)
    of_ones, of_gates = sums_2HGN.flatten(1, 2)
    return of_ones, of_gates


def sums_by_chunks(inputs: AttentionInputs, nsa: NSASettings) -> dict[str, Tensor]:
    """`column_sums` from the probabilities of some queries at a time."""
    query, key = inputs.query, inputs.key
    length, heads, size = query.shape[1], query.shape[2], nsa.block_size
    sums = {name: query.new_zeros(heads, length, dtype=torch.float32) for name in (*nsa.branches, "gated", "dense")}
    if "cmp" in sums:
        sums["cmp"] = sums["cmp"][:, : length // size].clone()
    common = {"block_size": size, "block_count": nsa.block_count, "scale": query.shape[-1] ** -0.5}
    for start, chunk in attention_probabilities(query, key, branches=nsa.branches, window=nsa.window, **common):
        for name, probability_BHGCK in chunk.items():
            probability_XCK = probability_BHGCK[0].flatten(0, 1).float()
            end = start + probability_XCK.shape[1]
            gate_XC1 = inputs.gates[0, start:end, :, BRANCHES.index(name)].T[..., None].float()
            _add(sums[name], probability_XCK.sum(dim=1))
            gated_XK = (gate_XC1 * probability_XCK).sum(dim=1)
            _add(sums["gated"], gated_XK.repeat_interleave(size, dim=1) / size if name == "cmp" else gated_XK)
    for _, chunk in attention_probabilities(query, key, branches=("swa",), window=length, **common):
        _add(sums["dense"], chunk["swa"][0].flatten(0, 1).float().sum(dim=1))
    return sums


def _add(sum_XK: Tensor, part_XK: Tensor) -> None:
    """Add to the first keys: a chunk of queries reaches no later ones."""
    sum_XK[:, : part_XK.shape[1]] += part_XK
