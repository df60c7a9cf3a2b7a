"""Look into the attention of a checkpoint on a few videos of a suite, layer by layer: gates, sinks, recall."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evals.asking import prepared
from evals.checkpoint import Checkpoint, load
from evals.question import Question, Sampling
from evals.recall import Recall
from evals.run import load_task
from evals.shown import Shown
from evals.sinks import Keys, branch_keys
from videonsa.config import BRANCHES, NSASettings, SettingsError, SuiteSettings
from videonsa.methods.entries import MethodSettings
from videonsa.methods.registry import described
from videonsa.modeling import AttentionInputs, capture_attention, looking
from videonsa.surroundings import full_products, settings_decide

BINS = 4096  # of a gate's histogram: quartiles are right to half a bin
POINTS = 64  # keys of each layer and branch that are kept one by one, for scatter plots; sinks first


class Gates:
    """Gates of one layer and branch over heads, tokens and videos, as a histogram: memory does not grow with them."""

    def __init__(self, top: float) -> None:
        self.top, self.sum, self.count = top, 0.0, 0
        self.bins = torch.zeros(BINS, dtype=torch.float64)

    def add(self, gates: Tensor) -> None:
        """Any shape, values in [0, top]."""
        values = gates.float().flatten()
        self.sum += float(values.double().sum())
        self.count += values.numel()
        self.bins += torch.histc(values, BINS, 0.0, self.top).double().cpu()

    def summary(self) -> dict[str, float]:
        """Mean and quartiles."""
        shares = self.bins.cumsum(0) / self.count
        quartile = {
            name: (int(torch.searchsorted(shares, share)) + 0.5) * self.top / BINS
            for name, share in (("q25", 0.25), ("median", 0.5), ("q75", 0.75))
        }
        return {"mean": self.sum / self.count, **quartile}


class Layer:
    """What is collected of one layer."""

    def __init__(self, number: int, nsa: NSASettings) -> None:
        self.number, self.nsa = number, nsa
        top = max(1.0, *(nsa.gate_values or (1.0,)))
        self.gates = {name: Gates(top) for name in nsa.branches}
        self.sinks: dict[str, list[int]] = {}  # branch: sinks, keys
        self.points: dict[str, list[dict[str, Any]]] = {}

    def add(self, inputs: AttentionInputs) -> None:
        """One video."""
        for name, gates in self.gates.items():
            gates.add(inputs.gates[0, :, :, BRANCHES.index(name)])
        for name, keys in branch_keys(inputs, self.nsa).items():
            sink = keys.sink
            counts = self.sinks.setdefault(name, [0, 0])
            counts[0] += int(sink.sum())
            counts[1] += sink.numel()
            self.points.setdefault(name, []).extend(_points(keys, sink, self.number, name))

    def summary(self) -> dict[str, Any]:
        sinks = {
            name: {"ratio": found / keys if keys else None, "sinks": found, "keys": keys}
            for name, (found, keys) in self.sinks.items()
        }
        return {
            "layer": self.number,
            "gates": {name: gates.summary() for name, gates in self.gates.items()},
            "sinks": sinks,
        }

    def chosen_points(self) -> Iterator[dict[str, Any]]:
        for points in self.points.values():
            yield from sorted(points, key=lambda point: not point["sink"])[:POINTS]


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
) -> dict[str, Any]:
    """Gates, sinks and recall on the suite's first `videos` questions, at most its limit; prefill only.

    Arguments as of `evals.run.evaluate`; methods: others than NSA whose choice of keys is looked at, on the same
    videos.

    Returns:
        {"layers", "points", "videos"} of a probe record; `gates` of each branch; `sinks` of each branch, of the gated
        sum, and of dense attention over the same queries and keys, with NSA; `recall` of each method (evals/recall.py).
    Raises:
        SettingsError: as `evaluate`; attention="dense" without methods, which has nothing to look at; no video that can
            be read.
    """
    loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load(checkpoint)
    settings = loaded.use(nsa)
    ways: list[MethodSettings | None] = [*([] if settings.attention == "dense" else [None]), *methods]
    if not ways:
        raise SettingsError("attention='dense' has no gates to look at: probe with attention='nsa'")
    layers: dict[int, Layer] = {}
    recalls: dict[str, Recall] = {}
    seen = 0
    for question in questions(loaded, suite, videos, data):
        for method in ways:
            loaded.use(nsa, method)
            recall = recalls.setdefault("nsa" if method is None else described(method), Recall())
            for inputs in _prefill(loaded, question, recall):
                layers.setdefault(inputs.layer, Layer(inputs.layer, settings)).add(inputs)
        seen += 1
    loaded.use(nsa)
    if not seen:
        raise SettingsError(f"suite {suite.name}: none of its first {videos} videos can be read")
    found = {name: recall.summary() for name, recall in recalls.items()}
    summaries = []
    for number in range(loaded.model.config.text_config.num_hidden_layers):
        own = layers[number].summary() if number in layers else {"layer": number, "gates": {}, "sinks": {}}
        here = {name: by_layer[number] for name, by_layer in found.items() if number in by_layer}
        summaries.append(own | {"recall": here})
    points = [point for _, layer in sorted(layers.items()) for point in layer.chosen_points()]
    return {"layers": summaries, "points": points, "videos": seen}


def questions(loaded: Checkpoint, suite: SuiteSettings, videos: int, data: Path | str | None) -> Iterator[Question]:
    """The first questions, one after the other; videos that cannot be read are left out."""
    task = load_task(suite, data)
    sampling = Sampling(suite.frames, suite.fps, suite.tokens_per_frame)
    for number in range(min(videos, len(task.eval_docs), suite.limit or videos)):
        messages = partial(task.doc_to_messages, task.eval_docs[number])
        _, question = prepared(Shown(loaded.processor, loaded.readers.read), messages, sampling)
        if question is not None and question.vision_tokens:
            yield question


@torch.inference_mode()
def _prefill(loaded: Checkpoint, question: Question, recall: Recall) -> list[AttentionInputs]:
    """What NSA was given in each layer; nothing of another method. What a method keeps goes into `recall`."""
    with capture_attention(loaded.model) as captured, looking(loaded.model, recall.look):
        loaded.model(**question.on(loaded.device), use_cache=False, logits_to_keep=1)
    return captured


def _points(keys: Keys, sink: Tensor, layer: int, branch: str) -> list[dict[str, Any]]:
    """Some keys of all heads: sinks, and others evenly spread over heads and positions."""
    flat = sink.flatten()
    spread = torch.linspace(0, max(0, flat.numel() - 1), min(POINTS, flat.numel()), device=flat.device).long()
    chosen = torch.cat([flat.nonzero()[:, 0][: POINTS // 2], spread]).unique().tolist()
    length = max(1, sink.shape[1] - 1)
    alpha, norm = keys.alpha.flatten().tolist(), keys.norm.flatten().tolist()
    return [
        {
            "layer": layer,
            "branch": branch,
            "position": index % sink.shape[1] / length,
            "alpha": alpha[index],
            "v_norm": norm[index],
            "sink": bool(flat[index]),
        }
        for index in chosen
    ]
