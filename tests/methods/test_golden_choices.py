"""Our choices beside those that the authors' own code made on the same inputs (golden_choices.json says by what)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from videonsa.methods.flexprefill import flexprefill_choice
from videonsa.methods.minference import vertical_slash_choice
from videonsa.methods.xattention import xattention_choice

GOLDEN = json.loads(Path(__file__).with_name("golden_choices.json").read_text(encoding="utf-8"))
SIZE = 32  # of a head


def tokens(length, heads):
    """[L, heads, 32] by a formula: noise, and a direction that 90 tokens share; exact in half precision."""
    place, head, entry = torch.meshgrid(torch.arange(length), torch.arange(heads), torch.arange(SIZE), indexing="ij")

    def noise(number):
        state = (number * 1000003 + head * 7919 + entry * 104729 + 15485863) % 2147483647
        for _ in range(3):
            state = (state * 48271) % 2147483647
        return (state % 33 - 16).float()

    return (noise(place) + 2 * noise(1000000 + place // 90)) / 32


def inputs(length, heads, key_heads):
    query, key = tokens(length, heads) * 2, tokens(length, key_heads)
    key[:3] *= 2
    return query, key, SIZE**-0.5


def blocks(choice):
    """bool [Hq, n, n] of a choice of aligned blocks."""
    mask = torch.zeros(choice.heads, choice.blocks, choice.blocks, dtype=torch.bool)
    for head, row in torch.cartesian_prod(torch.arange(choice.heads), torch.arange(choice.blocks)).tolist():
        mask[head, row, choice.starts[head, row, : choice.counts[head, row]].long() // choice.block_size] = True
    return mask


def theirs(heads):
    """The same of lines of 0 and 1; what a line leaves out lies after its query."""
    return torch.tensor([[[digit == "1" for digit in row.ljust(len(rows), "0")] for row in rows] for rows in heads])


def test_minference_is_the_very_same():
    golden = GOLDEN["minference"]
    choice = vertical_slash_choice(*inputs(1200, 2, 1), golden["vertical"], golden["slash"])
    for head, expected in enumerate(golden["heads"]):
        assert [place for place in choice.columns[head].tolist() if place >= 0] == expected["columns"]
        for row, starts in enumerate(expected["blocks"]):
            assert choice.starts[head, row, : choice.counts[head, row]].tolist() == starts


@pytest.mark.parametrize("golden", GOLDEN["flexprefill"], ids=["vertical-slash", "query-aware"])
def test_flexprefill_is_the_same_but_for_the_last_block_of_a_query_aware_head(golden):
    """Theirs leaves out the block with which the sum passes gamma; the paper takes it."""
    sizes = {name: golden[name] for name in ("gamma", "tau", "min_budget")}
    ours, expected = blocks(flexprefill_choice(*inputs(1200, 4, 2), **sizes)), theirs(golden["blocks"])
    assert not (expected & ~ours).any()
    extra = (ours & ~expected).sum((1, 2)).tolist()
    assert extra == ([0, 0, 0, 0] if golden["tau"] == 0 else [1, 0, 0, 0])


def test_xattention_is_the_same_but_for_the_first_chunk():
    """In the first chunk, 16 rows of blocks here, theirs does not force the sink and takes a block or two too many."""
    golden = GOLDEN["xattention"]
    choice = xattention_choice(*inputs(4500, 2, 1), threshold=golden["threshold"], stride=golden["stride"])
    ours, expected = blocks(choice), theirs(golden["blocks"])
    assert torch.equal(ours[:, 16:], expected[:, 16:])
    assert not (ours & ~expected).any()
    assert (expected & ~ours).sum(-1).max() == 2
