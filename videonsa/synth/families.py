"""The families of questions: needle (a rare frame), order (time), layout (space); and those of long videos, long.py.

A family asks first and shows afterwards: the question and its four options are drawn without knowing which option will
be right, then the video is drawn for the option that is. So the text tells nothing about the answer, by construction.
Every question has the same number of words, so that a batch of samples needs no padding.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from videonsa.config import require
from videonsa.synth import long
from videonsa.synth.canvas import COLORS, NUMBERS, UNITS, WHITE, background, paint, paint_anywhere, tint
from videonsa.synth.hashing import Draws
from videonsa.synth.scene import FPS, Scene

PLACES = ("left", "right", "top", "bottom")
SECONDS = 8  # that a video of the short families lasts, however many frames show it
FLASH = (2, 4)  # least and most frames of a flash

Random = np.random.Generator | Draws  # what families of long videos draw by
# makes the video: (random numbers, the question's colour, options, number of the right one, frames, size in px)
Show = Callable[[Any, str, list[str], int, int, int], np.ndarray | Scene]


@dataclass(frozen=True)
class Kind:
    """One kind of question: which of four colours, or something about one colour, with four words as options."""

    name: str
    question: str  # without its last word, a colour, where `words` are given or it is `about` one
    words: tuple[str, ...] | None
    show: Show
    about: bool = False  # which of four colours, by a fifth one

    def ask(self, rng: Random) -> tuple[str, list[str]]:
        """The question and its four options."""
        if self.about:
            *options, subject = colors(rng, 5)
            return f"{self.question} {subject}", options
        if self.words is None:
            return self.question, colors(rng, 4)
        return f"{self.question} {colors(rng, 1)[0]}", shuffled(rng, self.words)


@dataclass(frozen=True)
class Family:
    """A family: its kinds of question, which take turns, and the fewest frames that can show one."""

    name: str
    kinds: tuple[Kind, ...]
    min_frames: int
    is_long: bool = False  # drawn from scenes, at a fixed rate

    def rate(self, frames: int) -> Fraction:
        """Frames a second of a video: short ones last as long, however many frames show them, so that a longer one
        shows its span in more detail, and has no moments that a model never saw; of long ones more frames take longer.
        """
        return Fraction(FPS) if self.is_long else Fraction(frames, SECONDS)


def colors(rng: Random, count: int) -> list[str]:
    """Different colour names in random order."""
    return [str(name) for name in rng.permutation(list(COLORS))[:count]]


def shuffled(rng: Random, words: tuple[str, ...]) -> list[str]:
    return [str(word) for word in rng.permutation(words)]


def spread(rng: np.random.Generator, lengths: list[int], frames: int) -> list[int]:
    """Starts of runs of the given lengths, in this order; neighbours stay a frame or more apart where there is room."""
    apart = 1 if sum(lengths) + len(lengths) - 1 <= frames else 0
    slack = frames - sum(lengths) - apart * (len(lengths) - 1)
    cuts = np.sort(rng.integers(0, slack + 1, len(lengths)))
    before = np.cumsum([0, *lengths[:-1]])
    return [int(cut + done + apart * place) for place, (cut, done) in enumerate(zip(cuts, before, strict=True))]


def the_answer_and_others(rng: np.random.Generator, answer: int, most: int) -> list[int]:
    """Numbers of the options that are shown, in random order: all four, or as many as fit with the answer's."""
    others = [int(option) for option in rng.permutation(4) if option != answer]
    return [int(option) for option in rng.permutation([answer, *others][:most])]


def flash_lengths(rng: np.random.Generator, count: int, frames: int) -> list[int]:
    """Lengths of `count` flashes, in frames, shorter where the video is."""
    longest = min(FLASH[1], frames // count)
    return [int(length) for length in rng.integers(min(FLASH[0], longest), longest + 1, count)]


def show_ring(rng: np.random.Generator, _: str, options: list[str], answer: int, frames: int, size: int) -> np.ndarray:
    """A flash of each option's colour (of fewer in a video below 8 frames); the answer's has a white ring."""
    video = background(rng, frames, size)
    order = the_answer_and_others(rng, answer, frames // FLASH[0])
    lengths = flash_lengths(rng, len(order), frames)
    for option, start, length in zip(order, spread(rng, lengths, frames), lengths, strict=True):
        flash = video[start : start + length]
        paint_anywhere(rng, flash, tint(rng, COLORS[options[option]]), ring=option == answer)
    return video


def show_sequence(marker: bool) -> Show:
    """Four flashes, one of each option's colour. Which is right depends on their order alone.

    Without `marker` the right one comes first; with it, the right one is the next after a white flash. All frames are
    drawn before the order is known: the same set of frames serves all four answers, so a bag of frames is at chance.
    """

    def show(rng: np.random.Generator, _: str, options: list[str], answer: int, frames: int, size: int) -> np.ndarray:
        video = background(rng, frames, size)
        shown = [COLORS[name] for name in options] + [WHITE] * marker
        lengths = flash_lengths(rng, len(shown), frames)
        bag = np.split(np.arange(frames), np.cumsum(lengths))  # the frames of each flash, then the empty ones
        for part, rgb in zip(bag, shown, strict=False):
            flash = video[part]
            paint_anywhere(rng, flash, tint(rng, rgb))
            video[part] = flash
        order = [int(place) for place in rng.permutation(4)]
        here, there = order.index(answer), int(rng.integers(0, 4)) if marker else 0
        order[here], order[there] = order[there], order[here]
        if marker:
            order.insert(there, 4)
        starts = spread(rng, [lengths[place] for place in order], frames)
        return arrange(video, [bag[place] for place in order], starts, bag[-1])

    return show


def show_repeats(
    rng: np.random.Generator, subject: str, options: list[str], answer: int, frames: int, size: int
) -> np.ndarray:
    """One square that goes and comes back, always the same, and in as many frames for every answer: time alone."""
    video = background(rng, frames, size)
    grain = 2 if frames >= 16 else 1  # runs and gaps are multiples of a frame patch where there is room
    count, seen = NUMBERS.index(options[answer]) + 1, max(4 * grain, frames // 4)
    flash = video[:seen]
    paint_anywhere(rng, flash, tint(rng, COLORS[subject]))
    cuts = np.sort(rng.permutation(np.arange(grain, seen, grain))[: count - 1])
    runs = np.split(np.arange(seen), cuts)
    slack = (frames - seen) // grain - (count - 1)
    shifts = np.sort(rng.integers(0, slack + 1, count)) + np.arange(count)
    starts = [int(run[0] + shift * grain) for run, shift in zip(runs, shifts, strict=True)]
    return arrange(video, runs, starts, np.arange(seen, frames))


def arrange(video: np.ndarray, runs: list[np.ndarray], starts: list[int], rest: np.ndarray) -> np.ndarray:
    """Put runs of frames at their starts and the rest, in its order, everywhere else."""
    source = np.full(len(video), -1)
    for run, start in zip(runs, starts, strict=True):
        source[start : start + len(run)] = run
    source[source < 0] = rest
    return video[source]


def show_place(
    rng: np.random.Generator, subject: str, options: list[str], answer: int, frames: int, size: int
) -> np.ndarray:
    """A coloured square that stays at one of the four sides."""
    video = background(rng, frames, size)
    side = int(rng.integers(15, 22))
    far, off = UNITS - side, (UNITS - side) // 2 + int(rng.integers(-4, 5))
    edge = int(rng.integers(0, 5))
    corner = {"left": (off, edge), "right": (off, far - edge), "top": (edge, off), "bottom": (far - edge, off)}
    paint(video[stay(rng, frames)], tint(rng, COLORS[subject]), *corner[options[answer]], side)
    return video


def show_many(
    rng: np.random.Generator, subject: str, options: list[str], answer: int, frames: int, size: int
) -> np.ndarray:
    """One to four squares of the asked colour, one a quadrant."""
    video = background(rng, frames, size)
    count = NUMBERS.index(options[answer]) + 1
    here, color = stay(rng, frames), tint(rng, COLORS[subject])
    for quadrant in rng.permutation(4)[:count]:
        side = int(rng.integers(12, 18))
        top, left = rng.integers(0, UNITS // 2 - side, 2) + UNITS // 2 * np.array(divmod(int(quadrant), 2))
        paint(video[here], color, top, left, side)
    return video


def show_largest(
    rng: np.random.Generator, _: str, options: list[str], answer: int, frames: int, size: int
) -> np.ndarray:
    """Four squares, one a quadrant and one of each option's colour; the answer's is the largest."""
    video = background(rng, frames, size)
    here = stay(rng, frames)
    for option, quadrant in enumerate(rng.permutation(4)):
        side = int(rng.integers(22, 27)) if option == answer else int(rng.integers(9, 16))
        top, left = rng.integers(0, UNITS // 2 - side, 2) + UNITS // 2 * np.array(divmod(int(quadrant), 2))
        paint(video[here], tint(rng, COLORS[options[option]]), top, left, side)
    return video


def stay(rng: np.random.Generator, frames: int) -> slice:
    """The frames in which a thing of a layout question is there: at least the middle half."""
    return slice(int(rng.integers(0, frames // 4 + 1)), frames - int(rng.integers(0, frames // 4 + 1)))


FAMILIES = {
    family.name: family
    for family in (
        Family("needle", (Kind("ring", "what color had the ring around it", None, show_ring),), 2),
        Family(
            "order",
            (
                Kind("first", "which color came first of them all", None, show_sequence(False)),
                Kind("after", "which color came right after the white", None, show_sequence(True)),
                Kind("often", "how often did we see the", NUMBERS, show_repeats),
            ),
            8,
        ),
        Family(
            "layout",
            (
                Kind("place", "where in the video is the", PLACES, show_place),
                Kind("many", "how many squares are there in", NUMBERS, show_many),
                Kind("largest", "which color had the largest of squares", None, show_largest),
            ),
            2,
        ),
        Family(
            "long_needle",
            (
                Kind("ring", "what color had the ring around it", None, long.scene(long.ring)),
                Kind("beside", "which color was right beside the", None, long.scene(long.beside), about=True),
            ),
            *(2, True),
        ),
        Family(
            "long_order",
            (
                Kind("first", "which color came first of them all", None, long.scene(long.sequence(False))),
                Kind("after", "which color came right after the white", None, long.scene(long.sequence(True))),
            ),
            *(10, True),
        ),
        Family(
            "long_count",
            (
                Kind("often", "how often did we see the", NUMBERS, long.scene(long.often)),
                Kind("most", "which color came most often of all", None, long.scene(long.most)),
            ),
            *(14, True),
        ),
        Family(
            "long_layout",
            (
                Kind("place", "where from the white is the", PLACES, long.scene(long.place)),
                Kind("many", "how many squares are there in", NUMBERS, long.scene(long.many)),
                Kind("largest", "which color had the largest of squares", None, long.scene(long.largest)),
            ),
            *(2, True),
        ),
    )
}
SHORT, LONG = (tuple(name for name, family in FAMILIES.items() if family.is_long is which) for which in (False, True))


def check_asked(families: Sequence[str], frames: Iterable[int]) -> None:
    """Raise SettingsError for a family that there is not, for short ones beside long ones, and for videos too
    short for all of them."""
    known = ", ".join(FAMILIES)
    for name in families:
        require(name in FAMILIES, "families", name, f"choose from {known}")
    both = {FAMILIES[name].is_long for name in families}
    require(len(both) == 1, "families", "+".join(families), f"short ones ({', '.join(SHORT)}) or long ones alone")
    needed = min(FAMILIES[name].min_frames for name in families)
    for length in frames:
        require(length >= needed, "frames", length, f"{', '.join(families)} need at least {needed}")


def vocabulary(families: Iterable[str] = SHORT) -> list[str]:
    """Every word that a question or an option of these families can hold."""
    kinds = [kind for name in families for kind in FAMILIES[name].kinds]
    words = {word for kind in kinds for word in (*kind.question.split(), *(kind.words or ()))}
    return sorted(words | set(COLORS))
