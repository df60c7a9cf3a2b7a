"""Planning accepts exactly the sizes that the kernels compute, so that no job meets a refusal that the plan did not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import attention_inputs
from videonsa.config import BRANCHES, DIFFERENCES, NSASettings, SettingsError, differences
from videonsa.kernels import nsa_attention, release
from videonsa.limits import next_power_of_two

LENGTH = 7  # tokens: fewer than a block in some draws, several blocks in others
IS_VISION = torch.tensor([False, True, True, True, False, True, True])


def planned(**fields) -> NSASettings | str:
    """The settings, or why they are refused."""
    try:
        return NSASettings(**fields)
    except SettingsError as error:
        return str(error)


def computed(semantics: str, **sizes) -> str | None:
    """None when the kernel of these semantics computes, else why it refuses."""
    inputs = attention_inputs(LENGTH, heads=2, kv_heads=1, size=2)
    try:
        if semantics == "paper":
            output = nsa_attention(**inputs, **sizes)
        else:
            output = release.mixed_attention(**inputs, is_vision=IS_VISION, **sizes, differences=differences(semantics))
    except ValueError as error:
        return str(error)
    assert output.isfinite().all()
    return None


semantics_drawn = st.one_of(
    st.sampled_from(["paper", "release", "importance_round_up", "release-importance_round_up"]),
    st.lists(st.sampled_from(DIFFERENCES), min_size=1, unique=True).map("+".join),
)


@settings(max_examples=150, deadline=None)
@given(
    semantics=semantics_drawn,
    block_size=st.integers(-1, 9) | st.sampled_from([16, 48, 64]),
    block_count=st.integers(-1, 20) | st.sampled_from([64, 65, 128]),
    window=st.integers(-1, 9),
    branches=st.lists(st.sampled_from([*BRANCHES, "dense"]), min_size=1, max_size=4).map(tuple),
)
def test_the_plan_accepts_what_the_kernel_computes_and_nothing_else(
    semantics, block_size, block_count, window, branches
):
    sizes = {"block_size": block_size, "block_count": block_count, "window": window, "branches": branches}
    plan, kernel = planned(semantics=semantics, **sizes), computed(semantics, **sizes)
    assert (plan if isinstance(plan, str) else None) == kernel  # in the same words
    assert "\n" not in (kernel or "")


@pytest.mark.parametrize("size", [48, 8, 256])
def test_blocks_that_triton_does_not_serve_are_refused_when_planned(size):
    assert planned(block_size=size, backend="triton", semantics="cmp_mask") == planned(
        block_size=size, backend="triton"
    )
    plan = planned(block_size=size, backend="triton")
    assert plan == f"block_size={size} is not valid: one of 16, 32, 64, 128 with backend=triton, or backend=reference"
    inputs = attention_inputs(LENGTH)
    with pytest.raises(ValueError, match="with backend=triton") as caught:
        nsa_attention(**inputs, block_size=size, block_count=2, window=2, backend="triton")
    assert str(caught.value) == plan


def test_dense_attention_has_no_kernel_that_could_refuse():
    fields = {"block_size": 48, "block_count": 65, "semantics": "release"}
    assert isinstance(planned(**fields), str)
    assert isinstance(planned(**fields, attention="dense"), NSASettings)
    assert isinstance(planned(**fields, branches="cmp+swa"), NSASettings)


@given(st.integers(1, 1 << 20))
def test_next_power_of_two(number):
    found = next_power_of_two(number)
    assert found & (found - 1) == 0
    assert found // 2 < number <= found
