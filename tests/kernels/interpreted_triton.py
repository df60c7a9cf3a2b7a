"""The Triton kernels' logic in Triton's interpreter, float32, at small sizes.

test_triton.py runs this file in a process of its own with TRITON_INTERPRET=1: the variable must be set before triton is
imported, and must not reach other tests.
"""

from __future__ import annotations

import pytest
import torch

from tests.helpers import TOLERANCE, relative_error
from tests.kernels.triton_cases import ALL, Shape, choices, errors, poisoned, run, tensors

SHAPES = [
    Shape(40, 7, 1, 16, 16, 2, 7),
    pytest.param(Shape(50, 2, 2, 16, 16, 1, 100), marks=pytest.mark.long),
    Shape(70, 3, 1, 16, 16, 3, 20, ends=(0, 1, 18, 18, 70)),
    pytest.param(Shape(40, 2, 1, 32, 32, 9, 5, batch=2), marks=pytest.mark.long),
    Shape(1, 2, 1, 16, 16, 3, 8),
    Shape(63, 2, 1, 16, 16, 2, 8, branches=("slc",)),
    Shape(33, 2, 1, 16, 16, 3, 8, branches=("cmp",)),
    Shape(33, 2, 1, 16, 16, 3, 8, branches=("cmp", "swa")),
    *(  # of the last tokens alone: few; many, over several tiles; and some that choose nothing before them
        pytest.param(Shape(length, 2, 1, 16, 16, 2, 20, queries=queries), marks=[pytest.mark.long] * long)
        for length, queries, long in ((70, 45, True), (150, 110, True), (50, 3, False), (90, 7, True), (40, 39, True))
    ),
]


@pytest.fixture
def listed():
    from videonsa.kernels import tiling

    with tiling.selection("listed"):
        yield


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_output_and_gradients_equal_the_reference(shape, listed):
    found = errors(shape, torch.float32, "cpu")
    assert found
    assert max(found.values()) < TOLERANCE[torch.float32], found


MASKED = [
    Shape(70, 3, 1, 16, 16, 3, 20, ends=(0, 1, 18, 18, 70)),
    pytest.param(Shape(90, 2, 1, 16, 16, 3, 40), marks=pytest.mark.long),
    Shape(63, 2, 1, 16, 16, 2, 8, branches=("slc",)),
    pytest.param(Shape(1, 2, 1, 16, 16, 3, 8), marks=pytest.mark.long),
    pytest.param(Shape(40, 7, 1, 16, 16, 2, 7), marks=pytest.mark.long),
    pytest.param(Shape(33, 2, 1, 16, 16, 3, 8, branches=("slc", "swa")), marks=pytest.mark.long),
    pytest.param(Shape(90, 2, 1, 32, 32, 2, 5, branches=("cmp", "slc"), batch=2), marks=pytest.mark.long),
    pytest.param(Shape(300, 1, 1, 16, 128, 1, 5), marks=pytest.mark.long),
    pytest.param(Shape(540, 1, 1, 16, 16, 2, 5), marks=pytest.mark.long),  # more blocks than a word has bits
]


@pytest.mark.parametrize("shape", MASKED, ids=str)
def test_masked_keys_equal_the_reference(shape):
    from videonsa.kernels import tiling

    with tiling.selection("masked"):
        found = errors(shape, torch.float32, "cpu")
    assert found
    assert max(found.values()) < TOLERANCE[torch.float32], found


@pytest.mark.long
def test_every_element_is_written_whatever_memory_held(monkeypatch, listed):
    shape = Shape(49, 2, 1, 16, 16, 2, 7)
    inputs = tensors(shape, torch.float32, "cpu")
    clean = run(shape, "triton", inputs)
    assert all(
        torch.equal(a, b)
        for a, b in zip(poisoned(lambda: run(shape, "triton", inputs), monkeypatch), clean, strict=True)
    )


@pytest.mark.parametrize("branches", [pytest.param(ALL, marks=pytest.mark.long), ("slc",)], ids=["all", "slc"])
def test_masked_kernels_write_every_element(monkeypatch, branches):
    from videonsa.kernels import tiling

    shape = Shape(49, 2, 1, 16, 16, 2, 7, branches=branches)
    inputs = tensors(shape, torch.float32, "cpu")
    with tiling.selection("masked"):
        clean = run(shape, "triton", inputs)
        again = poisoned(lambda: run(shape, "triton", inputs), monkeypatch)
    assert all(torch.equal(a, b) for a, b in zip(again, clean, strict=True))


@pytest.mark.long
def test_the_windows_output_computed_anew_changes_no_gradient(monkeypatch, listed):
    from videonsa.kernels import tiling

    shape = Shape(49, 2, 1, 16, 16, 2, 7)
    inputs = tensors(shape, torch.float32, "cpu")
    kept = run(shape, "triton", inputs)
    monkeypatch.setattr(tiling, "LONG", 48)
    assert all(torch.equal(a, b) for a, b in zip(run(shape, "triton", inputs), kept, strict=True))


@pytest.mark.long
def test_chunks_of_queries_change_nothing(monkeypatch, listed):
    from videonsa.kernels import tiling

    shape = Shape(70, 2, 1, 16, 16, 2, 7, branches=("slc",), ends=(0, 41, 70))
    whole = errors(shape, torch.float32, "cpu")
    monkeypatch.setattr(tiling, "chunk_tokens", lambda *sizes: 32)
    assert max(errors(shape, torch.float32, "cpu").values()) < TOLERANCE[torch.float32], whole


@pytest.mark.long
def test_lists_in_several_items_change_nothing(monkeypatch, listed):
    from videonsa.kernels import tiling

    shape = Shape(120, 2, 1, 16, 16, 3, 7, branches=("slc",))
    monkeypatch.setattr(tiling, "LIST_RUN", 32)
    found = errors(shape, torch.float32, "cpu")
    assert max(found.values()) < TOLERANCE[torch.float32], found


@pytest.mark.long
def test_choosing_by_peaks_changes_nothing(monkeypatch, listed):
    from videonsa.kernels import tiling

    monkeypatch.setattr(tiling, "choose_by_peaks", lambda columns, count: True)
    found = errors(Shape(120, 4, 2, 16, 16, 2, 7, branches=("slc",), ends=(0, 33, 120)), torch.float32, "cpu")
    assert max(found.values()) < TOLERANCE[torch.float32], found


@pytest.mark.parametrize("count", [2, 4, 7])
@pytest.mark.parametrize("levels", [1e6, 4, 0], ids=["distinct", "ties", "all equal"])
def test_the_choice_by_peaks_equals_the_choice_from_the_whole_row(count, levels):
    from videonsa.kernels import select
    from videonsa.kernels.plan import make_plan

    blocks, rows = 299, 16
    plan = make_plan(torch.zeros(1, rows * (blocks + 1), 1, 1), None, 16)
    chunk = plan.chunks(rows)[-1]  # its queries all stand in the last block, and see `blocks` whole ones before it
    importance = torch.rand(1, rows, 304, generator=torch.Generator().manual_seed(count))
    importance = (importance * levels).round() / max(levels, 1)
    peaks = importance.masked_fill(torch.arange(304) >= blocks, -1.0).unflatten(2, (-1, select.RUN)).amax(-1)
    index = torch.empty(plan.tokens, 1, count, dtype=torch.int32)
    select.choose(importance, peaks, index, plan, chunk)
    best = importance[0, :, :blocks].argsort(dim=1, descending=True, stable=True)[:, : count - 1].sort(1).values
    chosen = index[chunk.start : chunk.end, 0]
    assert torch.equal(chosen[:, :-1].long(), best)
    assert (chosen[:, -1] == blocks).all()


def test_the_choice_is_that_of_float64():
    shape = Shape(120, 2, 1, 16, 16, 3, 7, branches=("slc",), ends=(0, 36, 36, 120))
    found = choices(shape, tensors(shape, torch.float32, "cpu"))
    assert found.same.all()
    assert (found.differ, found.of) == (0, 120 - 36 - 48)


@pytest.mark.parametrize("last", ["own", "none"])
def test_a_choice_of_a_worse_block_is_no_tie(monkeypatch, last):
    from videonsa.kernels import triton_backend

    shape = Shape(80, 2, 1, 16, 16, 2, 7)
    own = torch.arange(80) // 16
    index = torch.stack([(own - 1).clamp(min=0), own if last == "own" else own - 2], 1)[:, None]  # [L, Hkv, b]
    monkeypatch.setattr(triton_backend, "attend", lambda *arguments: ({}, {}, index.int()))
    with pytest.raises(AssertionError, match="a block was chosen that is worse than another by"):
        choices(shape, tensors(shape, torch.float32, "cpu"))


def test_a_nan_among_the_keys_leaves_the_choice_in_order():
    from videonsa.kernels import triton_backend
    from videonsa.kernels.plan import make_plan

    query, key, value = (torch.randn(112, 1, 16) for _ in range(3))
    key[20] = torch.tensor([0x7FFFFFFF], dtype=torch.int32).view(torch.float32)  # what CUDA's arithmetic makes of NaN
    plan = make_plan(query[None], None, 16)
    settings = triton_backend.Settings(plan, 3, 1, ("slc",), 1.0)
    outputs, _, index = triton_backend.attend(query, key, value, settings)
    chosen = index[settings.chooses_from :, 0]
    assert (chosen.diff() > 0).all()
    assert (chosen[:, 0] >= 0).all()
    assert (chosen[:, -1] == torch.arange(settings.chooses_from, 112) // 16).all()
    assert outputs["slc"][:20].isfinite().all()
    assert outputs["slc"][-1].isnan().any()


@pytest.mark.parametrize(("window", "count"), [(2**31 - 1, 3), (2**40, 3), (4, 10**6)])
def test_a_window_or_a_count_beyond_the_sequence_is_no_limit(window, count):
    found = errors(Shape(40, 2, 1, 16, 16, count, window), torch.float32, "cpu")
    assert max(found.values()) < TOLERANCE[torch.float32], found


@pytest.mark.long
def test_the_default_type_of_torch_changes_nothing():
    shape = Shape(70, 2, 1, 16, 16, 2, 7, branches=("slc",))
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = errors(shape, torch.float32, "cpu")
    finally:
        torch.set_default_dtype(torch.float32)
    assert max(found.values()) < TOLERANCE[torch.float32], found


def test_equal_importances_take_the_earlier_block():
    """Zero queries make every block equally important: blocks 0 and 1 go with the query's own."""
    from videonsa.kernels import triton_backend
    from videonsa.kernels.plan import make_plan

    query, key = torch.zeros(80, 1, 16), torch.randn(80, 1, 16)
    plan = make_plan(query[None], None, 16)
    settings = triton_backend.Settings(plan, 3, 1, ("slc",), 1.0)
    _, _, index = triton_backend.attend(query, key, key, settings)
    assert index[-1, 0].tolist() == [0, 1, 4]


def test_text_queries_attend_to_everything_before_them():
    from videonsa.kernels import text

    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(n, h, 16, generator=generator) for n, h in ((9, 4), (150, 2), (150, 2)))
    positions = torch.tensor([0, 1, 2, 77, 3, 146, 147, 148, 149])
    results = []
    whole = (text.Span(0, 9, 0, 150),)
    for compute in (lambda *given: text._on_device(*given, whole), text._plain):
        leaves = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
        output = compute(*leaves, positions, 0.25)
        results.append([output.detach(), *torch.autograd.grad(output, leaves, torch.ones_like(output).cumsum(0))])
    assert max(relative_error(a, b) for a, b in zip(*results, strict=True)) < TOLERANCE[torch.float32]


def test_text_of_several_samples_in_one_call(monkeypatch):
    """Padding before, between and after them; one without text, one with more of it than a tile holds."""
    from videonsa.kernels import text

    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(n, h, 16, generator=generator) for n, h in ((150, 2), (260, 1), (260, 1)))
    spans = (text.Span(0, 3, 5, 75), text.Span(3, 3, 75, 80), text.Span(3, 150, 85, 250))
    positions = torch.cat([torch.tensor([0, 68, 69]), torch.arange(147) + 18])
    results = []
    for on_device in (True, False):
        leaves = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
        if on_device:
            output = poisoned(lambda leaves=leaves: [text._on_device(*leaves, positions, 0.25, spans)], monkeypatch)[0]
        else:
            output = text.text_attention(*leaves, positions, 0.25, "reference", spans)
        results.append([output.detach(), *torch.autograd.grad(output, leaves, torch.ones_like(output).cumsum(0))])
    assert max(relative_error(a, b) for a, b in zip(*results, strict=True)) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("spared", [False, True], ids=["by both parts", "by the high part"])
def test_large_scores_are_weighed_by_both_parts_of_the_mean_keys(monkeypatch, spared):
    """Block 1 draws 0.99 of head 0 and block 2 all of head 1; rounding block 1's mean key makes 1.01 of the 0.99."""
    from videonsa.kernels import flash, triton_backend
    from videonsa.kernels.plan import make_plan

    key = torch.zeros(80, 1, 16)
    key[16:32, :, 0] = 1.0
    key[16:32:2, :, 0] += 2.0**-10  # the mean, 1 + 2^-11, rounds to 1 in float16
    key[32:48, :, 1] = 1.0
    key[48:64, :, 0] = 0.8848  # block 3: 0.01 of head 0
    query = torch.zeros(80, 2, 16)
    query[:, 0, 0] = query[:, 1, 1] = 40.0
    monkeypatch.setattr(flash, "FEW", 0)
    if spared:
        monkeypatch.setattr(flash, "LARGE", 1e30)
        monkeypatch.setattr(flash, "WIDE", 1e30)
    plan = make_plan(query[None], None, 16)
    settings = triton_backend.Settings(plan, 2, 1, ("slc",), 1.0)
    _, _, index = triton_backend.attend(query.half(), key.half(), key.half(), settings)
    assert index[-1, 0].tolist() == ([1, 4] if spared else [2, 4])


@pytest.mark.long
def test_a_shape_of_the_fuzz(capsys):
    from videonsa.bench import fuzz

    assert fuzz.main(["--seed", "0", "--first", "11", "--count", "1", "--sets", "1"]) == 0
    assert "1 shapes of seed 0, 0 outside" in capsys.readouterr().out


@pytest.mark.long
def test_the_stages_that_are_timed_are_the_steps_of_the_whole(listed):
    from videonsa.bench import case, providers
    from videonsa.kernels import triton_backend

    some = case.Case(40, 2, 1, 16, 16, 2, 7, "float32", "random")
    inputs = case.make_inputs(some, torch.device("cpu"))
    with providers.stages(inputs, some) as calls:
        assert {stage for stage, mode in calls if mode == "fwd"} == set(providers.STAGES) - {"all"}
        assert {stage for stage, mode in calls if mode == "bwd"} == set(providers.STAGES) - {"all", "topk"}
        steps = calls["slc", "fwd"].args[0]
        before = calls["combine", "fwd"].args[0][0].run.args[0].out.clone()
        for call in calls.values():
            call()
    assert [step.stage for step in steps] == ["slc", "slc"]
    whole = providers.attention("triton", some)(*inputs[:4]).detach().flatten(0, 1)
    assert torch.equal(whole, before)
    assert triton_backend.Step is type(steps[0])


def test_the_blocks_given_to_public_kernels_are_those_of_the_reference():
    from videonsa.bench import case, public
    from videonsa.kernels.reference import attention_probabilities

    some = case.Case(60, 2, 1, 16, 16, 2, 7, "float32", "random")
    query, key, value, *_ = case.make_inputs(some, torch.device("cpu"))
    given = public.chosen_blocks(query, key, value, some, none=-1)[:, 0]
    assert given[:16].tolist() == [[0, -1]] * 16
    assert given[16:32].tolist() == [[0, 1]] * 16
    _, probabilities = next(attention_probabilities(
        query, key, block_size=16, block_count=2, window=7, branches=("slc",), scale=some.scale,
    ))  # fmt: skip
    attended = probabilities["slc"][0, 0, 0, 32:] > 0
    assert attended.sum(1).tolist() == [16 + position % 16 + 1 for position in range(32, 60)]
    assert all(attended[i, given[32 + i, 0] * 16] and attended[i, given[32 + i, 1] * 16] for i in range(28))
