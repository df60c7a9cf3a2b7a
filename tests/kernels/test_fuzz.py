"""The fuzz of shapes: what it draws and how it judges, with the reference in the kernels' place."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.helpers import TOLERANCE, relative_error
from videonsa.bench import fuzz
from videonsa.bench.choices import Choices
from videonsa.kernels import nsa_attention

LIMITS = fuzz.Limits(120, (1, 3), (1, 2), (16,), (16,), 4, ("float32", "bfloat16"))


@pytest.fixture
def reference(monkeypatch):
    """Judge the reference: `nsa_attention(backend="triton")` with what is put in the list done to its arguments."""
    wrong = []

    def attention(*tensors, backend, **sizes):
        for change in wrong if backend == "triton" else ():
            change(sizes)
        return nsa_attention(*tensors, backend="reference", **sizes)

    monkeypatch.setattr(fuzz, "nsa_attention", attention)
    monkeypatch.setattr(fuzz, "compare", lambda query, *_: Choices(torch.ones(query.shape[:2]) > 0, 0, 1, 0.0))
    return wrong


def test_a_shape_hangs_on_its_seed_and_number_alone():
    drawn = [fuzz.draw_shape(3, number, 40, fuzz.CARD) for number in range(500)]
    assert drawn[17] == fuzz.draw_shape(3, 17, 40, fuzz.CARD) != fuzz.draw_shape(4, 17, 40, fuzz.CARD)
    assert {shape.data for shape in drawn} == set(fuzz.DATA)
    names = ("heads", "kv_heads", "head_dim", "block_size", "block_count", "window", "branches", "dtype")
    assert len({tuple(getattr(shape, name) for name in names) for shape in drawn}) == 40
    assert max(shape.length for shape in drawn) <= 1500
    assert all(shape.ends[-1] == shape.length for shape in drawn if shape.ends)


def test_the_reference_is_within(reference, capsys):
    assert fuzz.run(0, 5, 12, 8, float("inf"), "cpu", LIMITS) == 0
    assert "12 shapes of seed 0, 0 outside" in capsys.readouterr().out.splitlines()[-1]


def test_what_is_wrong_is_named_with_its_number(reference, capsys):
    reference.append(lambda sizes: sizes.update(scale=1.1 * sizes["scale"]))
    assert fuzz.run(0, 0, 3, 8, float("inf"), "cpu", LIMITS) > 0
    assert "OUTSIDE" in capsys.readouterr().out
    reference[0] = lambda sizes: sizes.pop("scale") / None
    assert fuzz.run(0, 2, 1, 8, float("inf"), "cpu", LIMITS) == 1
    assert "OUTSIDE inf TypeError" in capsys.readouterr().out


def test_a_run_stops_in_time_and_says_where_to_go_on(reference, capsys):
    assert fuzz.run(0, 7, 10, 8, 0.0, "cpu", LIMITS) == 0
    assert capsys.readouterr().out.endswith("go on with --seed 0 --first 7\n")


@pytest.mark.parametrize("ends", [None, (0, 30, 30, 90)])
def test_plain_attention_is_the_method(ends):
    shape = dataclasses.replace(fuzz.draw_shape(0, 0, 1, LIMITS), length=90, batch=1, ends=ends, block_count=2)
    inputs = [tensor.double() for tensor in fuzz.make_inputs(shape, 0, "cpu")[:4]]
    exact = nsa_attention(
        *inputs, block_size=shape.block_size, block_count=2, window=shape.window, branches=shape.branches,
        cu_seqlens=None if ends is None else torch.tensor(ends), scale=shape.scale,
    )  # fmt: skip
    assert relative_error(fuzz.plain_attention(inputs, shape), exact) < TOLERANCE[torch.float64]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_so(capsys):
    assert fuzz.main([]) == 2
    assert "CUDA" in capsys.readouterr().err
