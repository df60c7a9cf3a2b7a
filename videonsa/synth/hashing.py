"""Random numbers from a counter: a hash of a key and a number, the same wherever it is computed.

Plain integer arithmetic on 64 bits in which nothing overflows: Python's integers, numpy's int64 and torch's int64, on a
CPU or a GPU, give the same bits in any order and any number.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

T = TypeVar("T")

MASK = (1 << 32) - 1
STEP = 0x1E3779B1  # odd, so that numbers that follow each other lie far apart; below 2^31
FACTORS = 0x2C1B3C6D, 0x297A2D39  # of Wellons' hash prospector; below 2^30, so that products stay below 2^62


def mix(x: Any) -> Any:
    """32 bits, well mixed, of 32 bits: shifts and products, a bijection. x: an int, or an int64 array or tensor."""
    x = ((x >> 15) ^ x) * FACTORS[0] & MASK
    x = ((x >> 12) ^ x) * FACTORS[1] & MASK
    return (x >> 15) ^ x


def number(key: Any, place: Any) -> Any:
    """32 bits for a place (from 0, below 2^31) under a key of 32 bits."""
    return mix((key + place * STEP) & MASK)


def below(bits: Any, count: Any) -> Any:
    """A whole number from 0 up to count (below 2^31), count left out, by 32 bits."""
    return bits * count >> 32


def key_of(*parts: int) -> int:
    """A key of 64 bits for whole numbers of any size: two chains, so that equal keys do not happen by chance."""
    high, low = 1, 2
    for part in parts:
        for word in (part & MASK, part >> 32 & MASK):
            high, low = mix((high + word) & MASK), mix((low * 3 + word) & MASK)
    return high << 32 | low


class Draws:
    """A stream of random numbers under a key: the methods of numpy's Generator that questions use, fast for few."""

    def __init__(self, *key: int) -> None:
        self.key = key_of(*key)
        self._high, self._low, self._count = self.key >> 32, self.key & MASK, 0

    def integers(self, low: int, high: int) -> int:
        """From low up to high, high left out."""
        self._count += 1
        return low + below(mix(number(self._low, self._count) ^ self._high), high - low)

    def permutation(self, items: int | Iterable[T]) -> list[Any]:
        """The items, or the numbers below one, in random order."""
        order: list[Any] = list(range(items)) if isinstance(items, int) else list(items)
        for last in range(len(order) - 1, 0, -1):
            other = self.integers(0, last + 1)
            order[last], order[other] = order[other], order[last]
        return order
