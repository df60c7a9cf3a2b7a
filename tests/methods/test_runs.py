"""Queries of some runs of a row, as a process of several takes them, are as among those of the whole row."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from tests.helpers import TOLERANCE, relative_error
from videonsa.config import NSASettings
from videonsa.methods.contract import LayerCall, make_batch
from videonsa.methods.dense import Dense
from videonsa.methods.paper import Paper

SETTINGS = NSASettings(block_size=4, block_count=2, window=5)
LENGTH = 48
RUNS = {
    "front and back": (slice(0, 12), slice(36, 48)),
    "middle": (slice(12, 24), slice(24, 36)),
    "few": (slice(7, 9),),
    "all": (slice(0, 48),),
}


def samples():
    """Two rows: one of a sample with padding on either side and a hole; two samples packed, with padding behind."""
    is_token = torch.ones(2, LENGTH, dtype=torch.bool)
    is_token[0, :3] = is_token[0, 20:22] = is_token[0, 46:] = is_token[1, 43:] = False
    is_vision = torch.zeros_like(is_token)
    is_vision[0, 5:40] = is_vision[1, 2:15] = is_vision[1, 22:40] = True
    numbers = torch.stack([torch.arange(LENGTH), torch.cat([torch.arange(19), torch.arange(LENGTH - 19)])])
    return make_batch(is_vision, is_token, numbers)


@pytest.mark.parametrize("kind", [Paper, Dense], ids=["nsa", "dense"])
@pytest.mark.parametrize("runs", RUNS.values(), ids=RUNS)
def test_queries_of_some_runs_are_as_among_all(kind, runs):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, LENGTH, heads, 8, generator=generator) for heads in (4, 2, 2))
    states = torch.randn(2, LENGTH, 12, generator=generator)
    layer = SimpleNamespace(captured=None, gates=lambda logits, _: logits.sigmoid().unflatten(-1, (4, 3)))
    found = []
    for taken in (None, runs):
        method = kind(
            SETTINGS, SimpleNamespace(text_config=SimpleNamespace(num_hidden_layers=1, num_attention_heads=4))
        )
        method.batch = dataclasses.replace(samples(), runs=taken)
        method.prepare(states)
        mine, gates = (
            tensor if taken is None else torch.cat([tensor[:, run] for run in taken], 1) for tensor in (query, states)
        )
        found.append(method.attend(LayerCall(0, mine, key, value, gates, 0.3, layer)))
    whole = torch.cat([found[0][:, run] for run in runs], 1)
    assert relative_error(found[1], whole) < TOLERANCE[torch.float32]
