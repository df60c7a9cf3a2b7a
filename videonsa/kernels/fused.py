"""What a layer does row by row, in one pass each (Triton): sum and norm, rotation, gated activation; with gradients.

Each is the stock layer's formula, computed in float32 and rounded where the stock layer stores. Between two matrix
products the stock layer reads and writes its hidden states some ten times, these once or twice. Written here and not
left to torch.compile, which compiles anew for another kind of length, and for gradients, and in each process: these
serve every length from the first call on, take seconds to compile, and can be captured in a graph as they are.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from videonsa.limits import next_power_of_two

PROGRAMS = 512  # of a norm's gradient: each sums the weight's gradient over its rows
ELEMENTS = 1024  # of a program of `gated`
MOST_COLUMNS = 16384  # a row lies in the registers of one program


@triton.jit
def _norm(x, added, weight, total, normed, inverse, columns, eps, ADDED: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * columns
    at = tl.arange(0, BLOCK)
    live = at < columns
    stored = tl.load(x + row + at, mask=live, other=0.0)
    if ADDED:
        more = tl.load(added + row + at, mask=live, other=0.0)
        stored = (stored.to(tl.float32) + more.to(tl.float32)).to(stored.dtype)
        tl.store(total + row + at, stored, mask=live)
    value = stored.to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value, 0) / columns + eps)
    tl.store(inverse + tl.program_id(0), scale)
    factor = tl.load(weight + at, mask=live, other=0.0).to(tl.float32)
    tl.store(normed + row + at, (value * scale).to(stored.dtype).to(tl.float32) * factor, mask=live)


@triton.jit
def _norm_gradient(total, weight, inverse, grad, grad_total, grad_x, grad_weight, rows, columns,
                   WITH_TOTAL: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """grad_weight [programs, columns]: sums over every programs-th row."""
    at = tl.arange(0, BLOCK)
    live = at < columns
    factor = tl.load(weight + at, mask=live, other=0.0).to(tl.float32)
    sum_ = tl.zeros([BLOCK], tl.float32)
    for i in range(tl.program_id(0), rows, tl.num_programs(0)):
        row = tl.cast(i, tl.int64) * columns
        scale = tl.load(inverse + i)
        normal = tl.load(total + row + at, mask=live, other=0.0).to(tl.float32) * scale
        given = tl.load(grad + row + at, mask=live, other=0.0).to(tl.float32)
        sum_ += given * normal
        given = given * factor
        result = scale * (given - normal * (tl.sum(given * normal, 0) / columns))
        if WITH_TOTAL:
            result += tl.load(grad_total + row + at, mask=live, other=0.0).to(tl.float32)
        tl.store(grad_x + row + at, result, mask=live)
    tl.store(grad_weight + tl.program_id(0).to(tl.int64) * columns + at, sum_, mask=live)


@triton.jit
def _rotate(x, cosines, sines, out, heads, half, row_stride, head_stride, BACK: tl.constexpr, HEADS: tl.constexpr,
            HALF: tl.constexpr):  # fmt: skip
    """(a, b) -> (a cos - b sin, b cos + a sin) of a row's heads; BACK: its transpose, which takes gradients back."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, HEADS)[:, None]
    at = tl.arange(0, HALF)[None, :]
    live = (head < heads) & (at < half)
    source = x + row * row_stride + head * head_stride + at
    first = tl.load(source, mask=live, other=0.0).to(tl.float32)
    second = tl.load(source + half, mask=live, other=0.0).to(tl.float32)
    angle = row * 2 * half + at
    cos_first = tl.load(cosines + angle, mask=at < half, other=0.0).to(tl.float32)
    cos_second = tl.load(cosines + angle + half, mask=at < half, other=0.0).to(tl.float32)
    sin_first = tl.load(sines + angle, mask=at < half, other=0.0).to(tl.float32)
    sin_second = tl.load(sines + angle + half, mask=at < half, other=0.0).to(tl.float32)
    if BACK:
        turned_first = first * cos_first + second * sin_second
        turned_second = second * cos_second - first * sin_first
    else:
        turned_first = first * cos_first - second * sin_first
        turned_second = second * cos_second + first * sin_second
    target = out + (row * heads + head) * 2 * half + at
    tl.store(target, turned_first, mask=live)
    tl.store(target + half, turned_second, mask=live)


@triton.jit
def _gated(gate, up, out, count, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = at < count
    stored = tl.load(gate + at, mask=live, other=0.0)
    value = stored.to(tl.float32)
    active = (value * tl.sigmoid(value)).to(stored.dtype).to(tl.float32)
    tl.store(out + at, active * tl.load(up + at, mask=live, other=0.0).to(tl.float32), mask=live)


@triton.jit
def _gated_gradient(gate, up, grad, grad_gate, grad_up, count, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = at < count
    value = tl.load(gate + at, mask=live, other=0.0).to(tl.float32)
    given = tl.load(grad + at, mask=live, other=0.0).to(tl.float32)
    share = tl.sigmoid(value)
    tl.store(grad_up + at, given * value * share, mask=live)
    given = given * tl.load(up + at, mask=live, other=0.0).to(tl.float32)
    tl.store(grad_gate + at, given * share * (1.0 + value * (1.0 - share)), mask=live)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, added: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        x = x.contiguous()
        columns = x.shape[-1]
        rows = x.numel() // columns
        normed = torch.empty_like(x, dtype=dtype)
        inverse = torch.empty(rows, dtype=torch.float32, device=x.device)
        total = x if added is None else torch.empty_like(x)
        block = next_power_of_two(columns)
        _norm[(rows,)](
            x, x if added is None else added.contiguous(), weight, total, normed, inverse, columns, eps,
            ADDED=added is not None, BLOCK=block, num_warps=_warps(block),
        )  # fmt: skip
        ctx.save_for_backward(total, weight, inverse)
        ctx.added = None if added is None else added.dtype
        return normed, x.new_empty(0) if added is None else total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_total: Tensor) -> tuple[Tensor | None, ...]:
        total, weight, inverse = ctx.saved_tensors
        columns = total.shape[-1]
        programs = min(PROGRAMS, len(inverse))
        grad_x = torch.empty_like(total)
        grad_weight = torch.empty(programs, columns, dtype=torch.float32, device=total.device)
        grad = grad.contiguous()
        block = next_power_of_two(columns)
        _norm_gradient[(programs,)](
            total, weight, inverse, grad, grad if ctx.added is None else grad_total.contiguous(), grad_x, grad_weight,
            len(inverse), columns, WITH_TOTAL=ctx.added is not None, BLOCK=block, num_warps=_warps(block),
        )  # fmt: skip
        grad_added = None if ctx.added is None else grad_x.to(ctx.added)
        return grad_x, grad_added, grad_weight.sum(0).to(weight.dtype), None, None


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        ctx.save_for_backward(cosines, sines)
        return _turn(x, cosines, sines, False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        cosines, sines = ctx.saved_tensors
        return _turn(grad, cosines, sines, True), None, None


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        out = torch.empty_like(gate)
        _gated[(triton.cdiv(gate.numel(), ELEMENTS),)](gate, up, out, gate.numel(), BLOCK=ELEMENTS)
        ctx.save_for_backward(gate, up)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        grad_gate, grad_up = torch.empty_like(gate), torch.empty_like(up)
        _gated_gradient[(triton.cdiv(gate.numel(), ELEMENTS),)](
            gate, up, grad.contiguous(), grad_gate, grad_up, gate.numel(), BLOCK=ELEMENTS
        )
        return grad_gate, grad_up


def norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype | None = None) -> Tensor:
    """RMS norm of rows x [..., C] by weight [C], in a dtype, None: that of x."""
    with torch.cuda.device_of(x):
        return _Norm.apply(x, None, weight, eps, dtype or x.dtype)[0]


def add_norm(
    x: Tensor, added: Tensor, weight: Tensor, eps: float, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """The RMS norm of x + added, [..., C] each, as `norm`, and the sum itself, in the dtype of x."""
    with torch.cuda.device_of(x):
        return _Norm.apply(x, added, weight, eps, dtype or x.dtype)


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotary encoding of x [N, heads, D], whose rows and heads may have any stride, by cosines and sines [N, D]."""
    with torch.cuda.device_of(x):
        return _Rotate.apply(x, cosines.contiguous(), sines.contiguous())


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up."""
    with torch.cuda.device_of(gate):
        return _Gated.apply(gate, up)


def _turn(x: Tensor, cosines: Tensor, sines: Tensor, back: bool) -> Tensor:
    x = x if x.stride(2) == 1 else x.contiguous()
    rows, heads, size = x.shape
    out = torch.empty(rows, heads, size, dtype=x.dtype, device=x.device)
    if out.numel():
        _rotate[(rows,)](
            x, cosines, sines, out, heads, size // 2, x.stride(0), x.stride(1),
            BACK=back, HEADS=next_power_of_two(heads), HALF=next_power_of_two(size // 2),
        )  # fmt: skip
    return out


def _warps(block: int) -> int:
    return min(16, max(1, block // 512))
