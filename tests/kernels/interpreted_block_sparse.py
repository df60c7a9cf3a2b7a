"""The block-sparse kernel's logic in Triton's interpreter, float32, at small sizes; run as interpreted_triton.py is."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import TOLERANCE
from tests.kernels.block_sparse_cases import Sparse, draw, error, inputs
from videonsa.kernels import tiling_sparse
from videonsa.kernels.block_sparse import block_sparse_attention
from videonsa.kernels.tiling import Tile

CASES = [
    Sparse("blocks", 55, 4, 2, 16, 16),
    Sparse("slash", 55, 3, 1, 16, 16),
    Sparse("slash", 33, 2, 2, 32, 32),
    Sparse("band", 55, 1, 1, 16, 16),
    Sparse("all", 33, 2, 1, 16, 16),
    Sparse("none", 20, 2, 1, 16, 16),
    Sparse("slash", 1, 2, 1, 16, 16),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_output_equals_the_reference(case):
    assert error(case, torch.float32) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("kind", ["blocks", "slash", "band"])
def test_tiles_smaller_than_a_block_change_nothing(kind, monkeypatch):
    monkeypatch.setattr(tiling_sparse, "attention", lambda *sizes: Tile(16, 16, 4, 2))
    assert error(Sparse(kind, 70, 1, 1, 16, 32), torch.float32) < TOLERANCE[torch.float32]


def test_columns_in_several_rounds_change_nothing(monkeypatch):
    monkeypatch.setattr(tiling_sparse, "columns", lambda: Tile(1, 8, 4, 1))
    assert error(Sparse("slash", 55, 2, 1, 16, 16), torch.float32) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("kind", ["all", "slash", "band"])
@pytest.mark.parametrize("which", [1, 2], ids=["key", "value"])
def test_a_later_nan_reaches_no_earlier_output(kind, which):
    case = Sparse(kind, 45, 2, 1, 16, 16)
    tensors, choice = inputs(case, torch.float32), draw(case)
    clean = block_sparse_attention(*tensors, choice, backend="triton")
    tensors[which][37] = torch.nan
    output = block_sparse_attention(*tensors, choice, backend="triton")
    reached = choice.mask()[:, :, 37].T
    assert torch.equal(output[~reached], clean[~reached])
    assert output[reached].isnan().all()
    assert reached.any()
