"""Which key/value head each query head meets: the rows that kernels compute are slots, not heads."""

from __future__ import annotations

from dataclasses import dataclass

from videonsa.limits import next_power_of_two


@dataclass(frozen=True)
class Slots:
    """Slot n holds query head n % heads and reads key/value head n // group. Slots from `used` on hold none."""

    heads: int
    kv_heads: int
    group: int
    used: int

    @property
    def all(self) -> int:
        """Slots of all key/value heads, empty ones included."""
        return self.kv_heads * self.group


def plain(heads: int, kv_heads: int) -> Slots:
    """Each query head once, the same number of them a key/value head."""
    return Slots(heads, kv_heads, heads // kv_heads, heads)


def doubled(heads: int, kv_heads: int) -> Slots:
    """The heads twice, with a power of two of slots a key/value head; the last slots stay empty.

    28 heads of 4 key/value heads: 16 slots a key/value head, heads in slots 0..27 and 28..55, 56..63 empty.
    """
    return Slots(heads, kv_heads, next_power_of_two(-(-2 * heads // kv_heads)), 2 * heads)
