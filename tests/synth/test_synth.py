"""Synthetic questions: repeatable, balanced, not to be answered from the text, nor (time) from a bag of frames."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict

import numpy as np
import pytest

from videonsa.config import SettingsError
from videonsa.drawing import frames_of
from videonsa.synth import FAMILIES, LONG, SHORT, SPLITS, Scene, make_sample, prompt_text, vocabulary, write_scene
from videonsa.synth.canvas import COLORS
from videonsa.synth.sample import compose, stream

FRAMES = 16
KINDS = [(family, kind) for family in FAMILIES.values() for kind in family.kinds]
kinds = pytest.mark.parametrize(("family", "kind"), KINDS, ids=[f"{f.name}-{k.name}" for f, k in KINDS])
families = pytest.mark.parametrize("family", FAMILIES)


def samples(family: str, count: int, split: str = "test", seed: int = 0, frames: int = FRAMES, size: int = 28):
    return [make_sample(family, split=split, seed=seed, index=i, frames=frames, size=size) for i in range(count)]


def digest(shown: np.ndarray | Scene) -> str:
    data = write_scene(shown).encode() if isinstance(shown, Scene) else shown.tobytes()
    return hashlib.sha256(data).hexdigest()


def shortest(family: str) -> int:
    return max(8, FAMILIES[family].min_frames)


@families
def test_a_sample_is_made_from_its_number_alone(family):
    first = make_sample(family, split="train", seed=3, index=7, frames=FRAMES)
    make_sample(family, split="train", seed=3, index=8, frames=FRAMES)
    again = make_sample(family, split="train", seed=3, index=7, frames=FRAMES)
    frames = frames_of(first)
    assert frames.shape == (FRAMES, 56, 56, 3)
    assert frames.dtype == np.uint8
    assert (first.question, first.options, first.answer) == (again.question, again.options, again.answer)
    assert digest(first.video) == digest(again.video)


@families
def test_train_and_test_never_meet(family):
    seen: dict[str, set[str]] = defaultdict(set)
    for split in SPLITS:
        for seed in range(4):  # also for different seeds: training seed 1 against test seed 0
            seen[split] |= {digest(sample.video) for sample in samples(family, 12, split, seed)}
    assert len(seen["train"]) == len(seen["test"]) == 48
    assert not seen["train"] & seen["test"]


@pytest.mark.parametrize("family", ["needle", "long_needle"])
def test_the_split_is_part_of_every_random_stream(family):
    draws = {
        (split, seed, index): stream(FAMILIES[family], split, seed, index, 1).integers(0, 1 << 31)
        for split in SPLITS
        for seed in range(10)
        for index in range(10)
    }
    assert len(set(draws.values())) == len(draws)


@families
def test_answers_are_balanced(family):
    places: dict[str, Counter] = defaultdict(Counter)
    count = 48 * len(FAMILIES[family].kinds)
    for sample in samples(family, count, frames=shortest(family)):
        assert len(set(sample.options)) == 4
        places[sample.kind][sample.options.index(sample.answer)] += 1
    for counts in places.values():
        assert set(counts.values()) == {12}


@kinds
def test_the_text_does_not_know_the_answer(family, kind):
    """All four answers are shown under the very same text, so that no reader of the text alone beats 25 %."""
    for index in range(8):
        four = [compose(family, kind, place, "test", 0, index, FRAMES, 28) for place in range(4)]
        assert len({prompt_text(sample) for sample in four}) == 1
        assert [sample.answer for sample in four] == list(four[0].options)
        assert len({digest(sample.video) for sample in four}) == 4


@pytest.mark.parametrize("family", [*SHORT, *(pytest.param(name, marks=pytest.mark.long) for name in LONG)])
def test_the_best_reader_of_words_and_places_is_at_chance(family):
    """Naive Bayes on question and options, trained on 1,200 samples, tested on 600: no shortcut in their statistics."""
    votes: dict[tuple, Counter] = defaultdict(Counter)
    for sample in samples(family, 1200, split="train", frames=shortest(family)):
        for feature in text_features(sample):
            votes[feature][sample.options.index(sample.answer)] += 1
    right = 0
    for sample in samples(family, 600, frames=shortest(family)):
        score = np.zeros(4)
        for feature in text_features(sample):
            score += np.log([votes[feature][place] + 1 for place in range(4)])
        right += sample.options[int(score.argmax())] == sample.answer
    assert 0.18 < right / 600 < 0.32  # four standard errors about 0.25


def text_features(sample) -> list[tuple]:
    return [(sample.question, place, option) for place, option in enumerate(sample.options)]


@pytest.mark.parametrize("frames", [8, 16, 32, 34])
@pytest.mark.parametrize("kind", FAMILIES["order"].kinds, ids=lambda kind: kind.name)
def test_time_questions_show_the_same_bag_of_frames_for_every_answer(kind, frames):
    for index in range(6):
        bags = []
        for place in range(4):
            sample = compose(FAMILIES["order"], kind, place, "test", 0, index, frames, 28)
            bags.append(Counter(digest(frame) for frame in sample.frames))
        assert bags[0] == bags[1] == bags[2] == bags[3]
        assert sum(bags[0].values()) == frames


def test_frames_of_a_time_question_tell_no_order_by_themselves():
    """Backgrounds are drawn one by one: neighbours in time are no more alike than frames far apart."""
    video = make_sample("order", split="test", seed=0, index=0, frames=128, size=28).frames.astype(float)
    means = video.mean(axis=(1, 2, 3))
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.4


@pytest.mark.parametrize("frames", [16, 32])
def test_what_is_asked_is_what_is_shown(frames):
    """The answers, read off the pixels by other means than they were drawn."""
    for sample in samples("order", 36, frames=frames, size=56):
        if sample.kind == "often":
            seen = sees(sample.frames, sample.question.split()[-1])
            onsets = int(seen[0]) + int((seen[1:] & ~seen[:-1]).sum())
            assert sample.answer == ("one", "two", "three", "four")[onsets - 1]
        elif sample.kind == "first":
            starts = {option: int(sees(sample.frames, option).argmax()) for option in sample.options}
            assert sample.answer == min(starts, key=starts.__getitem__)
        else:
            white = int(np.nonzero(sees_white(sample.frames))[0].max())
            starts = {option: int(sees(sample.frames, option).argmax()) for option in sample.options}
            after = {option: start for option, start in starts.items() if start > white}
            assert sample.answer == min(after, key=after.__getitem__)


def sees(video: np.ndarray, color: str) -> np.ndarray:
    """Frames in which many pixels have the colour, but for its random tint, bool [T]."""
    away = np.abs(video.astype(np.int16) - np.array(COLORS[color], np.int16)).max(axis=-1)
    return (away < 40).sum(axis=(1, 2)) > 100


def sees_white(video: np.ndarray) -> np.ndarray:
    """Frames with a large white square; grey distractors stay below 200."""
    return (video.min(axis=-1) > 215).sum(axis=(1, 2)) > 150


def test_a_needle_is_in_few_frames_of_a_long_video():
    for sample in samples("needle", 8, frames=128, size=56):
        assert 2 <= sees(sample.frames, sample.answer).sum() <= 4


@families
def test_questions_have_the_same_number_of_words(family):
    assert {len(prompt_text(sample).replace(",", "").split()) for sample in samples(family, 24)} == {11}


def test_the_vocabulary_covers_every_question():
    words = {
        word
        for family in FAMILIES
        for sample in samples(family, 30)
        for word in prompt_text(sample).replace("?", "").replace(",", "").split()
    }
    assert words <= set(vocabulary(FAMILIES))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"family": "noodle"}, "choose one of needle, order, layout"),
        ({"split": "dev"}, "choose one of train, test"),
        ({"family": "order", "frames": 4}, "order videos need at least 8"),
        ({"size": 14}, "at least 28 px"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    good = {"family": "needle", "split": "test", "seed": 0, "index": 0, "frames": 8}
    with pytest.raises(SettingsError, match=message):
        make_sample(**{**good, **arguments})
