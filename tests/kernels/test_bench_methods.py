"""The benchmark of sparse prefills: its data are what they say, and nothing wrong is timed."""

from __future__ import annotations

import csv

import pytest
import torch

from videonsa.bench import methods
from videonsa.bench.case import Case
from videonsa.bench.check import CheckFailed
from videonsa.bench.lifelike import FRAME, SHARES, SINKS, lifelike
from videonsa.bench.rows import append
from videonsa.kernels.block_sparse import KeyChoice, block_sparse_attention

CASE = Case(300, 4, 2, 16, 64, 32, 256, "bfloat16", "random")


@pytest.fixture(scope="module")
def made():
    return lifelike(4096, 14, 2, dtype=torch.float32, seed=3)


def attention(made, head, row):
    """Of a query to the keys up to itself."""
    scores = made.key[: row + 1, head // 7] @ made.query[row, head] / 128**0.5
    return scores.softmax(0)


def test_shares_are_drawn_about_their_means_and_differ_by_head(made):
    assert torch.allclose(made.shares.sum(1), torch.ones(14))
    means = torch.tensor(list(SHARES.values()))
    assert ((made.shares.mean(0) - means).abs() < 0.12).all()
    assert (made.shares.std(0) > 0.02).all()


def test_the_last_query_gives_sinks_and_stripes_the_shares_drawn(made):
    is_stripe = made.key[:, :, 2] > 1  # the stripes' dimensions come after the sinks' two
    assert is_stripe[:, 0].sum() == is_stripe[:, 1].sum() == 8
    assert not torch.equal(is_stripe[:, 0], is_stripe[:, 1])
    found = []
    for head in range(14):
        weights = attention(made, head, 4095)
        found.append([float(weights[:SINKS].sum()), float(weights[is_stripe[:, head // 7]].sum())])
    assert ((torch.tensor(found) - made.shares[:, :2]).abs().mean(0) < 0.1).all()


def typical(made, part):
    """Median log weight by distance, over many queries, of the head with most of a part: a stripe passes by."""
    head = int(made.shares[:, list(SHARES).index(part)].argmax())
    rows = [attention(made, head, row).log().flip(0)[: 7 * FRAME] for row in range(7 * FRAME, 4096, 16)]
    return torch.stack(rows).median(0).values


def test_attention_is_local(made):
    weight = typical(made, "local")
    assert weight[:32].mean() > weight[32:].mean() + 2


def test_attention_returns_to_the_same_place_of_earlier_frames(made):
    weight = typical(made, "diagonal")
    peaks = torch.tensor([frame * FRAME for frame in range(1, 6)])
    beside = torch.stack([weight[peaks + shift] for shift in (*range(-60, -20), *range(20, 60))])
    assert weight[peaks].mean() > beside.mean() + 1


def test_the_same_seed_gives_the_same_and_another_another():
    first, again, other = (lifelike(64, 2, 1, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.query, again.query)
    assert torch.equal(first.key, again.key)
    assert not torch.equal(first.query, other.query)
    assert first.query.dtype == torch.bfloat16


def test_a_small_head_is_refused():
    with pytest.raises(ValueError, match="head_dim=64 is not valid: at least 92, for all parts"):
        lifelike(64, 2, 1, 64)


def test_a_wrong_output_is_found_and_a_right_one_passes():
    inputs = methods.make_inputs(CASE, "cpu")
    query, key, value = (tensor[0] for tensor in inputs[:3])
    chosen = torch.rand(4, 5, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    choice = KeyChoice.of_blocks(chosen | torch.eye(5, dtype=torch.bool), 64, 300)
    output = block_sparse_attention(query, key, value, choice)
    assert methods.check_choice("right", output, query, key, value, choice, CASE) < 5e-3
    for wrong in (output.roll(1, 1), torch.full_like(output, torch.nan)):
        with pytest.raises(CheckFailed, match=r"wrong at 300: relative error .* in block 0, head 0"):
            methods.check_choice("wrong", wrong, query, key, value, choice, CASE)


def test_rows_are_appended_under_one_header(tmp_path):
    made = {"density": 0.25, "choice_ms": 1.0, "attention_ms": 3.0, "total_ms": 4.0, "peak_gib": 1.0, "error": 1e-3}
    row = methods._row("tri_shape", CASE, made, dense_ms=10.0)
    assert (row["speedup"], row["density_x_dense_ms"], row["data"]) == (2.5, 2.5, "random")
    assert "0.250" in methods.line(row)
    path = tmp_path / "rows.csv"
    append([row], methods.COLUMNS, path)
    append([row], methods.COLUMNS, path)
    with path.open() as file:
        read = list(csv.DictReader(file))
    assert [entry["total_ms"] for entry in read] == ["4.0", "4.0"]


def test_it_takes_every_method_that_chooses_keys_and_no_other():
    assert methods.parse([]).methods == methods.sparse_methods()
    assert {"tri_shape", "minference", "flexprefill", "xattention"} <= set(methods.sparse_methods())
    assert not {"dense", "paper", "fastv"} & set(methods.sparse_methods())


@pytest.mark.gpu
def test_a_run_writes_dense_nsa_and_every_method(tmp_path):
    out = tmp_path / "rows.csv"
    assert methods.main(["--lengths", "4096", "--commit", "test", "--out", str(out)]) == 0
    with out.open() as file:
        rows = list(csv.DictReader(file))
    names = ["dense", "paper", *methods.sparse_methods()]
    assert [(row["method"], row["data"]) for row in rows] == [(n, data) for data in methods.DATA for n in names]
    assert all(float(row["total_ms"]) > 0 and 0 < float(row["density"]) <= 1 for row in rows)
