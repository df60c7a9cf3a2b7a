"""Profiles: the base settings that all grids of one scale start from (ablations/profiles/*.yaml). Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ablations.checkpoints import check_checkpoints
from videonsa.config import SettingsError, SuiteSettings, TrainSettings, from_dict

FOLDER = Path(__file__).parent / "profiles"
KEYS = ("description", "train", "checkpoint", "checkpoints", "suites", "seeds", "probe", "gates")
PROBE_KEYS = ("suite", "videos")
GATES_KEYS = ("samples",)
GATE_SAMPLES = 1000  # as the paper took
_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


@dataclass(frozen=True)
class Profile:
    """Base settings of one scale."""

    name: str
    description: str
    train: Mapping[str, Any]  # of TrainSettings, as written
    checkpoint: str | None  # what grids that ask at test time evaluate (hub name or folder); None: they train one
    suites: Mapping[str, Mapping[str, Any]]  # suite -> of SuiteSettings, over the suite's own; in the order of tables
    seeds: tuple[int, ...]  # of trainings
    probe_suite: str | None  # whose videos the gates and sinks are measured on; None: no probes
    probe_videos: int
    checkpoints: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # what given weights were made with
    gate_samples: int = GATE_SAMPLES  # of `train`, at most: for mean gates of given weights that hold none


def load_profile(name: str) -> Profile:
    """Read and check a profile by name, or by the path of a YAML file."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise SettingsError(f"no profile {name!r}; profiles: {', '.join(profile_names())}; or the path of a YAML file")
    content = load_yaml(path)
    check_keys(content, KEYS, str(path.name))
    probe = content.get("probe") or {}
    check_keys(probe, PROBE_KEYS, f"{path.name}: probe")
    gates = content.get("gates") or {}
    check_keys(gates, GATES_KEYS, f"{path.name}: gates")
    suites = {key: dict(value or {}) for key, value in (content.get("suites") or {}).items()}
    check_suites(suites, path.name)
    from_dict(TrainSettings, content.get("train") or {}, f"{path.name}: train")
    return Profile(
        name=path.stem,
        description=content.get("description", ""),
        train=content.get("train") or {},
        checkpoint=content.get("checkpoint"),
        suites=suites,
        seeds=whole_numbers(content.get("seeds", [0]), f"{path.name}: seeds"),
        probe_suite=probe.get("suite"),
        probe_videos=probe.get("videos", 8),
        checkpoints=check_checkpoints(content.get("checkpoints"), path.name),
        gate_samples=positive(gates.get("samples", GATE_SAMPLES), f"{path.name}: gates: samples"),
    )


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
        return suites.suite_settings(name, **changes)
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from None


def check_suites(suites: Mapping[str, Mapping[str, Any]], where: str) -> None:
    """Refuse a suite that does not exist and a setting that suites do not have."""
    if not suites:
        raise SettingsError(f"{where}: no suites; suites: {', '.join(suite_names())}")
    for name, changes in suites.items():
        suite_settings(name, changes, f"{where}: suites: {name}")


def load_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping; numbers such as 3e-3, which YAML 1.1 calls text, become numbers."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: expected a mapping of keys to values")
    return numbers(content)


def numbers(value: Any) -> Any:
    """The value with text such as '3e-3' made a number, at any depth."""
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [numbers(item) for item in value]
    return float(value) if isinstance(value, str) and _FLOAT.fullmatch(value) else value


def check_keys(content: Any, known: Iterable[str], where: str) -> None:
    """Refuse a key that is not known, listing those that are."""
    if not isinstance(content, Mapping):
        raise SettingsError(f"{where}: expected a mapping with some of {', '.join(known)}")
    for key in content:
        if key not in known:
            raise SettingsError(f"{where}: unknown key {key!r}; known keys: {', '.join(known)}")


def positive(value: Any, where: str) -> int:
    """A whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise SettingsError(f"{where}={value!r} is not valid: give a whole number of at least 1")
    return value


def whole_numbers(values: Any, where: str) -> tuple[int, ...]:
    """A non-empty list of whole numbers, from one number or several."""
    items = values if isinstance(values, list | tuple) else [values]
    if not items or not all(isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in items):
        raise SettingsError(f"{where}={values!r} is not valid: give whole numbers of at least 0, such as [0, 1, 2]")
    return tuple(dict.fromkeys(items))
