"""The path that text queries take on a GPU, sample by sample, against the masked one; both run here on the CPU."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tests.helpers import TOLERANCE, relative_error
from videonsa.config import NSASettings
from videonsa.modeling.attention import VideoNSAAttention
from videonsa.modeling.layout import token_layout

VISION = torch.tensor([[0, 0, 1, 1, 1, 1, 0, 0, 0], [0, 1, 1, 1, 1, 1, 1, 1, 0]]).bool()
PADDING = {
    "none": torch.ones(2, 9),
    "left": torch.tensor([[1.0] * 9, [0.0] * 3 + [1.0] * 6]),
    "right": torch.tensor([[1.0] * 9, [1.0] * 7 + [0.0] * 2]),
}


@pytest.mark.parametrize("padding", PADDING)
def test_sample_by_sample_equals_the_mask(padding):
    mask = PADDING[padding]
    layout = token_layout(VISION, mask, NSASettings(), None)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 9, heads, 8, generator=generator) for heads in (4, 2, 2))
    layer = SimpleNamespace(scaling=0.3)
    results = []
    for attend in (VideoNSAAttention._text, VideoNSAAttention._text_by_sample):
        leaves = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
        text = attend(layer, *leaves, layout)
        is_text = (~VISION & mask.bool()).flatten()
        nothing = text.new_zeros(len(layout.vision_index), *text.shape[1:])
        rows = torch.cat([nothing, text, text.new_zeros(1, *text.shape[1:])])[layout.order][is_text]
        gradients = torch.autograd.grad(rows, leaves, torch.ones_like(rows).cumsum(0))
        results.append([rows.detach(), *gradients])
    for one, other in zip(*results, strict=True):
        assert relative_error(other, one) < TOLERANCE[torch.float32]
