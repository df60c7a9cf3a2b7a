"""What a training, a cell and a probe depend on, in plain form: the inputs of their identities. Imports no torch.

Records carry these inputs beside the identity that they make, so that a later reader sees why two numbers differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ablations.facts import Facts
from ablations.gates import GateSamples
from evals.observers import registry
from videonsa.config import NSASettings, SuiteSettings, TrainSettings
from videonsa.identity import (
    VERSION,
    evaluation_parts,
    identity,
    probe_parts,
    settings_inputs,
    training_parts,
)
from videonsa.methods.entries import MethodSettings
from videonsa.methods.registry import code_of
from videonsa.names import SMALL_MODELS

TRAIN_PACKAGES = ("torch", "transformers")
PACKAGES = (*TRAIN_PACKAGES, "lmms-eval")  # of evaluations and probes
BY_CONTENT = ("model", "data", "video_folder")  # settings of a training that say where something lies


def identity_of(inputs: Mapping[str, Any]) -> str:
    """12 hexadecimal digits for these inputs, in the form of this version."""
    return identity({"version": VERSION, "inputs": inputs})


def identity_record(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """As records keep it."""
    return {"version": VERSION, "inputs": dict(inputs)}


def training_inputs(settings: TrainSettings, facts: Facts, start: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the weights of a training depend on; `start`: the inputs of the one whose weights it begins with."""
    asked = {key: value for key, value in settings_inputs(settings).items() if key not in BY_CONTENT}
    nsa = settings.nsa
    return {
        "train": asked,
        "model": dict(start)
        if start
        else settings.model
        if settings.model in SMALL_MODELS
        else facts.weights(settings.model),
        "data": "synth" if settings.data == "synth" else facts.data(settings),
        "versions": {name: facts.versions[name] for name in TRAIN_PACKAGES},
        "device": facts.device,
        "code": facts.code(training_parts(nsa.attention, nsa.semantics, settings.model, settings.data)),
    }


def gates_inputs(weights: Mapping[str, Any], asked: GateSamples, facts: Facts) -> dict[str, Any]:
    """What given weights with mean gates of their own depend on; `weights`: what they are."""
    recipe, nsa = settings_inputs(asked.train), asked.nsa
    return {
        "weights": dict(weights),
        "samples": asked.samples,
        "nsa": settings_inputs(nsa),
        "train": {name: recipe[name] for name in asked.recipe if name in recipe},
        "data": "synth" if asked.train.data == "synth" else facts.data(asked.train),
        "versions": {name: facts.versions[name] for name in TRAIN_PACKAGES},
        "device": facts.device,
        "dtype": facts.dtype,
        "code": facts.code(training_parts(nsa.attention, nsa.semantics, "given", asked.train.data)),
    }


def cell_inputs(
    weights: Mapping[str, Any], nsa: NSASettings, suite: SuiteSettings, facts: Facts, method: MethodSettings | None
) -> dict[str, Any]:
    """What the number of a cell depends on; `weights`: the inputs of its training or checkpoint."""
    asked = _asked(weights, nsa, suite, facts)
    code = facts.code(evaluation_parts(*_attention(nsa), is_ours(suite)))
    if method is not None:
        asked["method"] = method.inputs()
        code |= code_of(method, lambda part, find: facts.look("code", part, find))
    return asked | {"code": code}


def probe_inputs(
    weights: Mapping[str, Any],
    nsa: NSASettings,
    suite: SuiteSettings,
    videos: int,
    facts: Facts,
    methods: Sequence[MethodSettings] = (),
    observers: Sequence[str] = registry.USUAL,
) -> dict[str, Any]:
    """What observers see depends on: the questions' first videos, and no answers; their own code and no others'."""
    asked = _asked(weights, nsa, suite, facts) | {"videos": videos}
    for name in ("limit", "max_new_tokens"):
        asked["suite"].pop(name, None)
    if tuple(observers) != registry.USUAL:
        asked["observers"] = sorted(observers)
    parts = [part for name in observers for part in registry.find(name, "observers").code]
    code = facts.code(dict.fromkeys((*probe_parts(*_attention(nsa), is_ours(suite)), *parts)))
    if methods:
        asked["methods"] = [method.inputs() for method in methods]
    for method in methods:
        code |= code_of(method, lambda part, find: facts.look("code", part, find))
    return asked | {"code": code}


def suite_row(name: str) -> dict[str, Any]:
    """What evals/suites.py says of a suite besides its settings, as data: a new suite changes no other's cells."""
    from evals.suites import get_suite

    row = settings_inputs(get_suite(name))
    return {key: value for key, value in row.items() if key != "settings"}


def is_ours(suite: SuiteSettings) -> bool:
    """A synthetic suite of ours; else a task of lmms-eval, or of the user."""
    from evals.suites import get_suite

    return get_suite(suite.name).family is not None


def _asked(weights: Mapping[str, Any], nsa: NSASettings, suite: SuiteSettings, facts: Facts) -> dict[str, Any]:
    return {
        "weights": dict(weights),
        "nsa": settings_inputs(nsa),
        "suite": settings_inputs(suite),
        "row": facts.look("row", suite.name, lambda: suite_row(suite.name)),
        "task": facts.task(suite),
        "versions": {name: facts.versions[name] for name in PACKAGES},
        "device": facts.device,
        "dtype": facts.dtype,
    }


def _attention(nsa: NSASettings) -> tuple[str, str]:
    return nsa.attention, nsa.semantics
