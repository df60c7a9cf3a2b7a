"""Public NSA kernels that the benchmark can time, where their packages are installed.

    flash_nsa   github.com/mdy666/Scalable-Flash-Native-Sparse-Attention; takes gates as logits
    fla_nsa     github.com/fla-org/flash-linear-attention; a group of query heads is padded to 16 (28/4 heads to 64/4);
                its choice always has the first block and the last two

Each chooses blocks by its own rule and rounding, so its output is not our method's. What is checked is its attention to
the blocks that our kernels choose (`given`), all branches, every gradient; what is timed chooses for itself.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from videonsa.bench.case import Case
from videonsa.names import BRANCHES

LEAST_GROUP = 16  # query heads of a key/value head that fla's kernels take
NEEDS = {"flash_nsa": ("flash_nsa", "flash_attn"), "fla_nsa": ("fla", "flash_attn")}  # packages to import


def refusal(provider: str) -> str | None:
    """Why a provider cannot run here, in one line; None where it can."""
    missing = [name for name in NEEDS.get(provider, ()) if importlib.util.find_spec(name) is None]
    return f"provider {provider} needs the package {' and '.join(missing)}, which is not installed" if missing else None


def attention(provider: str, case: Case, given: bool) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """(query, key, value, gates) -> output, of one sample. given: attend to the blocks that our kernels choose."""
    compute = {"flash_nsa": _flash_nsa, "fla_nsa": _fla_nsa}[provider]
    return lambda query, key, value, gates: compute(query, key, value, gates, case, given)


def chosen_blocks(query: Tensor, key: Tensor, value: Tensor, case: Case, none: int) -> Tensor:
    """The blocks that our kernels choose, int32 [L, Hkv, b] of one sample; `none` fills the rows of queries that see
    fewer."""
    from videonsa.kernels.plan import make_plan
    from videonsa.kernels.triton_backend import Settings, attend

    plan = make_plan(query, None, case.block_size)
    settings = Settings(plan, min(case.block_count, plan.most_blocks), case.window, BRANCHES, case.scale)
    rows, keys, values = (tensor.detach().flatten(0, 1).contiguous() for tensor in (query, key, value))
    index = attend(rows, keys, values, settings)[2]
    assert index is not None
    own = (torch.arange(case.length, device=query.device) // case.block_size)[:, None, None]
    rank = torch.arange(settings.block_count, device=query.device).expand_as(index)
    index = torch.where(own < settings.block_count, rank.where(rank <= own, none), index)
    return torch.nn.functional.pad(index, (0, case.block_count - settings.block_count), value=none).int()


def pad_groups(tensor: Tensor, kv_heads: int, group: int) -> Tensor:
    """[B, L, Hq, n] -> [B, L, kv_heads * group, n]: heads of zeros behind those of each key/value head."""
    grouped = tensor.unflatten(2, (kv_heads, -1))
    return torch.nn.functional.pad(grouped, (0, 0, 0, group - grouped.shape[3])).flatten(2, 3)


def first_of_groups(tensor: Tensor, kv_heads: int, heads: int) -> Tensor:
    """The inverse: [B, L, kv_heads * group, n] -> [B, L, heads, n]."""
    return tensor.unflatten(2, (kv_heads, -1))[:, :, :, : heads // kv_heads].flatten(2, 3)


def _fla_nsa(query: Tensor, key: Tensor, value: Tensor, gates: Tensor, case: Case, given: bool) -> Tensor:
    from fla.ops.nsa import parallel_nsa

    group = max(LEAST_GROUP, 1 << (case.heads // case.kv_heads - 1).bit_length())  # a power of two
    padded, padded_gates = (pad_groups(tensor, case.kv_heads, group) for tensor in (query, gates))
    out = parallel_nsa(
        padded, key, value, *(gate.contiguous() for gate in padded_gates.unbind(-1)),
        block_indices=chosen_blocks(query, key, value, case, -1)[None] if given else None,
        block_counts=case.block_count, block_size=case.block_size, window_size=case.window, scale=case.scale,
    )  # fmt: skip
    return first_of_groups(out, case.kv_heads, case.heads)


def _flash_nsa(query: Tensor, key: Tensor, value: Tensor, gates: Tensor, case: Case, given: bool) -> Tensor:
    import flash_nsa
    from flash_nsa.ops.combine import fused_sigmoid_combine

    helper = flash_nsa.NSAHelper
    helper.set_hyperparameters(
        kernel_size=case.block_size, stride=case.block_size, block_size=case.block_size,
        window_size=case.window - 1,  # theirs does not count the query
        top_n=case.block_count, num_init_blocks=0, num_local_blocks=1,
    )  # fmt: skip
    helper.init_cu_seqlens(torch.tensor([0, case.length], dtype=torch.int32, device=query.device))
    rows, keys, values = query[0], key[0], value[0]
    key_mean, value_mean = flash_nsa.mean_pooling(keys), flash_nsa.mean_pooling(values)
    compressed, lse = flash_nsa.compress_attn(rows, key_mean, value_mean, sm_scale=case.scale)
    if given:
        blocks = -(-case.length // case.block_size)
        chosen = chosen_blocks(query, key, value, case, blocks).transpose(0, 1).contiguous()
    else:
        chosen, _ = flash_nsa.slc_topk_indices(rows, key_mean, lse, sm_scale=case.scale)
    selected = flash_nsa.select_attn(rows, keys, values, chosen, sm_scale=case.scale)
    near = flash_nsa.swa_varlen_func(rows, keys, values, case.scale)
    logits = torch.logit(gates[0].float(), eps=1e-4).to(gates.dtype)
    return fused_sigmoid_combine(compressed, selected, near, logits)[None]
