"""What rounding the mean keys to bfloat16 does to a choice of blocks, and how flash.py's LARGE, WIDE and FEW hold it.

The kernels' arithmetic in float64 but for what is rounded: scores of the mean keys' high + low part, weighed by the lse
of the high part alone (`own`), of both (`both`), or as the kernels take it (`mixed`).
"""

from __future__ import annotations

import math

import pytest
import torch

from videonsa.bench.case import Case
from videonsa.bench.choices import TIE, lost

LENGTH, HEADS = 1200, 7


def widest_gaps(
    deviation: float, size: int, block: int, count: int, seed: int = 0, offset: float = 0.0, centred: bool = True
) -> dict[str, float]:
    """The widest gap between two blocks that change places against float64, with mean keys whose scores have the given
    standard deviation. offset: of all keys alike, as a bias; centred: as the kernels keep the mean keys."""
    flash = pytest.importorskip("videonsa.kernels.flash")
    generator = torch.Generator().manual_seed(seed)
    normal = [torch.randn(LENGTH, heads, size, generator=generator).bfloat16() for heads in (HEADS, 1)]
    query, key = deviation * math.sqrt(block) * normal[0], normal[1]  # the scale is size^-1/2
    key = (key + offset * torch.randn(size, generator=generator)).bfloat16()
    mean = key[: LENGTH // block * block, 0].float().unflatten(0, (-1, block)).mean(1)
    if centred:
        mean = mean - mean[0]
    high = mean.bfloat16()
    low = (mean - high.float()).bfloat16()
    position = torch.arange(LENGTH)[:, None]
    visible = torch.arange(1, len(mean) + 1) * block - 1 <= position
    scores = {name: _scores(query, keys, visible) for name, keys in
              {"own": high.double(), "both": high.double() + low.double()}.items()}  # fmt: skip
    lse = {name: score.logsumexp(-1, keepdim=True) for name, score in scores.items()}
    largest = scores["own"].amax(-1, keepdim=True).abs() / math.log(2)
    count_seen = visible.sum(1)[:, None]
    weighing = (lse["own"] - scores["own"].amax(-1, keepdim=True)).exp()
    mixed = (largest > flash.LARGE) | (weighing * flash.WIDE < count_seen) | (count_seen < flash.FEW)
    lse["mixed"] = lse["both"].where(mixed, lse["own"])
    own = position // block
    case = Case(LENGTH, HEADS, 1, size, block, count, 0, "bfloat16", "random")
    found = {}
    for name, weight in lse.items():
        importance = (scores["both"] - weight).exp().nan_to_num(0).sum(0)
        candidate = importance.masked_fill(torch.arange(len(mean)) >= own, -1.0)
        index = torch.cat([candidate.topk(count - 1).indices, own], 1)
        found[name] = float(lost(query, key, index[:, None], case).max())
    return found


def _scores(query, keys, visible):
    score = torch.einsum("lhd,jd->hlj", query.double(), keys) * query.shape[-1] ** -0.5
    return score.masked_fill(~visible, -math.inf)


@pytest.mark.parametrize("deviation", [0.125, 1, 2, 3.4, 8])
@pytest.mark.parametrize("sizes", [(128, 16, 2), (64, 32, 3)], ids=str)
def test_blocks_change_places_only_where_they_tie(deviation, sizes):
    gaps = widest_gaps(deviation, *sizes)
    assert gaps["mixed"] <= TIE[torch.bfloat16], gaps
    assert gaps["both"] <= TIE[torch.float32], gaps
    if deviation > 3:
        assert gaps["own"] > 0.005, gaps  # the branch's own lse would not do


@pytest.mark.parametrize("seed", [0, 1])
def test_what_all_keys_share_costs_no_precision(seed):
    sizes = (0.125, 128, 32, 8)
    assert widest_gaps(*sizes, seed=seed, offset=16.0)["own"] <= TIE[torch.bfloat16]
    assert widest_gaps(*sizes, seed=seed, offset=16.0, centred=False)["own"] > 2 * TIE[torch.bfloat16]


def test_scores_are_large_too_where_the_first_block_has_the_largest(monkeypatch):
    """Less the first block's, mean keys give it a score of 0: the largest may be small, and the others far below."""
    flash = pytest.importorskip("videonsa.kernels.flash")
    assert widest_gaps(2.4, 64, 16, 3, seed=9)["mixed"] <= TIE[torch.bfloat16]
    monkeypatch.setattr(flash, "WIDE", math.inf)
    assert widest_gaps(2.4, 64, 16, 3, seed=9)["mixed"] > 10 * TIE[torch.bfloat16]
