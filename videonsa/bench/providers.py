"""What can be timed: our kernels, whole and by stage, the reference, and torch's dense attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from videonsa.bench.case import Case, Inputs
from videonsa.kernels import nsa_attention
from videonsa.names import BRANCHES

PROVIDERS = ("triton", "reference", "sdpa_cudnn", "sdpa_flash")
STAGES = ("all", "cmp", "topk", "slc", "swa", "combine")
_DENSE = {"sdpa_cudnn": SDPBackend.CUDNN_ATTENTION, "sdpa_flash": SDPBackend.FLASH_ATTENTION}


def is_dense(provider: str) -> bool:
    return provider in _DENSE


def attention(provider: str, case: Case) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The whole operation: (query, key, value, gates) -> output; dense providers ignore the gates."""
    if provider in _DENSE:
        return partial(_dense, _DENSE[provider], case.scale)
    return partial(
        nsa_attention,
        block_size=case.block_size,
        block_count=case.block_count,
        window=case.window,
        scale=case.scale,
        backend=provider,
    )


def _dense(backend: SDPBackend, scale: float, query: Tensor, key: Tensor, value: Tensor, gates: Tensor) -> Tensor:
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    with sdpa_kernel(backend):
        out = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=True)
    return out.transpose(1, 2)


@contextmanager
def stages(inputs: Inputs, case: Case) -> Iterator[dict[tuple[str, str], Callable[[], object]]]:
    """{(stage, mode): a call of that stage alone} of the Triton provider, on the results of one real pass."""
    from videonsa.kernels import combine, compress, prefix, rowstats, select, selected, tiling, triton_backend, window
    from videonsa.kernels.plan import make_plan

    query, key, value, gates, grad = (tensor.detach().flatten(0, 1) for tensor in inputs)
    plan = make_plan(inputs.query, None, case.block_size)
    settings = triton_backend.Settings(plan, case.block_count, case.window, BRANCHES, case.scale)
    outputs, lses, index = triton_backend.attend(query, key, value, settings)
    assert index is not None
    shares = combine.shares(outputs, grad)
    grad_query = torch.zeros_like(query)
    token_key, token_value = (torch.zeros(key.shape, device=key.device) for _ in range(2))
    chunks = triton_backend.chunks(query, key, settings, tiling.FORWARD_CHUNK)
    key_high, key_low, value_mean = compress.mean_blocks(key, value, plan)

    def statistics(name: str) -> Tensor:
        branch = BRANCHES.index(name)
        by_query = name == "slc"
        position = plan.token() if by_query else plan.position()
        return rowstats.pack(lses[name], gates[:, :, branch], shares[:, :, branch], position, by_query=by_query)

    def compress_forward() -> object:
        high, _, mean = compress.mean_blocks(key, value, plan)
        return compress.forward(query, high, mean, plan, case.scale, True)

    def choose() -> None:
        for chunk in chunks:
            importance, peaks = select.importances(
                query, key_high, key_low, lses["cmp"], plan, chunk, case.scale, case.block_count
            )
            select.choose(importance, peaks, index, plan, chunk)

    def select_forward() -> None:
        prefix.forward(query, key, value, plan, settings.chooses_from, case.scale, out=outputs["slc"], lse=lses["slc"])
        for chunk in chunks:
            selected.forward_chunk(
                query, key, value, index, plan, chunk, case.scale, out=outputs["slc"], lse=lses["slc"]
            )

    def select_backward() -> None:
        row_statistics = statistics("slc")
        prefix.backward(
            query, key, value, grad, row_statistics, plan, settings.chooses_from, case.scale,
            grad_query=grad_query, grad_key=token_key, grad_value=token_value, add=True,
        )  # fmt: skip
        for chunk in triton_backend.chunks(query, key, settings, tiling.backward_chunk(len(query))):
            selected.backward_chunk(
                query, key, value, grad, row_statistics, index, plan, chunk, case.scale,
                grad_query=grad_query, grad_key=token_key, grad_value=token_value, add=True,
            )  # fmt: skip

    def combine_backward() -> None:
        combine.shares(outputs, grad)
        combine.spread(token_key, None, key, plan)
        combine.spread(token_value, None, value, plan)

    yield {
        ("cmp", "fwd"): compress_forward,
        ("topk", "fwd"): choose,
        ("slc", "fwd"): select_forward,
        ("swa", "fwd"): lambda: window.forward(query, key, value, plan, case.scale, case.window),
        ("combine", "fwd"): lambda: combine.combine(outputs, gates),
        ("cmp", "bwd"): lambda: compress.backward(
            query, key_high, value_mean, grad, statistics("cmp"), plan, case.scale,
            grad_query=grad_query, add=False,
        ),
        ("slc", "bwd"): select_backward,
        ("swa", "bwd"): lambda: window.backward(
            query, key, value, grad, statistics("swa"), plan, case.scale, case.window,
            grad_query=grad_query, add=True,
        ),
        ("combine", "bwd"): combine_backward,
    }  # fmt: skip
