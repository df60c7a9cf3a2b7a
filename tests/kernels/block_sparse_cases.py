"""Choices and inputs shared by the tests of the block-sparse kernel, and its comparison with the reference."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tests.helpers import relative_error
from videonsa.kernels.block_sparse import KeyChoice, block_sparse_attention
from videonsa.methods.estimate import of_group
from videonsa.methods.xattention import block_scores


@dataclass(frozen=True)
class Sparse:
    """A choice to draw: blocks (aligned), slash (unaligned blocks and columns), band (Tri-Shape's), all or none."""

    kind: str
    length: int
    heads: int
    kv_heads: int
    size: int
    block_size: int

    def __str__(self) -> str:
        return f"{self.kind}-L{self.length}-h{self.heads}_{self.kv_heads}-d{self.size}-s{self.block_size}"

    @property
    def blocks(self) -> int:
        return -(-self.length // self.block_size)


def draw(case: Sparse, device: str = "cpu", seed: int = 0) -> KeyChoice:
    """Of a third of the blocks, with each block's own; of a quarter of the columns, a head of them without any."""
    generator = torch.Generator().manual_seed(seed)
    map_ = torch.rand(case.heads, case.blocks, case.blocks, generator=generator) < 0.3
    own = torch.eye(case.blocks, dtype=torch.bool)
    if case.kind == "none":
        return _on(KeyChoice.of_blocks(map_ & False, case.block_size, case.length), device)
    if case.kind == "blocks":
        return _on(KeyChoice.of_blocks(map_ | own, case.block_size, case.length), device)
    if case.kind in ("all", "band"):
        band = (3, case.length // 3, case.length - case.length // 10) if case.kind == "band" else None
        every = torch.ones(1, case.blocks, case.blocks, dtype=torch.bool)
        choice = KeyChoice.of_blocks(every, case.block_size, case.length, band=band)
        starts, counts = choice.starts.expand(case.heads, -1, -1), choice.counts.expand(case.heads, -1)
        return _on(KeyChoice(case.length, case.block_size, starts, counts, None, band), device)
    assert case.kind == "slash"
    choice = KeyChoice.of_blocks(map_, case.block_size, case.length)
    shift = torch.randint(0, case.block_size, (case.heads, case.blocks, 1), generator=generator, dtype=torch.int32)
    is_column = torch.rand(case.heads, case.length, generator=generator) < 0.25
    is_column[0] = False
    most = int(is_column.sum(1).max()) + 1
    columns = torch.full((case.heads, most), -1, dtype=torch.int32)
    for head, row in enumerate(is_column):
        found = row.nonzero()[:, 0].int()
        columns[head, : len(found)] = found
    return _on(KeyChoice(case.length, case.block_size, choice.starts + shift, choice.counts, columns), device)


def _on(choice: KeyChoice, device: str) -> KeyChoice:
    columns = None if choice.columns is None else choice.columns.to(device)
    return KeyChoice(
        choice.length, choice.block_size, choice.starts.to(device), choice.counts.to(device), columns, choice.band
    )


def inputs(case: Sparse, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> list[Tensor]:
    """query, key and value."""
    generator = torch.Generator(device).manual_seed(seed)
    return [
        torch.randn(case.length, heads, case.size, generator=generator, device=device).to(dtype)
        for heads in (case.heads, case.kv_heads, case.kv_heads)
    ]


def error(case: Sparse, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> float:
    """Relative error of the kernel's output against the reference in float64 (where there is nothing: its norm)."""
    choice = draw(case, device, seed)
    tensors = inputs(case, dtype, device, seed)
    ours = block_sparse_attention(*tensors, choice, backend="triton")
    exact = block_sparse_attention(*(tensor.double() for tensor in tensors), choice, backend="reference")
    assert ours.dtype == dtype
    assert ours.isfinite().all()
    return float(ours.norm()) if case.kind == "none" else relative_error(ours, exact)


def antidiagonal_error(query: Tensor, key: Tensor, stride: int, block_size: int) -> float:
    """Relative error of the kernel of XAttention's scores against torch's."""
    from videonsa.kernels.antidiagonal import antidiagonal_scores

    heads = range(key.shape[1])
    exact = [block_scores(of_group(query, key, h), key[:, h], 0.25, stride, block_size) for h in heads]
    return relative_error(antidiagonal_scores(query, key, 0.25, stride, block_size), torch.cat(exact))
