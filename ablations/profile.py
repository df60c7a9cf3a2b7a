"""Profiles: the base settings that all grids of one scale start from (ablations/profiles/*.yaml). Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablations.checkpoints import check_checkpoints
from ablations.checks import check_keys, mapping_at, positive, text_or_none, whole_numbers
from evals.observers import registry
from videonsa.config import NSASettings, SettingsError, SuiteSettings, TrainSettings, from_dict
from videonsa.methods.registry import texts as texts_of_methods
from videonsa.places import place
from videonsa.values import read_mapping, text_fields, unknown

FOLDER = Path(__file__).parent / "profiles"
KEYS = ("description", "train", "checkpoint", "checkpoints", "suites", "seeds", "probe", "gates")
PROBE_KEYS = ("suite", "videos", "observers")  # and of a grid: label
GATES_KEYS = ("samples",)
GATE_SAMPLES = 1000  # as the paper took
# Keys of grids and profiles below which text is meant, whatever it looks like.
TEXTS = frozenset(
    {"question", "description", "label", "labels", "reference", "checkpoint", "start", "suite", "observers"}
    | text_fields(NSASettings)
    | text_fields(TrainSettings)
    | text_fields(SuiteSettings)
    | texts_of_methods()
)


@dataclass(frozen=True)
class Profile:
    """Base settings of one scale."""

    name: str
    description: str
    train: Mapping[str, Any]  # of TrainSettings, as written
    checkpoint: str | None  # what grids that ask at test time evaluate (hub name or folder); None: they train one
    suites: Mapping[str, Mapping[str, Any]]  # suite -> of SuiteSettings, over the suite's own; in the order of tables
    seeds: tuple[int, ...]  # of trainings
    probe_suite: str | None  # whose videos probes look at; None: no probes
    probe_videos: int
    probe_observers: tuple[str, ...] = registry.USUAL  # what they look at: names of evals/observers/registry.py
    probe_label: str | None = None  # of a grid's variant that they look at; None: its reference
    checkpoints: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # what given weights were made with
    gate_samples: int = GATE_SAMPLES  # of `train`, at most: for mean gates of given weights that hold none
    placement: Mapping[str, Any] = field(default_factory=dict)  # of trainings, over all else: ablations/placement.py


def load_profile(name: str) -> Profile:
    """Read and check a profile by name, or by the path of a YAML file."""
    path = place(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not os.path.isfile(path):  # False also for what can be no path
        raise SettingsError(f"no profile {name!r}; profiles: {', '.join(profile_names())}; or the path of a YAML file")
    content = load_yaml(path)
    check_keys(content, KEYS, str(path.name))
    gates, train = (mapping_at(content, key, path.name) for key in ("gates", "train"))
    probe = {"probe_suite": None, "probe_videos": 8} | read_probe(content, path.name)
    check_keys(gates, GATES_KEYS, f"{path.name}: gates")
    suites = {key: dict(value or {}) for key, value in mapping_at(content, "suites", path.name).items()}
    check_suites(suites, path.name)
    if "seed" in train:
        raise SettingsError(f"{path.name}: train.seed: a training's seed is one of `seeds:`")
    from_dict(TrainSettings, train, f"{path.name}: train")
    return Profile(
        name=path.stem,
        description=text_or_none(content.get("description"), f"{path.name}: description") or "",
        train=train,
        checkpoint=text_or_none(content.get("checkpoint"), f"{path.name}: checkpoint"),
        suites=suites,
        seeds=whole_numbers(content.get("seeds", [0]), f"{path.name}: seeds"),
        **probe,
        checkpoints=check_checkpoints(content.get("checkpoints"), path.name),
        gate_samples=positive(gates.get("samples", GATE_SAMPLES), f"{path.name}: gates: samples"),
    )


def read_probe(content: Mapping[str, Any], where: str, labels: Sequence[str] = ()) -> dict[str, Any]:
    """What `probe:` of a profile or grid says, as fields of Profile: suite, videos, observers, and one of `labels`."""
    probe = mapping_at(content, "probe", where, ", as in {suite: synth_needle, videos: 8, observers: [gates]}")
    where = f"{where}: probe"
    check_keys(probe, (*PROBE_KEYS, *(["label"] if labels else [])), where)
    found: dict[str, Any] = {}
    if probe.get("label") is not None:
        found["probe_label"] = one_of_labels(probe["label"], labels, f"{where}: label")
    if "suite" in probe:
        found["probe_suite"] = text_or_none(probe["suite"], f"{where}: suite")
    if found.get("probe_suite") is not None:
        check_suites({found["probe_suite"]: {}}, where)
    if "videos" in probe:
        found["probe_videos"] = positive(probe["videos"], f"{where}: videos")
    if "observers" in probe:
        found["probe_observers"] = registry.chosen(probe["observers"], f"{where}: observers")
    return found


def one_of_labels(label: Any, labels: Sequence[str], where: str) -> str:
    """Raises SettingsError where no variant is called so."""
    if label not in labels:
        near = unknown(str(label), labels)
        raise SettingsError(f"{where}: no variant is called {label!r}; variants: {', '.join(labels)}{near}")
    return str(label)


def profile_names() -> list[str]:
    """The profiles that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def suite_names() -> list[str]:
    """Every benchmark that evals knows."""
    from evals.suites import SUITES

    return list(SUITES)


def suite_settings(name: str, changes: Mapping[str, Any], where: str) -> SuiteSettings:
    """The settings of a known suite with some of them changed."""
    from evals import suites

    try:
        settings = suites.suite_settings(name, **changes)
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from None
    text_or_none(settings.task, f"{where}: task")
    return settings


def check_suites(suites: Mapping[str, Mapping[str, Any]], where: str) -> None:
    """Refuse a suite that does not exist and a setting that suites do not have."""
    if not suites:
        raise SettingsError(f"{where}: no suites; suites: {', '.join(suite_names())}")
    for name, changes in suites.items():
        suite_settings(name, changes, f"{where}: suites: {name}")


def load_yaml(path: Path) -> dict[str, Any]:
    """A grid's or profile's file as a mapping of its values."""
    return read_mapping(path, TEXTS)
