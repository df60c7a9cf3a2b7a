"""The correctness gate: a provider's output and gradients against float32 torch, at a sample of query positions.

The gradient fed back is zero except at the sampled queries, so the keys' and values' gradients are exact sums over the
sample, and a shape of any length is checked in little time. Both sides choose blocks from the same inputs. Queries of
the sample whose last chosen block is as good as tied with the first one left out are not checked (`without_ties`), so
the two sides differ by rounding alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from videonsa.bench.case import Case, Inputs
from videonsa.kernels.reference import block_ends, choose_blocks, masked_softmax, mean_blocks, score, weigh

SAMPLES = 48
TIE = 1e-5  # relative; float32 importances of one block differ by some 1e-6 between two ways to compute them
TOLERANCE = {"bfloat16": 1e-2, "float16": 3e-3, "float32": 1e-5}  # relative, in norm
NAMES = ("output", "query", "key", "value", "gates")


class CheckFailed(RuntimeError):
    """A provider's numbers are off on this shape; the message says which and by how much."""


def check(name: str, attention: Callable[..., Tensor], inputs: Inputs, case: Case, *, dense: bool) -> dict[str, float]:
    """Relative errors of `attention(query, key, value, gates)`; raises CheckFailed where one exceeds the tolerance."""
    position = sample(case, inputs.query.device)
    if not dense:
        sampled, position = len(position), without_ties(position, inputs, case)
        if 2 * len(position) < sampled:
            raise CheckFailed(
                f"{name} at {case}: of {sampled} queries only {len(position)} have no ties, too few to check"
            )
    found = _with_gradients(lambda *tensors: attention(*tensors)[:, position], inputs, position)
    exact: Callable[..., Tensor] = dense_rows if dense else nsa_rows
    wanted = _with_gradients(
        lambda *tensors: exact(*(tensor.float() for tensor in tensors), position, case), inputs, position
    )
    errors = {}
    for label, ours, reference in zip(NAMES, found, wanted, strict=True):
        if dense and label == "gates":
            continue
        norm = reference.norm().clamp_min(1e-20)
        errors[label] = float((ours.float() - reference).norm() / norm)
    wrong = {label: error for label, error in errors.items() if not error <= TOLERANCE[case.dtype]}
    if wrong:
        raise CheckFailed(f"{name} at {case}: relative errors {wrong} exceed {TOLERANCE[case.dtype]}")
    return errors


def sample(case: Case, device: torch.device) -> Tensor:
    """Positions of the checked queries: the ends, block borders, and others drawn."""
    fixed = [0, case.block_size - 1, case.block_size, case.length - 1]
    drawn = torch.randint(0, case.length, (SAMPLES,), generator=torch.Generator().manual_seed(case.length))
    return torch.cat([torch.tensor(fixed).clamp(0, case.length - 1), drawn]).unique().to(device)


def without_ties(position: Tensor, inputs: Inputs, case: Case) -> Tensor:
    """The positions at which the choice of blocks does not hang on rounding, for every key/value head."""
    rows, key, _ = _rows(inputs.query.detach().float(), inputs.key.detach().float(), inputs.value, position, case)
    importance, _ = _importance(rows, key, position, case)
    is_rival = torch.arange(importance.shape[-1], device=position.device) < (position // case.block_size)[:, None]
    others = case.block_count - 1  # besides the query's own block
    best = importance.masked_fill(~is_rival, 0.0).topk(min(others + 1, importance.shape[-1])).values
    if not 0 < others < best.shape[-1]:
        return position
    last, next_ = best[..., others - 1], best[..., others]
    tied = (next_ > 0) & (last - next_ <= TIE * last)
    return position[~tied.flatten(0, 1).any(0)]


def _with_gradients(compute: Callable[..., Tensor], inputs: Inputs, position: Tensor) -> list[Tensor]:
    tensors = [tensor.detach().requires_grad_() for tensor in inputs[:4]]
    rows = compute(*tensors)
    gradients = torch.autograd.grad(rows, tensors, inputs.grad[:, position].to(rows.dtype), allow_unused=True)
    filled = [
        torch.zeros_like(tensor) if gradient is None else gradient
        for tensor, gradient in zip(tensors, gradients, strict=True)
    ]
    return [rows.detach(), filled[0][:, position], filled[1], filled[2], filled[3][:, position]]


def _rows(query: Tensor, key: Tensor, value: Tensor, position: Tensor, case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled queries [B, H, G, C, D] at the positions, and keys and values [B, H, L, D]."""
    rows = query[:, position].unflatten(2, (case.kv_heads, -1)).permute(0, 2, 3, 1, 4) * case.scale
    return rows, key.transpose(1, 2), value.transpose(1, 2)


def _importance(rows: Tensor, key: Tensor, position: Tensor, case: Case) -> tuple[Tensor, Tensor]:
    """Importances [B, H, C, blocks up to the last position's] and compressed attention [B, H, G, C, blocks]."""
    visible = block_ends(case.length // case.block_size, case.block_size, key.device) <= position[:, None]
    compressed = masked_softmax(score(rows, mean_blocks(key, case.block_size)), visible)
    return compressed.detach().sum(2)[..., : int(position.max()) // case.block_size + 1], compressed


def nsa_rows(query: Tensor, key: Tensor, value: Tensor, gates: Tensor, position: Tensor, case: Case) -> Tensor:
    """The method at some positions, [1, C, Hq, D]; inputs as in `nsa_attention`, float32."""
    rows, key, value = _rows(query, key, value, position, case)
    at = position[:, None]
    token = torch.arange(case.length, device=query.device)
    importance, compressed = _importance(rows, key, position, case)
    chosen = choose_blocks(importance, at, case.block_size, case.block_count)
    chosen = chosen.repeat_interleave(case.block_size, -1)
    chosen = torch.nn.functional.pad(chosen, (0, max(0, case.length - chosen.shape[-1])))[..., : case.length]
    scores = score(rows, key)
    gate = gates[:, position].unflatten(2, (case.kv_heads, -1)).permute(0, 2, 3, 1, 4)
    selected = masked_softmax(scores, (chosen & (token <= at))[:, :, None])
    window = masked_softmax(scores, (token <= at) & (token > at - case.window))
    out = weigh(gate[..., 0:1] * compressed, mean_blocks(value, case.block_size))
    out = out + weigh(gate[..., 1:2] * selected + gate[..., 2:3] * window, value)
    return out.permute(0, 3, 1, 2, 4).flatten(2, 3)


def dense_rows(query: Tensor, key: Tensor, value: Tensor, gates: Tensor, position: Tensor, case: Case) -> Tensor:
    """Dense causal attention at some positions, [1, C, Hq, D]."""
    rows, key, value = _rows(query, key, value, position, case)
    token = torch.arange(case.length, device=query.device)
    out = weigh(masked_softmax(score(rows, key), token <= position[:, None]), value)
    return out.permute(0, 3, 1, 2, 4).flatten(2, 3)
