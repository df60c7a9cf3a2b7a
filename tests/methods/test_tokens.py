"""The arithmetic of dropping tokens, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import tensor

from videonsa.methods import tokens


@pytest.mark.parametrize(
    ("share", "count", "expected"), [(0.57, 100, 57), (0.65, 4, 2), (0.167, 4, 0), (0.333, 9, 2), (1.0, 7, 7)]
)
def test_a_share_is_cut_to_whole_tokens(share, count, expected):
    assert tokens.whole(share, count) == expected


def test_of_equal_scores_the_earlier_is_kept():
    assert tokens.top(tensor([0.1, 0.4, 0.2, 0.4, 0.2]), 3).tolist() == [1, 2, 3]
    assert tokens.top(torch.zeros(5), 2).tolist() == [0, 1]


def test_even_spacing():
    assert tokens.evenly(4, 8).tolist() == [0, 2, 4, 6]
    assert tokens.evenly(3, 10).tolist() == [0, 3, 6]
    assert tokens.evenly(5, 5).tolist() == [0, 1, 2, 3, 4]


def test_a_draw_depends_on_its_seed_alone():
    first = tokens.at_random(5, 20, seed=3)
    torch.rand(7)
    assert first.tolist() == tokens.at_random(5, 20, seed=3).tolist() == sorted(set(first.tolist()))
    assert first.tolist() != tokens.at_random(5, 20, seed=4).tolist()
    assert tokens.at_random(20, 20, seed=3).tolist() == list(range(20))


def test_a_seed_is_of_the_content():
    ids, pixels = tensor([1, 2, 3]), tensor([0.5, 0.25])
    assert tokens.seed_of(0, [ids, pixels]) == tokens.seed_of(0, [ids.clone(), pixels.clone()])
    others = {tokens.seed_of(0, [ids, pixels]), tokens.seed_of(1, [ids, pixels]), tokens.seed_of(0, [ids])}
    assert len(others | {tokens.seed_of(0, [ids, pixels + 1])}) == 4


def test_scores_of_the_last_token():
    """Two query heads of one key head: softmax of (0, ln 3) and of (ln 1, ln 1) over two keys."""
    log3 = torch.log(tensor(3.0))
    query = torch.stack([tensor([log3, 0.0]), tensor([0.0, 0.0])])
    key = tensor([[[0.0, 1.0]], [[2.0, 1.0]]])
    scores = tokens.last_token_scores(query[None], key, scale=0.5)
    torch.testing.assert_close(scores, (tensor([0.25, 0.75]) + tensor([0.5, 0.5])) / 2)


def test_query_heads_read_the_key_head_of_their_group():
    query = torch.zeros(4, 2)
    query[2:] = tensor([10.0, 0.0])  # heads 2 and 3 read key head 1
    key = torch.zeros(3, 2, 2)
    key[2, 1, 0] = 10.0
    key[0, 0, 0] = 99.0  # head 0's queries are zeros: no effect
    scores = tokens.last_token_scores(query[None], key, scale=1.0)
    torch.testing.assert_close(scores, tensor([1 / 6, 1 / 6, 1 / 6 + 0.5]))


def test_nearest_is_by_direction():
    features = tensor([[[9.0, 1.0], [0.1, 0.2], [-1.0, 0.0]]])
    targets = tensor([[[0.0, 5.0], [0.01, 0.0]]])
    assert tokens.nearest(features, targets).tolist() == [[1, 0, 0]]


def test_means_by_target():
    """Of two patches; a target without tokens gets 0."""
    given = tensor([[[1.0], [2.0], [4.0], [8.0]], [[1.0], [1.0], [1.0], [3.0]]])
    means = tokens.means_by_target(given, tensor([[2, 0, 2, 0], [1, 1, 1, 1]]), 3)
    assert means.tolist() == [[[5.0], [0.0], [2.5]], [[0.0], [1.5], [0.0]]]


def test_others():
    assert tokens.others(tensor([[0, 3], [1, 2]]), 5).tolist() == [[1, 2, 4], [0, 3, 4]]
