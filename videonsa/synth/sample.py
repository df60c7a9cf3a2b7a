"""One synthetic question about one synthetic video, made from (split, seed, index) alone."""

from dataclasses import dataclass
from zlib import crc32

import numpy as np

from videonsa.config import one_of, require
from videonsa.synth.families import FAMILIES, Family, Kind

SPLITS = ("train", "test")
SECONDS = 8  # a video lasts so long, however many frames show it
TEXT, VIDEO, ANSWER = range(3)  # independent streams of random numbers


@dataclass(frozen=True)
class Sample:
    """A video, a question about it and its four options, of which one is the answer."""

    frames: np.ndarray  # uint8 [T, H, W, 3]
    question: str
    options: tuple[str, ...]  # four words
    answer: str  # one of the options
    family: str
    kind: str  # which kind of the family's questions


def make_sample(family: str, *, split: str, seed: int, index: int, frames: int, size: int = 56) -> Sample:
    """The sample number `index` of a split: the same arguments always give the same sample, and splits share none.

    Args:
        family: a name in FAMILIES.
        frames: length of the video, frames; each family has a least length.
        size: width and height of a frame, px.
    Raises:
        SettingsError: unknown family or split, too few frames, a frame below 28 px.
    """
    one_of("family", family, FAMILIES)
    one_of("split", split, SPLITS)
    least = FAMILIES[family].min_frames
    require(frames >= least, "frames", frames, f"{family} videos need at least {least}")
    require(size >= 28, "size", size, "at least 28 px, one vision token")
    kind, place = choose(FAMILIES[family], split, seed, index)
    return compose(FAMILIES[family], kind, place, split, seed, index, frames, size)


def choose(family: Family, split: str, seed: int, index: int) -> tuple[Kind, int]:
    """The kind of question, in turn, and the right option's number, each once in every four questions of a kind."""
    turn, kind = divmod(index, len(family.kinds))
    block, within = divmod(turn, 4)
    order = stream(family.name, split, seed, block, ANSWER, kind).permutation(4)
    return family.kinds[kind], int(order[within])


def compose(
    family: Family, kind: Kind, place: int, split: str, seed: int, index: int, frames: int, size: int
) -> Sample:
    """Ask, then show a video in which option number `place` is right; the question does not depend on `place`."""
    question, options = kind.ask(stream(family.name, split, seed, index, TEXT))
    subject = question.split()[-1]
    video = kind.show(stream(family.name, split, seed, index, VIDEO), subject, options, place, frames, size)
    return Sample(video, question, tuple(options), options[place], family.name, kind.name)


def stream(family: str, split: str, seed: int, index: int, *purpose: int) -> np.random.Generator:
    """Random numbers for one purpose of one sample. The split is part of the key: train and test never meet."""
    return np.random.default_rng([SPLITS.index(split), crc32(family.encode()), seed, index, *purpose])


def prompt_text(sample: Sample) -> str:
    """What the user says: the question and its four options."""
    return f"{sample.question}? " + ", ".join(sample.options)
