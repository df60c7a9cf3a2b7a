"""`nsa_attention` on Triton kernels: the order of the steps, forward and backward, and their autograd function.

forward:  means of blocks -> compressed attention, lse -> choice of blocks -> attention to them -> window -> gated sum
backward: gates -> compressed -> window -> chosen blocks -> gradients of keys and values

Everything runs on packed tokens [T, heads, D] (plan.py); queries may be those of the last of them alone. No step adds
floats atomically: equal inputs give equal bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from triton import knobs

from videonsa.kernels import combine, compress, masked, prefix, rowstats, select, selected, tiling, window
from videonsa.kernels.empty import empty_output
from videonsa.kernels.plan import Chunk, Plan, make_plan
from videonsa.limits import next_power_of_two
from videonsa.names import BRANCHES

LONGEST = 1 << 30  # a window that sees everything, and to which a position can be added in 32 bits
DTYPES = (torch.float16, torch.bfloat16, torch.float32)

Made = TypeVar("Made")


@dataclass(frozen=True)
class Settings:
    """What a call computes besides its tensors."""

    plan: Plan
    block_count: int
    window: int
    branches: tuple[str, ...]
    scale: float

    @property
    def chooses_from(self) -> int:
        """The position from which on a query sees more blocks than it may choose."""
        return self.block_count * self.plan.block_size

    @property
    def chooses(self) -> bool:
        """Whether some query chooses among blocks."""
        return "slc" in self.branches and self.plan.most_blocks > self.block_count

    def masks(self, *, backward: bool = False) -> bool:
        """Whether selection, window and gated sum are one kernel (masked.py), whose queries are of all tokens."""
        whole = "slc" in self.branches and self.plan.first_query == 0
        return whole and tiling.masks(self.plan.longest, self.chooses_from, backward=backward)


@torch.compiler.disable
def nsa_attention_triton(
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
    """`nsa_attention` without its argument checks, on CUDA (or anywhere in Triton's interpreter).

    Reading cu_seqlens waits for the device, once per tensor and once after each change in place (inference tensors tell
    of no change, and are read at every call). torch.compile leaves this call as it is.
    """
    _check(query, block_size, scale)
    plan = make_plan(query, cu_seqlens, block_size, key.shape[1])
    if query.numel() == 0:
        return empty_output(query, key, value, gates)
    if not (query.is_cuda or knobs.runtime.interpret):
        raise ValueError(
            f"backend='triton' runs on a CUDA device, or 'reference' anywhere; got tensors on {query.device}"
        )
    block_count = min(block_count, plan.most_blocks)
    if block_count < plan.most_blocks and next_power_of_two(block_count) * query.shape[3] > tiling.MOST_ELEMENTS:
        most = tiling.MOST_ELEMENTS // query.shape[3]
        raise ValueError(f"block_count={block_count} is not served by backend='triton': at most {most}, or 'reference'")
    settings = Settings(plan, block_count, min(window, LONGEST), tuple(branches), scale)
    with torch.cuda.device_of(query):  # kernels run on the current device
        out = _Attention.apply(*(tensor.flatten(0, 1) for tensor in (query, key, value, gates)), settings)
    return out.view(query.shape)


def _check(query: Tensor, block_size: int, scale: float) -> None:
    if not scale > 0:
        raise ValueError(f"scale={scale} is not served by backend='triton': above 0, or 'reference'")
    size = query.shape[3]
    if size not in tiling.HEAD_SIZES:
        raise ValueError(
            f"head size {size} is not served by backend='triton': one of {tiling.HEAD_SIZES}, or 'reference'"
        )
    if query.is_cuda and query.dtype == torch.float32 and size == block_size == 128:
        raise ValueError(
            "float32 with heads and blocks of 128 is not served by backend='triton': bfloat16, or 'reference'"
        )
    if query.dtype not in DTYPES:
        raise ValueError(
            f"{query.dtype} is not served by backend='triton': float16, bfloat16 or float32, or 'reference'"
        )


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, gates: Tensor, settings: Settings) -> Tensor:
        query, key, value, gates = (tensor.contiguous() for tensor in (query, key, value, gates))
        call = Pass(query, key, value, settings, gates)
        run(forward_steps(call))
        kept = dict(call.outputs)
        if "swa" in kept and not tiling.keeps_window(len(query)):
            del kept["swa"]
        ctx.settings, ctx.outputs, ctx.lses = settings, tuple(kept), tuple(call.lses)
        ctx.save_for_backward(query, key, value, gates, call.index, *kept.values(), *call.lses.values())
        assert call.out is not None
        return call.out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, gates, index, *rest = ctx.saved_tensors
        call = Pass(query, key, value, ctx.settings, gates)
        call.index = index
        call.outputs = dict(zip(ctx.outputs, rest, strict=False))
        call.lses = dict(zip(ctx.lses, rest[len(ctx.outputs) :], strict=True))
        return *gradients(call, grad.contiguous()), None


class Step(NamedTuple):
    """A part of the computation: the stage it belongs to (a branch, topk or combine), and what to call."""

    stage: str
    run: Callable[[], None]


class Pass:
    """What the steps of one call hand on to each other. Tensors as in `nsa_attention`, packed [T, heads, D]."""

    def __init__(
        self, query: Tensor, key: Tensor, value: Tensor, settings: Settings, gates: Tensor | None = None
    ) -> None:
        self.query, self.key, self.value, self.settings, self.gates = query, key, value, settings, gates
        self.outputs: dict[str, Tensor] = {}  # of each branch, [T, HQ, D]
        self.lses: dict[str, Tensor] = {}  # [T, HQ] for slc, which reads it by query, and [HQ, T] for cmp and swa
        self.index: Tensor | None = None  # chosen blocks, as `attend` returns them
        self.out: Tensor | None = None  # the gated sum, where there are gates


def attend(
    query: Tensor, key: Tensor, value: Tensor, settings: Settings
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor | None]:
    """Each branch's output [T, HQ, D], its lse, and the chosen blocks [T, HK, block_count] (global numbers).

    The chosen blocks are undefined for queries that see no more than block_count of them, and so choose all.
    The lse is [T, HQ] for slc and [HQ, T] for cmp and swa.
    """
    call = Pass(query, key, value, settings)
    run(forward_steps(call))
    return call.outputs, call.lses, call.index


def forward_steps(call: Pass) -> list[Step]:
    """The steps of the forward pass in their order; each may be run again once all have run.

    Between the choice of a chunk of queries and the attention to what they chose, no importance is kept.
    """
    query, key, value, settings = call.query, call.key, call.value, call.settings
    plan, scale, branches, count = settings.plan, settings.scale, settings.branches, settings.block_count
    choosing = settings.chooses
    weighed: list[tuple[Tensor, Tensor, Tensor]] = []  # high and low part of the mean keys, the lse to choose by

    def compressed() -> None:
        high, low, value_mean = compress.mean_blocks(key, value, plan)
        out, lse, choice_lse = compress.forward(
            query, high, low, value_mean, plan, scale, with_out="cmp" in branches, count=count if choosing else None
        )
        if out is not None:
            call.outputs["cmp"], call.lses["cmp"] = out, lse
        weighed[:] = [(high, low, choice_lse)]

    def prefixes() -> None:
        out, lse = call.outputs["slc"], call.lses["slc"]
        prefix.forward(query, key, value, plan, settings.chooses_from, scale, out=out, lse=lse)

    def choose(chunk: Chunk) -> None:
        high, low, lse = weighed[0]
        importance, peaks = select.importances(query, high, low, lse, plan, chunk, scale, count)
        select.choose(importance, peaks, _made(call.index), plan, chunk)

    def chosen(chunk: Chunk) -> None:
        out, lse = call.outputs["slc"], call.lses["slc"]
        selected.forward_chunk(query, key, value, _made(call.index), plan, chunk, scale, out=out, lse=lse)

    def near() -> None:
        call.outputs["swa"], call.lses["swa"] = window.forward(query, key, value, plan, scale, settings.window)

    def together() -> None:
        bits = masked.chosen_bits(_made(call.index), plan) if choosing else None
        call.out = masked.forward(
            query, key, value, call.gates, bits, call.outputs, call.lses, plan, branches, settings.window, scale
        )

    steps = [Step("cmp", compressed)] if "cmp" in branches or choosing else []
    if "slc" in branches:
        call.index = torch.empty(len(query), key.shape[1], count, dtype=torch.int32, device=query.device)
    if settings.masks():
        parts = chunks(query, key, settings, tiling.FORWARD_CHUNK)
        return [*steps, *(Step("topk", partial(choose, chunk)) for chunk in parts), Step("slc", together)]
    if "slc" in branches:
        call.outputs["slc"] = torch.empty_like(query)
        call.lses["slc"] = torch.empty(query.shape[:2], dtype=torch.float32, device=query.device)
        steps.append(Step("slc", prefixes))
        for chunk in chunks(query, key, settings, tiling.FORWARD_CHUNK):
            steps += [Step("topk", partial(choose, chunk)), Step("slc", partial(chosen, chunk))]
    if "swa" in branches:
        steps.append(Step("swa", near))
    if call.gates is not None:
        steps.append(Step("combine", partial(_combine, call, call.gates)))
    return steps


def _combine(call: Pass, gates: Tensor) -> None:
    call.out = combine.combine(call.outputs, gates)


def run(steps: Iterable[Step]) -> None:
    for step in steps:
        step.run()


class Gradients:
    """What the steps of a backward pass hand on to each other, and what they yield."""

    def __init__(self, call: Pass, grad: Tensor) -> None:
        self.call, self.grad = call, grad
        self.shares: Tensor | None = None  # the gates' gradients
        self.query: Tensor | None = None
        self.bits: Tensor | None = None  # of masked.py: the chosen blocks, and the statistics of all branches
        self.statistics: Tensor | None = None
        self.means: tuple[Tensor, Tensor] | None = None  # of the blocks' keys and values
        self.tokens: tuple[Tensor, Tensor] | None = None  # sums for keys and values, float32, by token
        self.blocks: tuple[Tensor, Tensor] | None = None  # and by block
        self.key: Tensor | None = None
        self.value: Tensor | None = None

    def query_sum(self) -> Tensor:
        """The query's gradient, made when the first branch writes it."""
        if self.query is None:
            self.query = torch.empty_like(self.call.query)
        return self.query


def gradients(call: Pass, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value and gates of a call whose forward steps have run."""
    found = Gradients(call, grad)
    run(backward_steps(found))
    shares = _made(found.shares).to(_made(call.gates).dtype)
    return _made(found.query), _made(found.key), _made(found.value), shares


def backward_steps(found: Gradients) -> list[Step]:
    """The steps of `gradients` in their order; run again, they take as long, but add to what is there."""
    return _backward_masked(found) if found.call.settings.masks(backward=True) else _backward_listed(found)


def _backward_masked(found: Gradients) -> list[Step]:
    call, grad, settings = found.call, found.grad, found.call.settings
    query, key, value, plan, scale = call.query, call.key, call.value, settings.plan, settings.scale

    def queries() -> None:
        if "cmp" in settings.branches:
            high, _, value_mean = compress.mean_blocks(key, value, plan)
            found.means = high, value_mean
        found.bits = masked.chosen_bits(_made(call.index), plan) if settings.chooses else None
        found.shares, found.statistics = masked.query_gradient(
            query, key, value, found.means, _made(call.gates), found.bits, grad, call.outputs, call.lses, plan,
            settings.branches, settings.window, scale, grad_query=found.query_sum(),
        )  # fmt: skip

    def compressed() -> None:
        statistics = _made(found.statistics)[BRANCHES.index("cmp")]
        found.blocks = compress.key_gradient(query, *_made(found.means), grad, statistics, plan, scale)

    def together() -> None:
        found.tokens = masked.key_gradient(
            query, key, value, found.bits, grad, _made(found.statistics), plan, settings.branches, settings.window,
            scale,
        )  # fmt: skip

    steps = [Step("slc", queries), Step("slc", together), Step("combine", partial(_spread, found))]
    return steps[:1] + [Step("cmp", compressed)] * ("cmp" in settings.branches) + steps[1:]


def _spread(found: Gradients) -> None:
    call = found.call
    token_key, token_value = found.tokens or (None, None)
    block_key, block_value = found.blocks or (None, None)
    found.key = combine.spread(token_key, block_key, call.key, call.settings.plan)
    found.value = combine.spread(token_value, block_value, call.value, call.settings.plan)


def _backward_listed(found: Gradients) -> list[Step]:
    call, grad, settings = found.call, found.grad, found.call.settings
    query, key, value, plan, scale = call.query, call.key, call.value, settings.plan, settings.scale

    def statistics(name: str) -> Tensor:
        branch, by_query = BRANCHES.index(name), name == "slc"
        gate, share = _made(call.gates)[:, :, branch], _made(found.shares)[:, :, branch]
        position = plan.token() if by_query else plan.position()
        return rowstats.pack(call.lses[name], gate, share, position, by_query=by_query)

    def gates() -> None:
        outputs = dict(call.outputs)
        if "swa" in settings.branches and "swa" not in outputs:
            outputs["swa"], _ = window.forward(query, key, value, plan, scale, settings.window)
        found.shares = combine.shares(outputs, grad)

    def compressed() -> None:
        high, _, value_mean = compress.mean_blocks(key, value, plan)
        found.blocks = compress.backward(
            query, high, value_mean, grad, statistics("cmp"), plan, scale, grad_query=found.query_sum(), add=False
        )

    def near() -> None:
        found.tokens = window.backward(
            query, key, value, grad, statistics("swa"), plan, scale, settings.window,
            grad_query=found.query_sum(), add="cmp" in settings.branches,
        )  # fmt: skip

    def chosen() -> None:
        if found.tokens is None:
            found.tokens = torch.zeros_like(key, dtype=torch.float32), torch.zeros_like(key, dtype=torch.float32)
        token_key, token_value = found.tokens
        sums: dict[str, Any] = {"grad_query": found.query_sum(), "grad_key": token_key, "grad_value": token_value}
        add = len(settings.branches) > 1
        shared = query, key, value, grad, statistics("slc")
        prefix.backward(*shared, plan, settings.chooses_from, scale, **sums, add=add)
        for chunk in chunks(query, key, settings, tiling.backward_chunk(len(query))):
            selected.backward_chunk(*shared, _made(call.index), plan, chunk, scale, **sums, add=add)

    branches = {"cmp": compressed, "swa": near, "slc": chosen}  # slc last: the others write what it adds to
    steps = [Step(name, step) for name, step in branches.items() if name in settings.branches]
    return [Step("combine", gates), *steps, Step("combine", partial(_spread, found))]


def _made(result: Made | None) -> Made:
    """A result of an earlier step."""
    assert result is not None
    return result


def chunks(query: Tensor, key: Tensor, settings: Settings, most: int) -> tuple[Chunk, ...]:
    """The runs of at most `most` queries that the selection branch takes in turn, where there is a choice to make."""
    tokens = tiling.chunk_tokens(
        most, query.shape[1:], key.shape[1], settings.block_count, settings.plan.most_blocks, query.element_size()
    )
    return tuple(chunk for chunk in settings.plan.chunks(tokens) if chunk.columns > settings.block_count)
