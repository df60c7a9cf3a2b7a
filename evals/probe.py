"""Look into the attention of a checkpoint on a few videos of a suite, layer by layer, by observers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evals.asking import prepared
from evals.checkpoint import Checkpoint, load
from evals.observers import registry
from evals.observers.contract import Observer, SeenLayer, SeenVideo, places, seen_video
from evals.question import Question, Sampling
from evals.run import load_task
from evals.shown import Shown
from videonsa.config import NSASettings, SettingsError, SuiteSettings
from videonsa.methods.contract import LayerCall, Method
from videonsa.methods.entries import MethodSettings
from videonsa.methods.registry import described
from videonsa.modeling import AttentionInputs, capture_attention, looking
from videonsa.surroundings import full_products, settings_decide


class Stream:
    """Hands what each layer is given to the observers as it runs, and keeps nothing of it."""

    def __init__(self, observers: Mapping[str, Observer], nsa: NSASettings, video: SeenVideo, way: str) -> None:
        self.observers, self.nsa, self.video, self.way = tuple(observers.values()), nsa, video, way
        self._places: Tensor | None = None

    def look(self, method: Method, call: LayerCall) -> None:
        """Before the method attends."""
        if self._places is None:
            self._places = places(method, self.video.question)
        for observer in self.observers:
            observer.choose(self.way, method, call)

    def append(self, inputs: AttentionInputs) -> None:
        """What NSA is given; no other method gives anything."""
        assert self._places is not None
        layer = SeenLayer(inputs, self.nsa, self._places)
        for observer in self.observers:
            observer.look(layer, self.video)


@settings_decide()
@full_products()
def probe(
    checkpoint: Path | str | Checkpoint,
    nsa: dict[str, Any],
    suite: SuiteSettings,
    videos: int = 8,
    *,
    data: Path | str | None = None,
    methods: Sequence[MethodSettings] = (),
    observers: Sequence[str] = registry.USUAL,
) -> dict[str, Any]:
    """What the observers see on the suite's first `videos` questions, at most its limit; prefill only.

    Arguments as of `evals.run.evaluate`; methods: others than NSA whose choice of keys is looked at, on the same
    videos; observers: names of evals/observers/registry.py.

    Returns:
        {"layers", "videos", "observers", "arrays"} of a probe record, and what an observer says of all layers together,
        such as "points". layers[i] holds the values of each observer that looked at layer i, by its name; arrays are
        numpy's, by OBSERVER/NAME.
    Raises:
        SettingsError: as `evaluate`; an observer that does not exist; attention="dense" without methods, which has
            nothing to look at; no video that can be read.
    """
    names = registry.chosen(list(observers), "observers")
    loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load(checkpoint)
    settings = loaded.use(nsa)
    ways: list[MethodSettings | None] = [*([] if settings.attention == "dense" else [None]), *methods]
    if not ways:
        raise SettingsError("attention='dense' has no gates to look at: probe with attention='nsa'")
    looking_on = registry.make(names, settings)
    seen = 0
    for index, question in questions(loaded, suite, videos, data):
        video = seen_video(index, suite.name, question, loaded.model.config)
        for method in ways:
            loaded.use(nsa, method)
            prefill(loaded, Stream(looking_on, settings, video, "nsa" if method is None else described(method)))
        seen += 1
    loaded.use(nsa)
    if not seen:
        raise SettingsError(f"suite {suite.name}: none of its first {videos} videos can be read")
    layers = loaded.model.config.text_config.num_hidden_layers
    return {**_found(looking_on, layers), "videos": seen, "observers": list(names)}


def _found(observers: Mapping[str, Observer], layers: int) -> dict[str, Any]:
    """What the observers have seen, as a record keeps it."""
    by_layer = {name: observer.by_layer() for name, observer in observers.items()}
    found: dict[str, Any] = {
        "layers": [
            {"layer": number} | {name: here[number] for name, here in by_layer.items() if number in here}
            for number in range(layers)
        ]
    }
    for observer in observers.values():
        found |= observer.whole()
    arrays = {f"{name}/{key}": value for name, one in observers.items() for key, value in one.arrays().items()}
    return found | {"arrays": arrays}


def questions(
    loaded: Checkpoint, suite: SuiteSettings, videos: int, data: Path | str | None
) -> Iterator[tuple[int, Question]]:
    """The first questions and their places, one after the other; videos that cannot be read are left out."""
    task = load_task(suite, data)
    sampling = Sampling(suite.frames, suite.fps, suite.tokens_per_frame)
    for number in range(min(videos, len(task.eval_docs), suite.limit or videos)):
        messages = partial(task.doc_to_messages, task.eval_docs[number])
        _, question = prepared(Shown(loaded.processor, loaded.reading), messages, sampling)
        if question is not None and question.vision_tokens:
            yield number, question


@torch.inference_mode()
def prefill(loaded: Checkpoint, stream: Stream) -> None:
    """One prefill of the stream's question, under the attention that the checkpoint was last told to use."""
    with capture_attention(loaded.model, stream), looking(loaded.model, stream.look):
        loaded.model(**stream.video.question.on(loaded.device), use_cache=False, logits_to_keep=1)
