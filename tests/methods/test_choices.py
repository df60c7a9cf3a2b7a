"""What the training-free sparse prefills choose: by hand on small inputs, and what holds on any."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import relative_error
from videonsa.kernels.block_sparse import block_sparse_attention
from videonsa.methods.contract import dense_attention
from videonsa.methods.diagonals import blocks_of_diagonals
from videonsa.methods.estimate import best, diagonal_sums, fewest, last_attention
from videonsa.methods.flexprefill import distance, flexprefill_choice, query_aware_blocks
from videonsa.methods.minference import vertical_slash_choice
from videonsa.methods.tri_shape import tri_shape_choice
from videonsa.methods.xattention import block_scores, xattention_choice

CPU = torch.device("cpu")


def picture(mask):
    """bool [L, L] as lines of # and ."""
    return ["".join("#" if seen else "." for seen in row) for row in mask.tolist()]


def weights(*numbers):
    """Queries and keys of one head with attention in proportion to these numbers, whatever the query; scale 1."""
    key = torch.tensor(numbers, dtype=torch.float32).log().view(-1, 1, 1)
    return torch.ones_like(key), key


def inputs(length, heads=4, kv_heads=2, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (torch.randn(length, h, size, generator=generator) for h in (heads, kv_heads, kv_heads))
    return query * 2, key, value


# --- by hand


def test_tri_shape_by_hand():
    choice = tri_shape_choice(10, 2, n_init=1, n_local=3, n_last=2, block_size=2, device=CPU)
    assert picture(choice.mask()[1]) == [
        "#.........",
        "##........",
        "###.......",
        "####......",
        "#.###.....",
        "#..###....",
        "#...###...",
        "#....###..",
        "#########.",
        "##########",
    ]
    assert choice.pairs().tolist() == [45, 45]


@pytest.mark.parametrize(("length", "dense"), [(1, True), (5, True), (6, False), (9, False)])
def test_tri_shape_is_dense_where_what_comes_before_the_last_queries_fits_the_window(length, dense):
    assert (tri_shape_choice(length, 1, n_init=0, n_local=3, n_last=2, block_size=4, device=CPU) is None) == dense


def test_tri_shape_without_last_queries_or_sink_is_a_window():
    choice = tri_shape_choice(9, 1, n_init=0, n_local=2, n_last=0, block_size=4, device=CPU)
    i, j = torch.arange(9)[:, None], torch.arange(9)
    assert torch.equal(choice.mask()[0], (j <= i) & (i - j < 2))


def test_last_attention_and_its_diagonals_by_hand():
    query, key = weights(1, 2, 1, 4)
    (attention,) = last_attention(query, key, 2, scale=1.0)
    assert attention[0].flatten().tolist() == pytest.approx([1 / 4, 2 / 4, 1 / 4, 0, 1 / 8, 2 / 8, 1 / 8, 4 / 8])
    assert diagonal_sums(attention)[0].tolist() == pytest.approx([1 / 4 + 4 / 8, 2 / 4 + 1 / 8, 1 / 4 + 2 / 8, 1 / 8])


def test_minference_by_hand():
    """The last two queries see mostly key 2: its column, and its diagonals 4 and 5, of which 4 has the larger sum."""
    query, key = weights(1, 1, 16, 1, 1, 1, 1, 1)
    sizes = {"last_queries": 2, "first_columns": 1, "recent_diagonals": 1, "least_diagonals": 1, "block_size": 2}
    choice = vertical_slash_choice(query, key, 1.0, [2], [2], **sizes)
    assert choice.columns.tolist() == [[0, 2]]
    assert picture(choice.mask()[0]) == [
        "#.......",
        "##......",
        "#.#.....",
        "#.##....",
        "###.#...",
        "###.##..",
        "#.##..#.",
        "#.##..##",
    ]
    assert choice.pairs().tolist() == [26]


def test_minference_has_at_least_its_first_columns_and_least_diagonals():
    query, key, _ = inputs(40)
    sizes = {"last_queries": 4, "first_columns": 3, "recent_diagonals": 6, "least_diagonals": 5, "block_size": 1}
    choice = vertical_slash_choice(query, key, 1.0, [0, 1, 2, 3], [1, 1, 5, 6], **sizes)
    assert choice.columns.tolist() == [[0, 1, 2]] * 4
    i, j = torch.arange(40)[:, None], torch.arange(40)
    for head, nearest in enumerate((5, 5, 5, 6)):  # blocks of one key are the diagonals themselves
        assert torch.equal(choice.mask()[head], (j <= i) & ((i - j < nearest) | (j < 3)))


def walk(diagonals, end, size):
    """The blocks of one block of queries that ends before `end`, one diagonal after the other, farthest first."""
    blocks = []
    for diagonal in sorted(diagonals, reverse=True):
        touched_end = max(end - diagonal, size)
        if diagonal >= end:
            continue
        if not blocks or touched_end > blocks[-1] + 2 * size:
            blocks.append(touched_end - size)
        elif touched_end > blocks[-1] + size:
            blocks.append(blocks[-1] + size)
    return blocks


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 50), st.integers(1, 9))
def test_blocks_of_diagonals_are_those_of_a_walk_over_them(data, length, size):
    chosen = [{0, *data.draw(st.sets(st.integers(0, length - 1)))} for _ in range(2)]
    mask = torch.zeros(2, length, dtype=torch.bool)
    for head, diagonals in enumerate(chosen):
        mask[head, list(diagonals)] = True
    starts, counts = blocks_of_diagonals(mask, size)
    for head, block in itertools.product(range(2), range(starts.shape[1])):
        found = starts[head, block, : counts[head, block]].tolist()
        assert found == walk(chosen[head], (block + 1) * size, size)


def test_flexprefill_vertical_slash_by_hand():
    """Key 2 holds 0.71 of the last two queries' attention, diagonals 4 and 5 hold 0.39 and 0.37: one token is one block
    of two columns (the first), two are two blocks of two diagonals (the main one, and the one of diagonals 4 and 5)."""
    query, key = weights(1, 1, 16, 1, 1, 1, 1, 1)
    sizes = {"tau": 0.0, "min_budget": 1, "block_size": 2}
    choice = flexprefill_choice(query, key, 1.0, gamma=0.7, **sizes)
    blocks = [[0], [0, 1], [0, 2], [0, 1, 3]]
    assert [row[:n] for row, n in zip((choice.starts[0] // 2).tolist(), choice.counts[0], strict=True)] == blocks
    assert choice.pairs().tolist() == [3 + 7 + 7 + 11]
    wider = flexprefill_choice(query, key, 1.0, gamma=0.75, **sizes)  # takes a second column, so a second block
    assert wider.counts.tolist() == [[1, 2, 3, 3]]
    least = flexprefill_choice(query, key, 1.0, gamma=0.75, tau=0.0, min_budget=6, block_size=2)
    assert least.counts.tolist() == [[1, 2, 3, 4]]  # columns of blocks 0, 1 and one more; diagonals 0, 2 and one more
    most = flexprefill_choice(query, key, 1.0, gamma=0.75, max_budget=1, **sizes)
    assert most.counts.tolist() == [[1, 2, 2, 2]]  # the forced ones


def test_flexprefill_query_aware_by_hand():
    """Block means are 0, log 4, 0, 0: rows of 1; 1/5, 4/5; 1/6, 4/6, 1/6; 1/7, 4/7, ...: 2 of 4 are 1 + 4/5 + 4/6."""
    query, key = weights(1, 1, 16, 1, 1, 1, 1, 1)
    choice = flexprefill_choice(query, key, 1.0, gamma=0.5, tau=0.84, min_budget=1, block_size=2)
    blocks = [[0], [0, 1], [0, 1, 2], [0, 3]]
    assert [row[:n] for row, n in zip((choice.starts[0] // 2).tolist(), choice.counts[0], strict=True)] == blocks
    scores = torch.tensor([0, math.log(4), 0, 0]).expand(4, 4)
    assert query_aware_blocks(scores, 0.5).nonzero().tolist() == [[0, 0], [1, 1], [2, 1]]


def test_distance_of_distributions():
    left, right = torch.tensor([[1.0, 0], [0.5, 0.5]]), torch.tensor([[0, 1.0], [0.5, 0.5]])
    assert distance(left, right).tolist() == pytest.approx([math.log(2) ** 0.5, 0])
    assert distance(left, left.flip(0))[0] == pytest.approx(
        ((math.log(1 / 0.75) + 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)) / 2) ** 0.5
    )


def test_xattention_by_hand():
    """Products of keys in groups of two are 1, 4, 1, 1; half of the scale for a stride of two: rows 1; 1, 4; ..."""
    query, key = weights(1, 1, 4, 1, 1, 1, 1, 1)
    for threshold, last_row in ((0.28, [0, 3]), (0.8, [0, 1, 3]), (0.9, [0, 1, 2, 3])):
        choice = xattention_choice(query, key, 2.0, threshold=threshold, stride=2, block_size=2)
        assert (choice.starts[0, 3, : choice.counts[0, 3]] // 2).tolist() == last_row
    assert choice.pairs().tolist() == [36]


@pytest.mark.parametrize(("length", "stride", "block"), [(8, 2, 4), (9, 2, 4), (11, 4, 4), (13, 1, 3), (7, 3, 6)])
def test_xattention_sums_antidiagonals(length, stride, block):
    query, key, _ = inputs(length, heads=2, kv_heads=1)
    blocks, groups = -(-length // block), -(-length // stride)
    expected = torch.zeros(2, blocks, blocks)
    for head, row in itertools.product(range(2), range(groups)):
        scores = torch.zeros(row + 1)
        for column, s in itertools.product(range(row + 1), range(stride)):
            i, j = row * stride + stride - 1 - s, column * stride + s
            if i < length and j < length:
                scores[column] += query[i, head] @ key[j, 0] * 0.5 / stride
        for column, probability in enumerate(scores.softmax(0)):
            expected[head, row * stride // block, column * stride // block] += probability
    found = block_scores(query.transpose(0, 1), key[:, 0], 0.5, stride, block)
    assert torch.allclose(found, expected, atol=1e-5)


def test_xattention_in_chunks_is_the_same(monkeypatch):
    query, key, _ = inputs(61)
    whole = xattention_choice(query, key, 0.5, threshold=0.7, stride=2, block_size=4)
    monkeypatch.setattr("videonsa.methods.xattention.CHUNK_ELEMENTS", 1)
    assert torch.equal(xattention_choice(query, key, 0.5, threshold=0.7, stride=2, block_size=4).mask(), whole.mask())


def test_best_and_fewest_take_the_first_of_equals_and_no_nan():
    scores = torch.tensor([[1.0, 3, 3, math.nan, 2], [0, 0, 0, 0, 0]])
    assert best(scores, torch.tensor([3, 2])).nonzero()[:, 1].tolist() == [1, 2, 4, 0, 1]
    mass = torch.tensor([[0.1, 0.3, 0.3, 0.3], [0.25, 0.25, 0.25, 0.25], [1, 0, 0, 0], [math.nan, 0.5, 0.5, 0]])
    needed = torch.tensor([[0.6], [0.5], [0.0], [2.0]])
    assert fewest(mass, needed).nonzero().tolist() == [[0, 1], [0, 2], [1, 0], [1, 1], [3, 1], [3, 2]]
    seventh = torch.full((1, 7), 1 / 7)  # 3/7 as float32 sums may lie below what is asked; three reach it all the same
    assert fewest(seventh, torch.tensor([[3 / 7]])).sum() == 3


# --- by loops over the definition, where no sum is near to what is asked


def probabilities(query, key, scale, head):
    """Causal attention of one query head, float64 [L, L]."""
    group = query.shape[1] // key.shape[1]
    scores = query[:, head].double() @ key[:, head // group].double().T * scale
    return scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -math.inf).softmax(-1)


def fewest_by_a_loop(mass, needed):
    """Places in falling order of mass until their sum reaches what is needed."""
    taken, total = [], 0.0
    for place in sorted(range(len(mass)), key=lambda place: -mass[place]):
        if total >= needed:
            break
        taken.append(place)
        total += mass[place]
    return taken


def chosen_blocks(choice, head, row):
    return set((choice.starts[head, row, : choice.counts[head, row]] // choice.block_size).tolist())


@pytest.mark.parametrize("length", [13, 31, 48])
def test_minference_by_a_loop(length):
    query, key, _ = inputs(length)
    vertical, slash = [2, 3, 5, 8], [3, 4, 2, 1]
    sizes = {"last_queries": 5, "first_columns": 1, "recent_diagonals": 2, "least_diagonals": 1, "block_size": 4}
    choice = vertical_slash_choice(query, key, 0.5, vertical, slash, **sizes)
    for head in range(4):
        last = probabilities(query, key, 0.5, head)[-5:]
        columns = last.sum(0).tolist()
        diagonals = [
            sum(float(last[r, length - 5 + r - d]) for r in range(5) if length - 5 + r >= d) for d in range(length)
        ]
        columns[0] = diagonals[0] = diagonals[1] = math.inf
        best_columns = sorted(sorted(range(length), key=lambda place: -columns[place])[: vertical[head]])
        best_diagonals = sorted(range(length), key=lambda place: -diagonals[place])[: slash[head]]
        assert [place for place in choice.columns[head].tolist() if place >= 0] == best_columns
        for block in range(choice.blocks):
            found = choice.starts[head, block, : choice.counts[head, block]].tolist()
            assert found == walk({0, *best_diagonals}, (block + 1) * 4, 4)


@pytest.mark.parametrize("tau", [0.0, 0.84])
@pytest.mark.parametrize("length", [13, 31, 48])
def test_flexprefill_by_a_loop(length, tau):
    query, key, _ = inputs(length)
    size, gamma, blocks = 4, 0.6, -(-length // 4)
    choice = flexprefill_choice(query, key, 0.5, gamma=gamma, tau=tau, min_budget=5, max_budget=16, block_size=size)
    for head in range(4):
        last = probabilities(query, key, 0.5, head)[-size:]
        column = (last.sum(0) / size).tolist()
        diagonal = [0.0] * length
        for r, j in itertools.product(range(size), range(length)):
            if (d := length - size + r - j) >= 0:
                diagonal[d] += float(last[r, j]) / size
        expected = {(r, c) for r in range(blocks) for c in (0, r)}
        by_column, by_diagonal = [0.0] * blocks, [0.0] * blocks
        for j in range(length):
            by_column[j // size] += column[j]
            by_diagonal[blocks - 1 - (length - 1 - j) // size] += diagonal[j]
        for mass, sums, place in ((column, by_column, "column"), (diagonal, by_diagonal, "diagonal")):
            count = len(fewest_by_a_loop(mass, gamma)) // size + 1 if tau == 0 else 2
            sums[0] = math.inf
            for chosen in sorted(range(blocks), key=lambda block: -sums[block])[: min(max(count, 2), 4)]:
                expected |= {(r, chosen if place == "column" else r - chosen) for r in range(chosen, blocks)}
        if tau > 0:
            means = [tensor[:, h].double().split(size) for tensor, h in ((query, head), (key, head // 2))]
            q, k = (torch.stack([block.mean(0) for block in parts]) for parts in means)
            scores = (q @ k.T * 0.5).masked_fill(torch.ones(blocks, blocks).triu(1).bool(), -math.inf)
            flat = scores.softmax(-1).flatten().tolist()
            expected |= {divmod(place, blocks) for place in fewest_by_a_loop(flat, gamma * blocks)}
        found = {(row, block) for row in range(blocks) for block in chosen_blocks(choice, head, row)}
        assert found == expected


@pytest.mark.parametrize("length", [13, 31, 48])
def test_xattention_by_a_loop(length):
    query, key, _ = inputs(length)
    choice = xattention_choice(query, key, 0.5, threshold=0.7, stride=2, block_size=4)
    for head in range(4):
        scores = block_scores(query[:, head : head + 1].transpose(0, 1), key[:, head // 2], 0.5, 2, 4)[0].tolist()
        for row, mass in enumerate(scores):
            others = [0.0 if block in (0, row) else value for block, value in enumerate(mass)]
            needed = 0.7 * sum(mass) - sum(mass[block] for block in {0, row})
            assert chosen_blocks(choice, head, row) == {0, row, *fewest_by_a_loop(others, needed)}


# --- what holds on any input

METHODS = {
    "tri_shape": lambda q, k, s: tri_shape_choice(len(q), q.shape[1], 3, 5, 2, 4, q.device),
    "minference": lambda q, k, s: vertical_slash_choice(
        *(q, k, s, [2, 3, 5, 8], [3, 4, 2, 1]),
        **{"last_queries": 5, "first_columns": 1, "recent_diagonals": 2, "least_diagonals": 1, "block_size": 4},
    ),
    "flexprefill": lambda q, k, s: flexprefill_choice(q, k, s, gamma=0.6, tau=0.3, min_budget=3, block_size=4),
    "xattention": lambda q, k, s: xattention_choice(q, k, s, threshold=0.6, stride=2, block_size=4),
}
EVERYTHING = {
    "tri_shape": lambda q, k, s: tri_shape_choice(len(q), q.shape[1], 0, len(q), 0, 4, q.device),
    "minference": lambda q, k, s: vertical_slash_choice(q, k, s, [len(q)] * 2 + [1] * 2, [1] * 2 + [len(q)] * 2),
    "flexprefill": lambda q, k, s: flexprefill_choice(q, k, s, min_budget=len(q), block_size=4),
    "flexprefill, gamma": lambda q, k, s: flexprefill_choice(q, k, s, gamma=1.0, min_budget=1, block_size=4),
    "xattention": lambda q, k, s: xattention_choice(q, k, s, threshold=1.0, stride=2, block_size=4),
}
LENGTHS = (1, 2, 7, 33, 64, 75)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("method", EVERYTHING)
def test_budgets_of_the_whole_sample_are_dense(method, length):
    query, key, _ = inputs(length)
    assert EVERYTHING[method](query, key, 0.3) is None


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("method", METHODS)
def test_choices_are_causal_sorted_and_hold_their_own_query(method, length):
    query, key, _ = inputs(length)
    choice = METHODS[method](query, key, 0.5)
    if choice is None:
        assert length <= 8  # two blocks
        return
    mask = choice.mask()
    assert mask.diagonal(dim1=1, dim2=2).all()
    assert not mask.triu(1).any()
    assert torch.equal(choice.pairs(), mask.sum((1, 2)))
    starts = choice.starts.masked_fill(torch.arange(choice.starts.shape[-1]) >= choice.counts[..., None], 10**6)
    assert (starts >= 0).all()
    steps = starts.diff(dim=-1)
    assert ((steps >= choice.block_size) | (starts[..., 1:] == 10**6)).all()
    if length >= 33:
        assert choice.pairs().sum() < 4 * length * (length + 1) // 2


def test_a_dense_head_beside_others():
    query, key, value = inputs(45)
    sizes = {"last_queries": 5, "first_columns": 1, "recent_diagonals": 2, "least_diagonals": 1, "block_size": 4}
    choice = vertical_slash_choice(query, key, 0.5, [45, 3, 0, 3], [1, 60, 2, 3], **sizes)
    pairs = choice.pairs().tolist()
    assert pairs[:2] == [45 * 46 // 2] * 2
    assert max(pairs[2:]) < 45 * 46 // 2
    output = block_sparse_attention(query, key, value, choice, 0.5)
    assert relative_error(output[:, :2], dense_attention(query, key, value, 0.5)[:, :2]) < 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_key_heads_serve_their_groups(method):
    query, key, _ = inputs(45)
    alone = METHODS[method](query, key.repeat_interleave(2, dim=1), 0.5)
    assert torch.equal(METHODS[method](query, key, 0.5).mask(), alone.mask())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("where", ["query", "key", "all"])
def test_nan_is_chosen_around(method, where):
    query, key, _ = inputs(45)
    for name, tensor in (("query", query), ("key", key)):
        if where in (name, "all"):
            tensor[-2 if where != "all" else slice(None)] = math.nan
    mask = METHODS[method](query, key, 0.5).mask()
    assert mask.diagonal(dim1=1, dim2=2).all()


def changed_from(tensor, place):
    other = tensor.clone()
    other[place:] = other[place:].flip(0) * 3 + 1
    return other


def test_xattention_sees_no_token_after_a_block_of_queries():
    query, key, _ = inputs(64)
    before = METHODS["xattention"](query, key, 0.5).mask()
    after = METHODS["xattention"](changed_from(query, 40), changed_from(key, 40), 0.5).mask()
    assert torch.equal(before[:, :40], after[:, :40])
    assert not torch.equal(before, after)


def test_minference_sees_the_last_queries_and_all_keys():
    query, key, _ = inputs(64)
    chosen = METHODS["minference"](query, key, 0.5).mask()
    others = torch.cat([changed_from(query[:-5], 0), query[-5:]])
    assert torch.equal(METHODS["minference"](others, key, 0.5).mask(), chosen)
    assert not torch.equal(METHODS["minference"](changed_from(query, 59), key, 0.5).mask()[:, :59], chosen[:, :59])


def test_flexprefill_sees_the_last_block_of_queries_unless_it_is_query_aware():
    query, key, _ = inputs(64)
    others = torch.cat([changed_from(query[:-4], 0), query[-4:]])
    sizes = {"gamma": 0.6, "min_budget": 1, "block_size": 4}
    for tau, same in ((0.0, True), (0.84, False)):
        one, other = (flexprefill_choice(q, key, 0.5, tau=tau, **sizes).mask() for q in (query, others))
        assert torch.equal(one, other) == same


def test_a_larger_share_keeps_more():
    query, key, _ = inputs(64)
    shares = (0.2, 0.5, 0.8, 0.95)
    for choose in (
        lambda share: xattention_choice(query, key, 0.5, threshold=share, stride=2, block_size=4),
        lambda share: flexprefill_choice(query, key, 0.5, gamma=share, tau=0.84, min_budget=1, block_size=4),
        lambda share: flexprefill_choice(query, key, 0.5, gamma=share, tau=0, min_budget=1, block_size=4),
    ):
        pairs = [choose(share).pairs().sum() for share in shares]
        assert pairs == sorted(pairs)
        assert pairs[0] < pairs[-1]
