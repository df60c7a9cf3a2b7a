"""The tables that tell kernels where sequences, blocks, tiles and chunks lie. No GPU and no triton needed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videonsa.kernels.plan import Plan, make_plan

CPU = torch.device("cpu")
RAGGED = Plan((0, 5, 5, 6, 40), 8, CPU)  # lengths 5, 0, 1, 34: 1, 0, 1 and 5 blocks, of which the last are partial


def test_tokens_know_their_position_and_their_blocks():
    assert RAGGED.position().tolist() == [*range(5), 0, *range(34)]
    assert RAGGED.block_ends == (0, 1, 2, 7)
    assert RAGGED.first_block().tolist() == [0] * 5 + [1] + [2] * 34
    whole = [2 + i // 8 for i in range(32)]
    assert RAGGED.whole_block().tolist() == [-1] * 6 + whole + [-1, -1]
    assert RAGGED.block_range().tolist() == [[0, 5], [5, 6], [6, 14], [14, 22], [22, 30], [30, 38], [38, 40]]


lengths = st.lists(st.integers(0, 70), min_size=1, max_size=5).filter(any)


@settings(max_examples=40, deadline=None)
@given(lengths, st.sampled_from([16, 32]), st.sampled_from([8, 64]), st.booleans())
def test_tiles_cover_everything_once_and_cross_no_border(lengths, size, tile, compressed):
    ends = (0, *torch.tensor(lengths).cumsum(0).tolist())
    plan = Plan(ends, size, CPU)
    sequence = {token: i for i, (a, b) in enumerate(plan.sequences) for token in range(a, b)}
    queries = [q for first, end, _ in plan.query_tiles(tile, compressed).tolist() for q in range(first, end)]
    assert queries == list(range(plan.tokens))
    for first, end, first_key in plan.query_tiles(tile, compressed).tolist():
        start, stop = plan.sequences[sequence[first]]
        assert start <= first < end <= stop
        assert first_key == (plan.block_ends[sequence[first]] if compressed else start)
    covered = [k for first, end, *_ in plan.key_tiles(tile, compressed).tolist() for k in range(first, end)]
    assert len(covered) == len(set(covered)) == sum((b - a) // size if compressed else b - a for a, b in plan.sequences)


@settings(max_examples=40, deadline=None)
@given(lengths, st.integers(1, 80), st.sampled_from([8, 64]))
def test_prefix_tiles_cover_the_first_tokens_of_each_sequence(lengths, tokens, tile):
    plan = Plan((0, *torch.tensor(lengths).cumsum(0).tolist()), 16, CPU)
    prefix = [token for a, b in plan.sequences for token in range(a, min(b, a + tokens))]
    assert plan.prefix(tokens).tolist() == prefix
    assert [
        q for first, end, _ in plan.query_tiles(tile, False, prefix=tokens).tolist() for q in range(first, end)
    ] == prefix
    for first, end, base, first_query, end_query, row in plan.key_tiles(tile, False, prefix=tokens).tolist():
        assert prefix[row : row + end - first] == list(range(first, end))
        start, stop = next((a, b) for a, b in plan.sequences if a <= first < b)
        assert (base, first_query, end_query) == (start, start, min(stop, start + tokens))


@settings(max_examples=40, deadline=None)
@given(lengths, st.integers(1, 50))
def test_chunks_hold_the_blocks_that_their_queries_see(lengths, most):
    plan = Plan((0, *torch.tensor(lengths).cumsum(0).tolist()), 16, CPU)
    chunks = plan.chunks(most)
    assert [chunk.start for chunk in chunks] == list(range(0, plan.tokens, most))
    own = plan.first_block() + plan.position() // 16
    for chunk in chunks:
        inside = slice(chunk.start, chunk.end)
        assert chunk.first_block == int(plan.first_block()[inside].min())
        assert chunk.last_block == int(own[inside].max()) + 1
        assert chunk.columns == int((own - plan.first_block())[inside].max()) + 1
        tiles = plan.query_tiles(7, True, chunk).tolist()
        assert [q for first, end, *_ in tiles for q in range(first, end)] == list(range(chunk.start, chunk.end))


def test_queries_of_the_last_tokens_have_an_axis_of_their_own():
    plan = make_plan(torch.zeros(1, 13, 1), None, 8, keys=34)  # blocks 0, 1 and half of 2 have none
    assert (plan.first_query, plan.queries, plan.tokens) == (21, 13, 34)
    assert plan.position().tolist() == plan.token().tolist() == list(range(21, 34))
    assert (plan.first_block().tolist(), plan.first_block_seen().tolist()) == ([0] * 34, [0] * 13)
    assert plan.query_tiles(8, False).tolist() == [[0, 8, 0], [8, 13, 0]]
    assert plan.query_tiles(8, False, prefix=24).tolist() == [[0, 3, 0]]
    assert plan.query_tiles(8, False, prefix=16).tolist() == []
    assert plan.key_tiles(20, False).tolist() == [[0, 20, 0, -21, 13, 0], [20, 34, 0, -21, 13, 20]]
    found = [(chunk.start, chunk.end, chunk.token, chunk.columns) for chunk in plan.chunks(8)]
    assert found == [(0, 8, 21, 4), (8, 13, 29, 5)]


def test_a_batch_is_packed_row_after_row():
    assert make_plan(torch.zeros(3, 4, 1), None, 16).ends == (0, 4, 8, 12)


def test_a_changed_cu_seqlens_is_read_again():
    query, ends = torch.zeros(1, 6, 1), torch.tensor([0, 2, 6], dtype=torch.int32)
    assert make_plan(query, ends, 16).ends == (0, 2, 6)
    ends[1] = 4
    assert make_plan(query, ends, 16).ends == (0, 4, 6)
    with torch.inference_mode():
        assert make_plan(query, torch.tensor([0, 3, 6]), 16).ends == (0, 3, 6)


@pytest.mark.parametrize("ends", [[0, 5], [1, 6], [0, 4, 3, 6]])
def test_borders_that_do_not_fit_are_refused(ends):
    with pytest.raises(ValueError, match="rise from 0 to 6"):
        make_plan(torch.zeros(1, 6, 1), torch.tensor(ends), 16)
