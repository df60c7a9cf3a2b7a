"""The path that text queries take on a GPU, by spans, against the masked one; both run here on the CPU."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.helpers import TOLERANCE, relative_error
from videonsa.config import NSASettings
from videonsa.methods.contract import make_batch
from videonsa.methods.layout import token_layout
from videonsa.methods.mixed import text_by_mask, text_by_spans
from videonsa.methods.samples import find_samples

VISION = torch.tensor([[0, 0, 1, 1, 1, 1, 0, 0, 0], [0, 1, 1, 1, 1, 1, 1, 1, 0]]).bool()
PADDING = {
    "none": torch.ones(2, 9),
    "left": torch.tensor([[1.0] * 9, [0.0] * 3 + [1.0] * 6]),
    "right": torch.tensor([[1.0] * 9, [1.0] * 7 + [0.0] * 2]),
}
ONE_A_ROW = torch.arange(9).expand(2, 9)
PACKED = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 0, 1], [0, 1, 2, 3, 4, 0, 1, 0, 1]])  # 2 and 3 samples


@pytest.mark.parametrize("positions", [ONE_A_ROW, PACKED], ids=["one a row", "packed"])
@pytest.mark.parametrize("padding", PADDING)
def test_spans_equal_the_mask(padding, positions):
    mask = PADDING[padding]
    layout = token_layout(make_batch(VISION, mask, positions), NSASettings(), None)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 9, heads, 8, generator=generator) for heads in (4, 2, 2))
    results = []
    for attend in (text_by_mask, text_by_spans):
        leaves = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
        text = attend(layout.pack_text(leaves[0]), *leaves[1:], layout, 0.3)
        is_text = (~VISION & mask.bool()).flatten()
        nothing = text.new_zeros(len(layout.vision_index), *text.shape[1:])
        rows = torch.cat([nothing, text, text.new_zeros(1, *text.shape[1:])])[layout.order][is_text]
        gradients = torch.autograd.grad(rows, leaves, torch.ones_like(rows).cumsum(0))
        results.append([rows.detach(), *gradients])
    for one, other in zip(*results, strict=True):
        assert relative_error(other, one) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("first", [0, 2], ids=["all vision", "text around"])
def test_one_run_of_vision_is_packed_without_copies(first):
    is_vision = torch.zeros(1, 9, dtype=torch.bool)
    is_vision[:, first : 9 - first] = True
    layout = token_layout(make_batch(is_vision), NSASettings(), None)
    tokens = torch.arange(9.0).view(1, 9, 1)
    packed = layout.pack(tokens)
    assert packed.data_ptr() == tokens[:, first:].data_ptr()
    assert all(map(torch.equal, layout.part(tokens), (packed, layout.pack_text(tokens))))
    text = layout.pack_text(tokens).flatten(0, 1)
    by_order = dataclasses.replace(layout, vision_run=None, in_order=False)
    assert torch.equal(layout.unpack(packed[0], text), tokens[0])
    assert torch.equal(by_order.unpack(by_order.pack(tokens)[0], text), tokens[0])


def test_samples_begin_where_the_text_positions_do_not_go_on():
    """Whether they count padding or pass over it; without positions a row is a sample."""
    is_token = torch.tensor([[0, 1, 1, 0, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0]]).bool()
    passed_over = torch.tensor([[0, 0, 1, 0, 2, 0, 1], [0, 1, 2, 0, 1, 0, 0]])
    counted = torch.tensor([[0, 1, 2, 3, 4, 0, 1], [0, 1, 2, 0, 1, 2, 3]])
    for positions in (passed_over, counted):
        samples = find_samples(is_token, positions)
        assert samples.index[is_token].tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
        assert (samples.rows, samples.starts, samples.have_holes) == ((0, 0, 1, 1), (1, 5, 0, 3), True)
    alone = find_samples(is_token)
    assert (alone.rows, alone.starts, alone.count(is_token).tolist()) == ((0, 1), (1, 0), [5, 5])


def test_padding_inside_a_sample_is_seen_by_no_text():
    mask = torch.tensor([[1, 1, 0, 1, 1, 1, 1, 1, 1], [1] * 9])
    seen = token_layout(make_batch(VISION, mask), NSASettings(), None).text_mask
    assert not seen[0, 0, :, 2].any()
    assert seen[0, 0, -1].tolist() == mask[0].bool().tolist()
