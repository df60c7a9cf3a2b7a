"""The logic of the sparse prefills' kernels in Triton's interpreter, float32, at small sizes.

test_triton.py runs this file beside interpreted_triton.py.
"""

from __future__ import annotations

import pytest
import torch

from tests.helpers import TOLERANCE
from tests.kernels.block_sparse_cases import Sparse, antidiagonal_error, draw, error, inputs
from videonsa.kernels import tiling_sparse
from videonsa.kernels.block_sparse import block_sparse_attention
from videonsa.kernels.tiling import Tile

CASES = [
    Sparse("blocks", 44, 4, 2, 16, 16),
    Sparse("slash", 44, 2, 1, 16, 16),
    Sparse("slash", 33, 2, 2, 32, 32),
    Sparse("band", 44, 1, 1, 16, 16),
    Sparse("none", 20, 1, 1, 16, 16),
    Sparse("slash", 1, 2, 1, 16, 16),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_output_equals_the_reference(case):
    assert error(case, torch.float32) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("kind", ["blocks", "slash", "band"])
def test_tiles_smaller_than_a_block_change_nothing(kind, monkeypatch):
    monkeypatch.setattr(tiling_sparse, "attention", lambda *sizes: Tile(16, 16, 4, 2))
    assert error(Sparse(kind, 60, 1, 1, 16, 32), torch.float32) < TOLERANCE[torch.float32]


def test_columns_in_several_rounds_change_nothing(monkeypatch):
    monkeypatch.setattr(tiling_sparse, "columns", lambda: Tile(1, 4, 4, 1))
    assert error(Sparse("slash", 44, 2, 1, 16, 16), torch.float32) < TOLERANCE[torch.float32]


@pytest.mark.parametrize(("kind", "which", "at"), [("all", 1, 35), ("all", 2, 35), ("slash", 2, 35), ("band", 2, 5)])
def test_a_nan_reaches_the_rows_that_see_it_and_no_other(kind, which, at):
    case = Sparse(kind, 40, 2, 1, 16, 16)
    tensors, choice = inputs(case, torch.float32), draw(case)
    clean = block_sparse_attention(*tensors, choice, backend="triton")
    tensors[which][at] = torch.nan
    output = block_sparse_attention(*tensors, choice, backend="triton")
    reached = choice.mask()[:, :, at].T
    assert torch.equal(output[~reached], clean[~reached])
    assert output[reached].isnan().all()
    assert reached[at:].any()
    assert kind != "band" or not reached[at:].all()  # it hides the token from some later rows


@pytest.mark.parametrize(("length", "stride", "block_size"), [(41, 4, 16), (65, 16, 32)])
def test_antidiagonal_scores_are_those_of_torch(length, stride, block_size, monkeypatch):
    monkeypatch.setattr(tiling_sparse, "antidiagonals", lambda per_block: Tile(16, 16, 4, 2))
    query, key, _ = inputs(Sparse("all", length, 4, 2, 16, block_size), torch.float32)
    assert antidiagonal_error(query, key, stride, block_size) < TOLERANCE[torch.float32]
