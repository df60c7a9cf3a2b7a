"""What can be timed: our kernels, whole and by stage, the reference, torch's dense attention, and public kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from videonsa.bench import public
from videonsa.bench.case import Case, Inputs
from videonsa.kernels import nsa_attention
from videonsa.names import BRANCHES

PROVIDERS = ("triton", "reference", "sdpa_cudnn", "sdpa_flash", *public.NEEDS)
FASTEST = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
STAGES = ("all", "cmp", "topk", "slc", "swa", "combine")
_DENSE = {"sdpa_cudnn": SDPBackend.CUDNN_ATTENTION, "sdpa_flash": SDPBackend.FLASH_ATTENTION}


def is_dense(provider: str) -> bool:
    return provider in _DENSE


def semantics(provider: str) -> str:
    """Whose definition of the method a provider computes: dense, paper, or its own choice of blocks."""
    if provider in public.NEEDS:
        return "own"
    return "dense" if is_dense(provider) else "paper"


def attention(provider: str, case: Case) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The whole operation: (query, key, value, gates) -> output; dense providers ignore the gates."""
    if provider in public.NEEDS:
        return public.attention(provider, case, given=False)
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


def checked(provider: str, case: Case) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """What is compared with the reference: the same, but where a provider chooses blocks by another rule."""
    if provider in public.NEEDS:
        return public.attention(provider, case, given=True)
    return attention(provider, case)


def _dense(backend: SDPBackend, scale: float, query: Tensor, key: Tensor, value: Tensor, gates: Tensor) -> Tensor:
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    with sdpa_kernel(backend):
        out = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=True)
    return out.transpose(1, 2)


@contextmanager
def stages(inputs: Inputs, case: Case) -> Iterator[dict[tuple[str, str], Callable[[], object]]]:
    """{(stage, mode): a call of that stage alone} of the Triton provider: the backend's steps, after a real pass."""
    from videonsa.kernels import triton_backend
    from videonsa.kernels.plan import make_plan

    query, key, value, gates, grad = (tensor.detach().flatten(0, 1) for tensor in inputs)
    plan = make_plan(inputs.query, None, case.block_size)
    count = min(case.block_count, plan.most_blocks)
    settings = triton_backend.Settings(plan, count, case.window, BRANCHES, case.scale)
    call = triton_backend.Pass(query, key, value, settings, gates)
    forward = triton_backend.forward_steps(call)
    backward = triton_backend.backward_steps(triton_backend.Gradients(call, grad))
    triton_backend.run(forward + backward)
    yield {
        (stage, mode): partial(triton_backend.run, [step for step in steps if step.stage == stage])
        for mode, steps in (("fwd", forward), ("bwd", backward))
        for stage in dict.fromkeys(step.stage for step in steps)
    }
