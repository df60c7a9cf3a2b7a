"""Which tokens VisionZip, VScan and FastV keep, and what becomes of the others: by hand, and by slow loops."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import tensor

from videonsa.methods.compression import by_row, keep_highest, keeping
from videonsa.methods.contract import make_batch
from videonsa.methods.registry import make
from videonsa.methods.visionzip import VisionZip
from videonsa.methods.vscan import VScan, ranks_in_group, two_scans

CONFIG = SimpleNamespace(text_config=SimpleNamespace(num_hidden_layers=28))


def test_visionzip_by_hand():
    """8 tokens: 6 and 7 are dominant; of the rest 0 and 3 are targets, 1 and 4 join 0, 2 and 5 join 3 by their keys."""
    method = VisionZip(make("visionzip", {"dominant": 0.25, "contextual": 0.25}), CONFIG)
    received = tensor([[5.0, 1, 4, 2, 0, 3, 9, 8]])
    keys = tensor([[[1.0, 0], [2, 0.1], [0, 5], [0, 1], [1, 0.9], [-1, 0.2], [0, 0], [0, 0]]])
    tokens = 2.0 ** torch.arange(8)[None, :, None]
    kept, merged = method.merge(tokens, {"last": received, "last.keys": keys}, (2, 4))
    assert kept.tolist() == [[0, 3, 6, 7]]
    assert merged[..., 0].tolist() == [[1 + (2 + 16) / 2, 8 + (4 + 32) / 2, 64.0, 128.0]]


def test_a_target_that_nothing_joins_stays_what_it_is():
    method = VisionZip(make("visionzip", {"dominant": 0.5, "contextual": 0.5}), CONFIG)
    tokens, keys = torch.randn(3, 4, 2), torch.randn(3, 4, 5)
    kept, merged = method.merge(tokens, {"last": torch.rand(3, 4), "last.keys": keys}, (2, 2))
    assert kept.tolist() == [[0, 1, 2, 3]] * 3
    assert torch.equal(merged, tokens)


@pytest.mark.parametrize(("dominant", "contextual", "kept"), [(0.65, 0.05, 3), (0.1, 0.05, 1), (0.9, 0.5, 4)])
def test_counts_of_a_small_patch(dominant, contextual, kept):
    """4 tokens: 2 and at least 1; 0 and 1; no more than there are."""
    method = VisionZip(make("visionzip", {"dominant": dominant, "contextual": contextual}), CONFIG)
    seen = {"last": torch.rand(1, 4), "last.keys": torch.randn(1, 4, 3)}
    assert method.merge(torch.randn(1, 4, 2), seen, (2, 2))[0].shape == (1, kept)


def test_ranks_in_a_group():
    scores, group = tensor([[3.0, 9, 3, 1, 5]]), tensor([0, 1, 0, 0, 1])
    assert ranks_in_group(scores, group).tolist() == [[0, 0, 1, 2, 1]]


def test_two_scans_by_hand():
    """4 x 8 tokens, so two windows. 4 by the local scan, 2 of a window at most; then 4 by the global one."""
    local = torch.zeros(1, 4, 8)
    local[0, 0, :4] = tensor([9.0, 8, 7, 6])  # all in the left window
    local[0, 3, 4:6] = tensor([0.2, 0.1])  # in the right one
    everywhere = torch.zeros(1, 32)
    everywhere[0, [0, 2, 3, 31, 30]] = tensor([9.0, 5, 4, 3, 2])  # 0 is kept by the local scan
    kept = two_scans(local.flatten(1), everywhere, (4, 8), 8)
    assert kept.tolist() == [[0, 1, 2, 3, 28, 29, 30, 31]]


def one_by_one(local, everywhere, size, count):
    """Tokens by descending local score, each while its window has room; then the best others."""
    height, width = size
    down, across = max(1, height // 4), max(1, width // 4)
    room = {(row, column): -(-(count // 2) // (down * across)) for row in range(down) for column in range(across)}
    kept = []
    for token in local.argsort(descending=True).tolist():
        window = min(token // width // 4, down - 1), min(token % width // 4, across - 1)
        if len(kept) < count // 2 and room[window]:
            room[window] -= 1
            kept.append(token)
    others = [token for token in everywhere.argsort(descending=True).tolist() if token not in kept]
    return sorted(kept + others[: count - count // 2])


@pytest.mark.parametrize("size", [(4, 4), (9, 11), (3, 10), (1, 6), (2, 2), (16, 8)], ids=str)
def test_two_scans_one_by_one(size):
    local, everywhere = torch.rand(2, 3, size[0] * size[1], generator=torch.Generator().manual_seed(0))
    for count in {1, size[0] * size[1] // 3 + 1, size[0] * size[1] - 1, size[0] * size[1]}:
        expected = [one_by_one(a, b, size, count) for a, b in zip(local, everywhere, strict=True)]
        assert two_scans(local, everywhere, size, count).tolist() == expected


def test_vscan_averages_what_joins_a_kept_token():
    """Kept are 1 (local) and 2 (global); 0 is nearest to 1, 3 to 2, by the features themselves."""
    method = VScan(make("vscan", {"keep": 0.5}), CONFIG)
    tokens = tensor([[[1.0, 0.2], [4.0, 0.0], [0.0, 2.0], [0.1, 9.0]]])
    seen = {"local": tensor([[0.0, 9, 1, 2]]), "global": tensor([[0.0, 9, 5, 2]])}
    kept, merged = method.merge(tokens, seen, (2, 2))
    assert kept.tolist() == [[1, 2]]
    torch.testing.assert_close(merged, tensor([[[2.5, 0.1], [0.05, 5.5]]]))


def test_vscan_keeps_at_least_one_of_a_patch():
    method = VScan(make("vscan", {}), CONFIG)
    seen = {"local": torch.rand(2, 4), "global": torch.rand(2, 4)}
    kept, merged = method.merge(torch.randn(2, 4, 3), seen, (2, 2))
    assert kept.tolist() == seen["global"].argmax(dim=1, keepdim=True).tolist()
    assert merged.shape == (2, 1, 3)


def padded_batch():
    """Rows of 6 places: text, 3 vision, text, padding; padding, text, 2 vision, text, text."""
    is_vision = tensor([[0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0]]).bool()
    return make_batch(is_vision, tensor([[1, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1]]))


def test_the_highest_of_each_row_are_kept():
    scores = [tensor([9.0, 0.2, 0.5, 0.3, 9.0]), tensor([9.0, 0.1, 0.1, 9.0, 9.0])]
    mask = keep_highest(padded_batch(), scores, lambda count: count - 1)
    assert mask.int().tolist() == [[1, 0, 1, 1, 1, 0], [0, 1, 1, 0, 1, 1]]
    assert not (keep_highest(padded_batch(), scores, lambda count: 0) & padded_batch().is_vision).any()


def test_a_batch_of_what_is_left():
    batch = padded_batch()
    mask = keeping(batch, [tensor([2]), tensor([2, 3])])
    left, places = batch.narrowed(mask)
    assert left.is_token.tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    assert places[0, :3].tolist() == [0, 2, 4]
    assert places[1].tolist() == [1, 2, 3, 4, 5]
    assert left.is_vision.int().tolist() == [[0, 1, 0, 0, 0], [0, 1, 1, 0, 0]]
    assert left.lengths == [3, 5]
    assert [rows.tolist() for rows, _ in by_row(left)] == [[0, 1, 2], [0, 1, 2, 3, 4]]
