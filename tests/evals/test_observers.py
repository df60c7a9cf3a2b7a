"""Observers: a probe streams, names are checked, what a question shows is told right."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from evals.checkpoint import Checkpoint
from evals.observers import registry
from evals.observers.contract import Observer, SeenLayer, SeenVideo, seen_video
from evals.probe import Stream, prefill, questions
from evals.suites import suite_settings
from videonsa.config import NSASettings, SettingsError


class Remembers(Observer):
    """Which layers' inputs are still there when another layer runs."""

    def __init__(self, nsa: NSASettings) -> None:
        super().__init__(nsa)
        self.seen: list[weakref.ref] = []
        self.alive: list[int] = []

    def look(self, layer: SeenLayer, video: SeenVideo) -> None:
        self.alive.append(sum(ref() is not None for ref in self.seen))
        inputs = layer.inputs
        self.seen += [weakref.ref(kept) for kept in (layer, inputs, inputs.query, inputs.key, inputs.gates)]


@pytest.fixture(scope="module")
def video(loaded: Checkpoint, data: Path) -> SeenVideo:
    """The first question of a suite."""
    index, question = next(questions(loaded, suite_settings("synth_needle", limit=4), 1, data))
    return seen_video(index, "synth_needle", question, loaded.model.config)


def test_no_observer_keeps_what_a_layer_was_given(loaded: Checkpoint, video: SeenVideo) -> None:
    nsa = loaded.use({})
    watch = Remembers(nsa)
    prefill(loaded, Stream({"first": watch, **registry.make(registry.names(), nsa)}, nsa, video, "nsa"))
    assert watch.alive == [0] * loaded.model.config.text_config.num_hidden_layers
    assert not any(ref() is not None for ref in watch.seen)


def test_pixels_stand_where_their_tokens_do(video: SeenVideo) -> None:
    """Against the processor's layout turned back: each patch of a token in its place, each frame in its turn."""
    (piece,) = video.pieces
    time, height, width = piece.grid
    assert (piece.kind, piece.first, piece.tokens) == ("video", 0, video.question.vision_tokens)
    found = video.pixels(piece, slice(0, time))
    rows, merge = video.question.inputs["pixel_values_videos"], video.merge
    side = found.shape[-1] // merge
    assert found.shape[:5] == (time, height, width, 3, video.frames)
    for place in (0, 1, len(rows) - 1):
        token, patch = divmod(place, merge**2)
        at = (token // (height * width), token // width % height, token % width)
        row, column = (side * part for part in divmod(patch, merge))
        pixels = found[at][..., row : row + side, column : column + side]
        torch.testing.assert_close(pixels.flatten(), rows[place], rtol=0, atol=0)
    assert torch.equal(video.pixels(piece, slice(1, 99)), found[1:])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("gates+gatez", "no observer 'gatez'; observers: gates, "),
        ([], "give a list of observers: gates, "),
        ({"gates": 1}, "give a list of observers"),
        (["gates", "gates"], "name each observer once"),
        ([3], "no observer 3"),
    ],
)
def test_names_are_checked(value: object, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        registry.chosen(value, "probe: observers")


def test_every_observer_is_there_and_says_what_it_is(loaded: Checkpoint) -> None:
    made = registry.make(registry.names(), loaded.use({}))
    assert list(made) == registry.names()
    assert set(registry.USUAL) <= set(made)
    for entry in registry.ENTRIES:
        assert entry.shows
        assert entry.needs
        looks: Callable = type(made[entry.name]).look if entry.of_nsa else type(made[entry.name]).choose
        assert looks not in (Observer.look, Observer.choose)
        assert "layer" in (type(made[entry.name]).__doc__ or ""), "its docstring states what it keeps"
