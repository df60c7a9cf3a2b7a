"""Questions about long videos, as scenes: what appears once, order and number of events far apart, layout of a frame.

Events are flashes of coloured squares. They start and end with a frame patch, two frames, and at least one patch lies
between two of them, anywhere in the video: a longer video has the same events further apart. As in families.py, a
question and its options are drawn before the right one is known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from videonsa.synth.canvas import COLORS, NUMBERS, UNITS, WHITE
from videonsa.synth.hashing import Draws
from videonsa.synth.scene import Box, Scene

PATCH = 2  # frames
FLASH = 2  # frame patches that a flash lasts at most
MOST_FLASHES = 16  # of a needle's video
COUNTED = 8  # flashes of a video whose flashes are counted; fewer where there is no room
RING = 3  # width, units
CELL = 18  # units of a cell: a frame has 3 x 3
SHIFTS = 25  # of a part of a colour, around 0

Place = tuple[int, int, int, int, int, int]  # of a square: top, left, side, and its colour
Plan = Callable[[Draws, str, list[str], int, int], list[Box]]


def scene(plan: Plan) -> Callable[..., Scene]:
    """The plan as families show a sample: (draws, subject, options, answer, frames, size) -> Scene."""

    def show(draws: Draws, subject: str, options: list[str], answer: int, frames: int, size: int) -> Scene:
        return Scene(frames, size, draws.key, tuple(plan(draws, subject, options, answer, frames)))

    return show


def ring(draws: Draws, _: str, options: list[str], answer: int, frames: int) -> list[Box]:
    """One to sixteen flashes of the options' colours, as far as there is room; one of them has a white ring."""
    count = draws.integers(1, most_flashes(frames, MOST_FLASHES) + 1)
    others = [place for place in range(4) if place != answer]
    shown = [answer, *draws.permutation(others)][:count]
    shown += [draws.integers(0, 4) for _ in range(count - len(shown))]
    flashes = []
    for number, option in enumerate(shown):
        square = anywhere(draws, options[option], RING)
        top, left, side = square[:3]
        around = (top - RING, left - RING, side + 2 * RING, *tint(draws, WHITE))
        flashes.append([around, square] if number == 0 else [square])
    return at_times(draws, draws.permutation(flashes), frames)


def beside(draws: Draws, subject: str, options: list[str], answer: int, frames: int) -> list[Box]:
    """One to four flashes of two squares side by side, one of an option's colour and one of a colour that is none: the
    answer's is shown with the subject, in one of them."""
    others = draws.permutation(name for name in COLORS if name not in (*options, subject))
    partners = [subject if option == answer else others.pop() for option in range(4)]
    order = [answer, *draws.permutation(place for place in range(4) if place != answer)]
    count = draws.integers(1, most_flashes(frames, 4) + 1)
    flashes = [pair(draws, options[option], partners[option]) for option in order[:count]]
    return at_times(draws, draws.permutation(flashes), frames)


def sequence(marker: bool) -> Plan:
    """Four flashes, one of each option's colour: the right one is the first, or the next after a white flash.

    Flashes are drawn before their order is known: the same squares serve all four answers.
    """

    def plan(draws: Draws, _: str, options: list[str], answer: int, frames: int) -> list[Box]:
        flashes = [[anywhere(draws, name)] for name in options]
        white = [[anywhere(draws, None)]] * marker
        order = draws.permutation(4)
        here, there = order.index(answer), draws.integers(0, 4) if marker else 0
        order[here], order[there] = order[there], order[here]
        shown = [flashes[place] for place in order]
        return at_times(draws, [*shown[:there], *white, *shown[there:]], frames)

    return plan


def often(draws: Draws, subject: str, options: list[str], answer: int, frames: int) -> list[Box]:
    """One to four flashes of the subject among others: four to eight flashes, as many for every answer."""
    count = NUMBERS.index(options[answer]) + 1
    others = [name for name in COLORS if name != subject]
    shown = [subject] * count
    total = draws.integers(len(NUMBERS), most_flashes(frames, COUNTED) + 1)
    shown += [others[draws.integers(0, len(others))] for _ in range(total - count)]
    return at_times(draws, draws.permutation([anywhere(draws, name)] for name in shown), frames)


def most(draws: Draws, _: str, options: list[str], answer: int, frames: int) -> list[Box]:
    """The answer's colour makes half of the flashes, four, and none of the others makes more than two."""
    count = most_flashes(frames, COUNTED)
    others = draws.permutation(option for option in range(4) if option != answer)
    shown = [options[answer]] * max(2, count // 2)
    shown += [options[option] for option in (*others, *others)][: count - len(shown)]
    return at_times(draws, draws.permutation([anywhere(draws, name)] for name in shown), frames)


def place(draws: Draws, subject: str, options: list[str], answer: int, frames: int) -> list[Box]:
    """A white square with the subject on the answer's side, and none to three of other colours on other sides.

    With three each time it is learned late or not at all, as side and colour have to be found at once; the subject
    alone shows what a side is.
    """
    others = draws.permutation(name for name in COLORS if name != subject)
    away = draws.permutation(option for option in range(4) if option != answer)[: draws.integers(0, 4)]
    names = {options[option]: others.pop() for option in away} | {options[answer]: subject}
    side, gap = draws.integers(8, 11), draws.integers(3, 6)
    reach = side + gap
    top, left = (draws.integers(reach, UNITS - reach - side + 1) for _ in range(2))
    moved = {"left": (0, -reach), "right": (0, reach), "top": (-reach, 0), "bottom": (reach, 0)}
    squares = [(top, left, side, *tint(draws, WHITE))]
    for option, name in names.items():
        down, right = moved[option]
        squares.append((top + down, left + right, side, *tint(draws, COLORS[name])))
    return stay(draws, squares, frames)


def many(draws: Draws, subject: str, options: list[str], answer: int, frames: int) -> list[Box]:
    """One to four squares of the subject's colour in the cells of a frame, and none to three of others."""
    count = NUMBERS.index(options[answer]) + 1
    others = [name for name in COLORS if name != subject]
    names = [subject] * count + [others[draws.integers(0, len(others))] for _ in range(draws.integers(0, 4))]
    return stay(draws, in_cells(draws, names, [draws.integers(11, 16) for _ in names]), frames)


def largest(draws: Draws, _: str, options: list[str], answer: int, frames: int) -> list[Box]:
    """Four squares in the cells of a frame, of the options' colours; the answer's is two to five units wider."""
    sides = [draws.integers(8, 12) for _ in options]
    sides[answer] = max(sides) + draws.integers(2, 6)
    return stay(draws, in_cells(draws, options, sides), frames)


def most_flashes(frames: int, most: int) -> int:
    """As many as can be, up to most, with a patch between two of them, but at least one."""
    return max(1, min(most, (frames // PATCH + 1) // 2))


def at_times(draws: Draws, flashes: list[list[Place]], frames: int) -> list[Box]:
    """The flashes in this order, somewhere in the video, a patch or more apart where there is room."""
    patches, count = frames // PATCH, len(flashes)
    apart = 1 if 2 * count - 1 <= patches else 0
    longest = max(1, min(FLASH, (patches - apart * (count - 1)) // count))
    lengths = [draws.integers(1, longest + 1) for _ in flashes]
    slack = patches - sum(lengths) - apart * (count - 1)
    cuts = sorted(draws.integers(0, slack + 1) for _ in flashes)
    boxes, start = [], 0
    for flash, length, cut in zip(flashes, lengths, cuts, strict=True):
        first = PATCH * (start + cut)
        boxes += [Box(first, first + PATCH * length, *square) for square in flash]
        start += length + apart
    return boxes


def stay(draws: Draws, squares: list[Any], frames: int) -> list[Box]:
    """The squares in one run of frames: at least the middle half."""
    patches = frames // PATCH
    first = draws.integers(0, patches // 4 + 1)
    end = patches - draws.integers(0, patches // 4 + 1)
    return [Box(PATCH * first, PATCH * end, *square) for square in squares]


def anywhere(draws: Draws, name: str | None, margin: int = 0) -> Place:
    """A square of random side at a random place; white without a name."""
    side = draws.integers(14, 25)
    top, left = (draws.integers(margin, UNITS - side - margin + 1) for _ in range(2))
    return (top, left, side, *tint(draws, WHITE if name is None else COLORS[name]))


def pair(draws: Draws, one: str, other: str) -> list[Place]:
    """Two squares that touch, one left of the other, in either order."""
    side = draws.integers(12, 20)
    top, left = draws.integers(0, UNITS - side + 1), draws.integers(0, UNITS - 2 * side + 1)
    names = draws.permutation((one, other))
    return [(top, left + side * number, side, *tint(draws, COLORS[name])) for number, name in enumerate(names)]


def in_cells(draws: Draws, names: list[str], sides: list[int]) -> list[Place]:
    """Squares each in a cell of its own."""
    squares = []
    for cell, name, side in zip(draws.permutation(9), names, sides, strict=False):
        top, left = (1 + CELL * at + draws.integers(0, CELL - side + 1) for at in divmod(cell, 3))
        squares.append((top, left, side, *tint(draws, COLORS[name])))
    return squares


def tint(draws: Draws, rgb: tuple[int, int, int]) -> tuple[int, int, int]:
    """The colour with a little random shift, of all three parts by one number."""
    bits = draws.integers(0, SHIFTS**3)
    shifts = (bits % SHIFTS, bits // SHIFTS % SHIFTS, bits // SHIFTS**2)
    red, green, blue = (min(255, max(0, value + shift - SHIFTS // 2)) for value, shift in zip(rgb, shifts, strict=True))
    return red, green, blue
