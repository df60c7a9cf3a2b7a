"""Attention of a new token over a prompt's cache in Triton's interpreter, float32, against plain torch."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import TOLERANCE, relative_error
from videonsa.kernels import decode, decode_triton


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("heads", "kv_heads", "length", "step", "masked"),
    [(7, 1, 1, 0, False), (7, 1, 130, 7, True), (4, 2, 70, 3, False), (4, 2, 70, 3, True)],
)
def test_equals_plain_torch(heads, kv_heads, length, step, masked, monkeypatch):
    monkeypatch.setattr(decode_triton, "SPLITS", 8)
    monkeypatch.setattr(decode_triton, "COLUMNS", 16)
    key, value = (noise(2, length + 5, kv_heads, 16, seed=seed).transpose(1, 2) for seed in (0, 1))  # room is left
    is_token = noise(2, length, seed=2) > 0 if masked else None
    prompt = decode.Prompt(key, value, length, is_token)
    recent, query = noise(2, 2, kv_heads, 8, 16, seed=3), noise(2, heads, 16, seed=4)
    recent[:, :, :, step + 1 :] = torch.nan  # not there yet
    table = decode.make_table([prompt])
    found = decode_triton.decode_attention(query, table[0], recent, torch.tensor([step]), 0.3)
    expected = decode.decode_reference(query, prompt, recent, step, 0.3)
    assert relative_error(found, expected) < TOLERANCE[torch.float32]


def test_keys_and_values_that_lie_apart_are_refused():
    key = noise(1, 2, 4, 16)
    with pytest.raises(ValueError, match="lie apart"):
        decode.make_table([decode.Prompt(key, noise(1, 4, 2, 16).transpose(1, 2), 4, None)])
