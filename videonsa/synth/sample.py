"""One synthetic question about one synthetic video, made from (split, seed, index) alone."""

from dataclasses import dataclass
from zlib import crc32

import numpy as np

from videonsa.config import one_of, require
from videonsa.synth.families import FAMILIES, Family, Kind, Random
from videonsa.synth.hashing import Draws
from videonsa.synth.scene import Scene

SPLITS = ("train", "test")
TEXT, VIDEO, ANSWER = range(3)  # independent streams of random numbers


@dataclass(frozen=True)
class Sample:
    """A video, a question about it and its four options, of which one is the answer."""

    video: np.ndarray | Scene  # uint8 [T, H, W, 3]; of long families what is to be drawn
    question: str
    options: tuple[str, ...]  # four words
    answer: str  # one of the options
    family: str
    kind: str  # which kind of the family's questions

    @property
    def frames(self) -> np.ndarray:
        """Of a sample of a short family; of any: videonsa.drawing.frames_of."""
        assert isinstance(self.video, np.ndarray)
        return self.video


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
    order = stream(family, split, seed, block, ANSWER, kind).permutation(4)
    return family.kinds[kind], int(order[within])


def compose(
    family: Family, kind: Kind, place: int, split: str, seed: int, index: int, frames: int, size: int
) -> Sample:
    """Ask, then show a video in which option number `place` is right; the question does not depend on `place`."""
    question, options = kind.ask(stream(family, split, seed, index, TEXT))
    subject = question.split()[-1]
    video = kind.show(stream(family, split, seed, index, VIDEO), subject, options, place, frames, size)
    return Sample(video, question, tuple(options), options[place], family.name, kind.name)


def stream(family: Family, split: str, seed: int, index: int, *purpose: int) -> Random:
    """Random numbers for one purpose of one sample. The split is part of the key: train and test never meet."""
    key = (SPLITS.index(split), crc32(family.name.encode()), seed, index, *purpose)
    return Draws(*key) if family.is_long else np.random.default_rng(list(key))


def prompt_text(sample: Sample) -> str:
    """What the user says: the question and its four options."""
    return f"{sample.question}? " + ", ".join(sample.options)
