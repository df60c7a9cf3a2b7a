"""Long videos: drawn by integers alone, the same on any device; and what is asked of them is what they show."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from videonsa.config import SettingsError
from videonsa.drawing import draw, draw_each, frames_of
from videonsa.synth import FAMILIES, LONG, Scene, check_asked, make_sample, read_scene, write_scene
from videonsa.synth.canvas import COLORS
from videonsa.synth.hashing import Draws
from videonsa.synth.sample import compose
from videonsa.synth.scene import Box

NUMBERS = ("one", "two", "three", "four")
WHITE = (255, 255, 255)


def hashed(key: int, place: int) -> int:
    """The hash once more, in numbers of 32 bits that wrap around."""
    with np.errstate(over="ignore"):
        x = np.uint32(key) + np.uint32(place) * np.uint32(0x1E3779B1)
        for shift, factor in ((15, 0x2C1B3C6D), (12, 0x297A2D39)):
            x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
        return int(x ^ (x >> np.uint32(15)))


def drawn_slowly(scene: Scene, time: int) -> np.ndarray:
    """One frame, pixel by pixel."""
    high, low = divmod(scene.key, 1 << 32)
    frame = hashed(hashed(low, time) ^ high, 0)

    def below(place: int, count: int) -> int:
        return hashed(frame, place) * count // (1 << 32)

    units = np.zeros((56, 56, 3), np.uint8)
    for row, column in np.ndindex(56, 56):
        cell = 8 * (row // 7) + column // 7
        units[row, column] = 50 + below(0, 100) + below(64 + cell, 40) + below(64 * 64 + 56 * row + column, 20)
    greys = []
    for first in (4096 * 64, 4096 * 64 + 4):
        side = 10 + below(first, 10)
        greys.append(((below(first + 1, 57 - side), below(first + 2, 57 - side), side), (below(first + 3, 200),) * 3))
    shown = [((box.top, box.left, box.side), box[5:]) for box in scene.boxes if box.first <= time < box.end]
    for (top, left, side), color in [*greys, *shown]:
        units[top : top + side, left : left + side] = color
    return np.array([[units[row * 56 // scene.size, column * 56 // scene.size] for column in range(scene.size)]
                     for row in range(scene.size)])  # fmt: skip


BOXES = (Box(0, 4, 2, 3, 20, 250, 9, 0), Box(2, 6, 10, 12, 16, 0, 190, 7), Box(3, 4, 30, 0, 26, 255, 255, 255))


def test_frames_are_those_that_are_drawn_slowly():
    scene = Scene(frames=6, size=84, key=0xFEDCBA9876543210, boxes=BOXES)
    frames = draw([scene])[0]
    assert frames.dtype == torch.uint8
    for time in (0, 3, 5):
        assert np.array_equal(frames[time].numpy(), drawn_slowly(scene, time))


def test_a_frame_does_not_depend_on_what_is_drawn_beside_it(monkeypatch):
    scenes = [Scene(8, 28, key, BOXES[:count]) for key, count in ((1, 3), (1 << 40, 0), (7, 1))]
    alone = [draw([scene])[0] for scene in scenes]
    assert all(map(torch.equal, draw(scenes), alone))
    assert torch.equal(draw(scenes[:1], indices=np.array([6, 3]))[0], alone[0][[6, 3]])
    assert [len(each) for each in draw_each([scenes[0], Scene(4, 28, 2, ())])] == [8, 4]
    monkeypatch.setattr("videonsa.drawing.AT_ONCE", 9)
    assert all(map(torch.equal, draw(scenes), alone))


@pytest.mark.gpu
def test_a_gpu_draws_the_same():
    for family in LONG:
        scenes = [
            scene_of(make_sample(family, split="test", seed=0, index=index, frames=512, size=224)) for index in range(4)
        ]
        assert torch.equal(draw(scenes, "cuda").cpu(), draw(scenes))


def scene_of(sample) -> Scene:
    assert isinstance(sample.video, Scene)
    return sample.video


def test_a_scene_is_what_was_written(tmp_path):
    scene = Scene(frames=6, size=84, key=(1 << 64) - 1, boxes=BOXES)
    (tmp_path / "a.scene.json").write_text(write_scene(scene))
    assert read_scene(tmp_path / "a.scene.json") == scene
    (tmp_path / "b.scene.json").write_text('{"frames": 6}')
    with pytest.raises(SettingsError, match=r"^b.scene.json: no scene: KeyError"):
        read_scene(tmp_path / "b.scene.json")


def test_draws_are_spread():
    draws = Draws(3, 1)
    counts = Counter(draws.integers(0, 5) for _ in range(5000))
    assert all(880 < counts[value] < 1120 for value in range(5))  # 4 standard deviations
    firsts = Counter(tuple(Draws(3, 1, index).permutation("abc")) for index in range(3000))
    assert len(firsts) == 6
    assert all(400 < count < 600 for count in firsts.values())


@pytest.mark.parametrize("frames", [16, 34])
@pytest.mark.parametrize("family", LONG)
def test_what_is_asked_is_what_is_shown(family, frames):
    """The answers, read off the pixels."""
    kinds = len(FAMILIES[family].kinds)
    for index in range(3 * kinds):
        sample = make_sample(family, split="test", seed=1, index=index, frames=frames, size=56)
        assert [sample.answer] == ANSWERS[sample.kind](sample, frames_of(sample)), (sample.kind, index)


def covered(frames: np.ndarray, rgb: tuple[int, int, int]) -> np.ndarray:
    """Where a pixel has the colour, but for its tint: bool [T, H, W]; grey is no colour."""
    return (np.abs(frames.astype(np.int16) - np.array(rgb, np.int16)) <= 12).all(axis=-1)


def area(frames: np.ndarray, name: str) -> np.ndarray:
    """Pixels of a colour in each frame."""
    return covered(frames, WHITE if name == "white" else COLORS[name]).sum(axis=(1, 2))


def seen(frames: np.ndarray, name: str) -> np.ndarray:
    return area(frames, name) > 60


def comes(frames: np.ndarray, name: str) -> int:
    """How often a colour comes."""
    here = seen(frames, name)
    return int(here[0]) + int((here[1:] & ~here[:-1]).sum())


def with_the(name: str, sample, frames: np.ndarray) -> list[str]:
    here = frames[seen(frames, name)]
    return [option for option in sample.options if seen(here, option).any()]


def next_after(time: int, sample, frames: np.ndarray) -> list[str]:
    starts = {option: int(seen(frames, option).argmax()) for option in sample.options}
    return [min((option for option in starts if starts[option] > time), key=starts.__getitem__)]


def most_often(sample, frames: np.ndarray) -> list[str]:
    counts = {option: comes(frames, option) for option in sample.options}
    return [option for option, count in counts.items() if count == max(counts.values())]


def side_of_white(sample, frames: np.ndarray) -> list[str]:
    middle = frames[len(frames) // 2][None]
    here, there = (np.argwhere(covered(middle, rgb)[0]).mean(axis=0) for rgb in (COLORS[asked(sample)], WHITE))
    down, right = here - there
    if abs(down) > abs(right):
        return ["bottom" if down > 0 else "top"]
    return ["right" if right > 0 else "left"]


def cells_of(sample, frames: np.ndarray) -> list[str]:
    inside = covered(frames[len(frames) // 2], COLORS[asked(sample)])[1:55, 1:55]
    return [NUMBERS[int((inside.reshape(3, 18, 3, 18).sum(axis=(1, 3)) > 60).sum()) - 1]]


def widest(sample, frames: np.ndarray) -> list[str]:
    return [max(sample.options, key=lambda option: area(frames, option).max())]


def asked(sample) -> str:
    """The colour that the question names."""
    return sample.question.split()[-1]


ANSWERS = {
    "ring": lambda sample, frames: with_the("white", sample, frames),
    "beside": lambda sample, frames: with_the(asked(sample), sample, frames),
    "first": lambda sample, frames: next_after(-1, sample, frames),
    "after": lambda sample, frames: next_after(np.flatnonzero(seen(frames, "white")).max(), sample, frames),
    "often": lambda sample, frames: [NUMBERS[comes(frames, asked(sample)) - 1]],
    "most": most_often,
    "place": side_of_white,
    "many": cells_of,
    "largest": widest,
}


def test_a_needle_is_in_few_of_thousands_of_frames():
    for index in range(8):
        scene = scene_of(make_sample("long_needle", split="test", seed=0, index=index, frames=4096, size=224))
        assert sum(box.end - box.first for box in scene.boxes) <= 4 * (16 + 1)
        assert len(write_scene(scene)) < 1000


@pytest.mark.parametrize("kind", FAMILIES["long_order"].kinds, ids=lambda kind: kind.name)
def test_the_same_squares_serve_all_orders(kind):
    squares = []
    for place in range(4):
        sample = compose(FAMILIES["long_order"], kind, place, "test", 0, 3, 64, 56)
        squares.append(Counter(box[2:] for box in scene_of(sample).boxes))
    assert squares[0] == squares[1] == squares[2] == squares[3]


@pytest.mark.parametrize(
    ("family", "kind", "numbers"),
    [
        ("long_needle", 0, range(2, 18)),  # with the ring
        ("long_needle", 1, range(2, 9, 2)),
        ("long_count", 0, range(4, 9)),
        ("long_layout", 0, range(2, 6)),  # squares, the white one among them
    ],
)
def test_as_many_things_are_shown_for_every_answer_and_not_always_as_many(family, kind, numbers):
    shown = [
        {
            len(
                scene_of(compose(FAMILIES[family], FAMILIES[family].kinds[kind], place, "test", 0, index, 64, 56)).boxes
            )
            for place in range(4)
        }
        for index in range(60)
    ]
    assert all(len(alike) == 1 for alike in shown)
    assert set.union(*shown) == set(numbers)


def test_beside_the_squares_that_are_counted_are_none_to_three_others():
    others = set()
    for index in range(60):
        sample = make_sample("long_layout", split="test", seed=0, index=3 * index + 1, frames=16, size=56)
        assert sample.kind == "many"
        others.add(len(scene_of(sample).boxes) - NUMBERS.index(sample.answer) - 1)
    assert others == {0, 1, 2, 3}


def test_short_and_long_are_not_trained_together():
    with pytest.raises(SettingsError, match=r"short ones .* or long ones alone"):
        check_asked(("needle", "long_order"), (16,))
