"""Which sizes can be computed: one rule for the settings, which plan without torch, and for the kernels."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any, NamedTuple

from videonsa.names import BRANCHES

TRITON_BLOCK_SIZES = (16, 32, 64, 128)


class Refusal(NamedTuple):
    """A value that nothing computes, and what would be computed in its place."""

    name: str
    value: Any
    valid: str

    def __str__(self) -> str:
        return f"{self.name}={self.value!r} is not valid: {self.valid}"


def refusal(
    *,
    block_size: Any,
    block_count: Any,
    window: Any,
    branches: Sequence[str],
    differences: Set[str] = frozenset(),
    backend: str = "auto",
) -> Refusal | None:
    """The first of these that no kernel computes, or None.

    branches: some of BRANCHES, in any order; differences: of DIFFERENCES, none being the paper's method.
    """
    for name, value in (("block_size", block_size), ("block_count", block_count)):
        if not is_whole(value, 1):
            return Refusal(name, value, "a whole number of at least 1")
    if not is_whole(window, 0):
        return Refusal("window", window, "a whole number of at least 0")
    if window == 0 and "swa" in branches:
        return Refusal("window", window, "1 or more while swa is a branch")
    unknown = [name for name in branches if name not in BRANCHES]
    if unknown or len(set(branches)) < len(branches):
        return Refusal("branches", "+".join(map(str, branches)), f"a subset of {', '.join(BRANCHES)}, each once")
    if backend == "triton" and block_size not in TRITON_BLOCK_SIZES:
        valid = f"one of {', '.join(map(str, TRITON_BLOCK_SIZES))} with backend=triton, or backend=reference"
        return Refusal("block_size", block_size, valid)
    if "importance_round_up" in differences and "slc" in branches:
        return _of_the_network(block_size, block_count)
    return None


def _of_the_network(block_size: int, block_count: int) -> Refusal | None:
    """What the release's sorting network, which chooses blocks, has no answer for (docs/semantics.md, 6c)."""
    if block_size != next_power_of_two(block_size):
        valid = "a power of two under importance_round_up, whose sorting network takes block_size columns at once"
        return Refusal("block_size", block_size, valid)
    if block_count > block_size:
        valid = f"at most block_size={block_size} under importance_round_up, whose sorting network keeps no more"
        return Refusal("block_count", block_count, valid)
    return None


def is_whole(value: Any, minimum: int) -> bool:
    """Whether value is a whole number, and no bool, of at least minimum."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def next_power_of_two(number: int) -> int:
    """The smallest power of two that is at least number (number >= 1)."""
    return 1 << max(0, number - 1).bit_length()
