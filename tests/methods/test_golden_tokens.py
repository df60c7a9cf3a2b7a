"""What is kept beside what the authors' own code kept of the same inputs (golden_tokens.json says by what)."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.helpers import relative_error
from videonsa.methods.registry import load, make
from videonsa.methods.tokens import last_token_scores, rounded, top

GOLDEN = json.loads(Path(__file__).with_name("golden_tokens.json").read_text(encoding="utf-8"))
CONFIG = SimpleNamespace(text_config=SimpleNamespace(num_hidden_layers=28))


def noise(*shape: int, seed: int) -> torch.Tensor:
    """Whole numbers by a formula, over 4096: no two of the first million alike in a row of them."""
    state = torch.arange(torch.Size(shape).numel()) + 15485863 * (seed + 1)
    for _ in range(3):
        state = (state * 48271) % 2147483647
    return ((state % 8191 - 4095).float() / 4096).view(shape)


def inputs(count: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Features of a patch's tokens [1, count, 24], and readings of the tower."""
    seen = {"local": noise(1, count, seed=1), "global": noise(1, count, seed=2), "last": noise(1, count, seed=3)}
    seen = {name: scores + 1 for name, scores in seen.items()}  # of attention: none is below 0
    return noise(1, count, 24, seed=0), seen | {"last.keys": noise(1, count, 8, seed=4)}


@pytest.mark.parametrize("case", GOLDEN["merged"], ids=lambda case: f"{case['method']}-{case['size']}")
def test_merged_tokens(case):
    settings = make(case["method"], case["settings"])
    tokens, seen = inputs(case["size"][0] * case["size"][1])
    kept, merged = load(settings.entry)(settings, CONFIG).merge(tokens, seen, tuple(case["size"]))
    assert kept[0].tolist() == case["kept"]
    assert relative_error(merged[0].abs().sum(dim=1), torch.tensor(case["sums"])) < 1e-5


@pytest.mark.parametrize("case", GOLDEN["fastv"], ids=lambda case: f"{case['length']}-{case['keep']}")
def test_fastv(case):
    query, key = noise(28, 16, seed=5) * 3, noise(case["length"], 4, 16, seed=6)
    first, count = case["vision"]
    scores = last_token_scores(query[None], key, 0.25)[first : first + count]
    assert top(scores, rounded(case["keep"], count)).tolist() == case["kept"]
