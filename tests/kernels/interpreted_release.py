"""Release semantics on Triton kernels in Triton's interpreter: outputs and choices against the torch path.

test_release_triton.py runs this file by itself with TRITON_INTERPRET=1 (see interpreted_triton.py).
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.helpers import TOLERANCE, attention_inputs, relative_error
from videonsa import fidelity
from videonsa.kernels import release, release_branches, release_choice, tiling
from videonsa.kernels.bitonic import network_topk
from videonsa.kernels.plan import Plan
from videonsa.names import BRANCHES, DIFFERENCES

GOLDEN = Path(__file__).parents[1] / "fidelity" / "golden"
SPANS = {
    "several": [(5, False), (20, True), (18, False), (13, True)],
    "little": [(3, False), (17, True), (2, False), (5, True), (9, False)],
    "vision": [(49, True)],
    "long text": [(40, False), (11, True), (5, False)],
    "short": [(2, False), (7, True)],
    "text": [(9, False)],
}
ALL = frozenset(DIFFERENCES)
LONG = pytest.mark.long


def is_vision(name: str) -> torch.Tensor:
    return torch.tensor([vision for tokens, vision in SPANS[name] for _ in range(tokens)])


def inputs(spans: str, heads: int = 2, kv_heads: int = 1, batch: int = 1, seed: int = 0) -> dict:
    length = len(is_vision(spans))
    return attention_inputs(
        length, batch=batch, heads=heads, kv_heads=kv_heads, size=16, dtype=torch.float32, seed=seed
    )


def error(given: dict, spans: str, sizes: tuple[int, int, int], differences, branches=BRANCHES, **more) -> float:
    """Of the Triton output against the torch one."""
    names = dict(zip(("block_size", "block_count", "window"), sizes, strict=True))
    call = {"is_vision": is_vision(spans), "differences": frozenset(differences), "branches": branches, **names, **more}
    ours = release.mixed_attention(**given, **call, backend="triton")
    assert ours.isfinite().all()
    return relative_error(ours, release.mixed_attention(**given, **call, backend="reference"))


@pytest.mark.parametrize(
    ("spans", "heads", "sizes"),
    [
        pytest.param("little", (3, 1), (16, 1, 20), marks=LONG),
        ("text", (2, 1), (32, 2, 4)),
        pytest.param("several", (3, 1), (16, 2, 20), marks=LONG),
        pytest.param("vision", (3, 3), (16, 2, 9), marks=LONG),
        pytest.param("long text", (6, 2), (16, 5, 300), marks=LONG),
        pytest.param("short", (10, 2), (16, 16, 4), marks=LONG),
    ],
)
@pytest.mark.parametrize("without", [None, pytest.param("dense_decode", marks=LONG)])
def test_the_whole_release(spans, heads, sizes, without):
    assert error(inputs(spans, *heads), spans, sizes, ALL - {without}) < TOLERANCE[torch.float32]


@LONG
@pytest.mark.parametrize("difference", DIFFERENCES)
def test_each_difference_alone_and_the_release_without_it(difference):
    given = inputs("several", seed=1)
    for differences in ({difference}, ALL - {difference}):
        assert error(given, "several", (16, 2, 20), differences) < TOLERANCE[torch.float32]


@LONG
@pytest.mark.parametrize("branches", [(), ("cmp",), ("slc",), ("swa",)])
def test_branches_of_a_batch(branches):
    given = inputs("several", batch=2)
    for differences in (ALL, {"cmp_mask", "importance_lse"}):
        assert error(given, "several", (16, 2, 20), differences, branches) < TOLERANCE[torch.float32]


def gradient_error(given: dict, spans: str, sizes: tuple[int, int, int], differences, branches=BRANCHES) -> float:
    """The largest of the output and the gradients of query, key, value and gates."""
    names = dict(zip(("block_size", "block_count", "window"), sizes, strict=True))
    call = {"is_vision": is_vision(spans), "differences": frozenset(differences), "branches": branches, **names}
    found = []
    for backend in ("triton", "reference"):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in given.items()}
        output = release.mixed_attention(**leaves, **call, backend=backend)
        grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
        found.append([output.detach(), *torch.autograd.grad(output, list(leaves.values()), grad)])
    return max(relative_error(ours, torchs) for ours, torchs in zip(*found, strict=True))


def test_gradients():
    assert gradient_error(inputs("little"), "little", (16, 1, 20), ALL) < TOLERANCE[torch.float32]


@LONG
@pytest.mark.parametrize("difference", DIFFERENCES)
def test_gradients_of_each_difference_alone_and_of_the_release_without_it(difference):
    for differences in ({difference}, ALL - {difference}):
        assert gradient_error(inputs("several"), "several", (16, 2, 20), differences) < TOLERANCE[torch.float32]


@LONG
@pytest.mark.parametrize(
    ("spans", "heads", "sizes", "batch"),
    [("vision", (3, 3), (16, 2, 9), 1), ("long text", (6, 2), (16, 5, 300), 1), ("short", (10, 2), (16, 16, 4), 2)],
)
def test_gradients_of_other_shapes(spans, heads, sizes, batch):
    for differences in (ALL, ALL - {"dense_decode", "importance_round_up"}):
        given = inputs(spans, *heads, batch=batch)
        assert gradient_error(given, spans, sizes, differences) < TOLERANCE[torch.float32]


@LONG
def test_no_difference_is_the_papers_method():
    assert error(inputs("several"), "several", (16, 2, 20), ()) < TOLERANCE[torch.float32]


@LONG
@pytest.mark.parametrize("count", [1, 2, 6, 10, 16])
@pytest.mark.parametrize("chunked", [False, True])
def test_choices_are_those_of_the_torch_path(count, chunked, monkeypatch):
    """Several groups of the network, up to whole groups asked for, and ties: keys are alike in runs of blocks."""
    if chunked:
        monkeypatch.setattr(tiling, "chunk_tokens", lambda *sizes: 96)
    monkeypatch.setattr(tiling, "choose_by_peaks", lambda columns, count: chunked)
    generator = torch.Generator().manual_seed(count)
    query, key = (torch.randn(1, 401, heads, 16, generator=generator) for heads in (3, 1))
    key[:, 100:292] = key[:, 100:116].repeat(1, 12, 1, 1)
    query[:, 300:310] = 0
    for differences in (ALL, ALL - {"importance_round_up"}, {"importance_round_up"}, {"importance_lse", "cmp_mask"}):
        sizes = release.Sizes(16, count, 4, 0.25, differences, torch.bfloat16)
        ours, torchs = (module.block_choices(query, key, sizes)[0] for module in (release_branches, release))
        assert fidelity.same_blocks(ours, torchs).double().mean() > 0.99, differences  # an ulp may part or make a tie


@pytest.mark.parametrize("levels", [3, pytest.param(1, marks=LONG), pytest.param(40, marks=LONG)])
@pytest.mark.parametrize("count", [4, pytest.param(1, marks=LONG), pytest.param(8, marks=LONG)])
def test_ties_fall_in_the_networks_order(count, levels):
    """The importances given: few levels of them, some zero and some infinite."""
    blocks, width = 29, 8
    plan = Plan((0, blocks), 1, torch.device("cpu"))  # blocks of one token: a query a block
    (chunk,) = plan.chunks(plan.tokens)
    generator = torch.Generator().manual_seed(levels)
    importance = torch.randint(0, levels + 1, (1, plan.tokens, 32), generator=generator).float()
    importance[importance == 40] = torch.inf
    index = torch.full((plan.tokens, 1, count), -1, dtype=torch.int32)
    release_choice.choose(importance, None, index, plan, chunk, width, 0)
    expected = network_topk(importance[0, :, :blocks], torch.arange(blocks), count, width)
    assert fidelity.same_blocks(index, expected[:, None]).all()


@LONG
def test_golden_vectors():
    """The smallest; on a GPU `python -m videonsa.fidelity --backend triton --device cuda` takes all."""
    vectors = fidelity.load_vectors(GOLDEN / "released_below_a_block.npz")
    found = fidelity.compare(vectors, rounding=torch.bfloat16, backend="triton")
    assert found.vision_choices == 1
    assert found.text_choices in (1, None)
    assert found.error_all < 4.1e-3


def test_what_is_not_served_falls_to_torch_and_says_so_once(caplog):
    release._say_once.cache_clear()
    given = inputs("short")
    assert error({name: t.double() for name, t in given.items()}, "short", (16, 2, 4), ALL) == 0
    assert error(inputs("short"), "short", (16, 2, 4), ALL, scale=-1.0) == 0
    assert error(inputs("short"), "short", (16, 2, 4), ALL, scale=-1.0) == 0
    assert [record.args for record in caplog.records] == [
        ("torch.float64 is not served",),
        ("scale=-1.0 is not served",),
    ]
