"""Slurm profiles: what a site's jobs ask for (slurm/profiles/*.yaml). They never enter the identity of a result."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videonsa.places import place
from videonsa.values import SettingsError, read_mapping, text_fields, unknown

FOLDER = Path(__file__).parent / "profiles"
LEAST_MEMORY = 0.1  # GB; shared among the GPUs of a node it must not come to 0 MB, which to Slurm is all there is
_TIME = re.compile(r"(?:([0-9]{1,4})-)?([0-9]{1,6})(?::([0-9]{1,6}))?(?::([0-9]{1,6}))?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class ClusterError(RuntimeError):
    """Jobs cannot be run as asked. The message is one line: what is wrong and what to do."""


@dataclass(frozen=True)
class SlurmProfile:
    """What a job asks Slurm for. A training takes all of it; an evaluation one GPU with its share of the node."""

    name: str
    partition: str | None = None  # None: the site's default
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None  # features of nodes, such as h100
    nodes: int = 1  # of a training
    gpus_per_node: int = 0  # of a training, one process each; 0: no GPU, one process a node
    cpus: int = 1  # cores a node
    memory: float = 4  # GB a node
    minutes: int = 60  # time limit; a job that reaches it is requeued and resumes
    modules: tuple[str, ...] = ()  # for `module load`
    setup: tuple[str, ...] = ()  # shell lines before the job
    max_parallel: int = 16  # evaluation jobs at once
    placement: Mapping[str, Any] = field(default_factory=dict)  # of a training; ablations/placement.py checks it
    environment: Mapping[str, str] = field(default_factory=dict)
    file: str = ""  # where it was read

    def __post_init__(self) -> None:
        for name, least in {"nodes": 1, "cpus": 1, "max_parallel": 1, "gpus_per_node": 0}.items():
            value = getattr(self, name)
            self._require(_is_whole(value, least), name, value, f"a whole number of at least {least}")
        forms = "a whole number of at least 1, or a time as sbatch takes it: 90:00, 12:00:00, 1-12, 1-12:30, 1-12:30:00"
        self._require(_is_whole(self.minutes, 1), "minutes", self.minutes, forms)
        given = isinstance(self.memory, int | float) and not isinstance(self.memory, bool)
        self._require(
            given and self.memory >= LEAST_MEMORY,
            "memory",
            self.memory,
            f"GB, a number above 0, at least {LEAST_MEMORY}; or as in 64G",
        )
        for name in ("partition", "account", "qos", "constraint"):
            value = getattr(self, name)
            self._require(value is None or _is_name(value), name, value, "a name")
        for name, each in {"modules": _is_name, "setup": _is_text}.items():
            value = getattr(self, name)
            valid = "a name, or a list of names" if each is _is_name else "a line of shell, or a list of lines"
            self._require(isinstance(value, list | tuple) and all(map(each, value)), name, value, valid)
            object.__setattr__(self, name, tuple(value))
        self._require(isinstance(self.placement, Mapping), "placement", self.placement, "as in {sharding: full}")
        if not isinstance(self.environment, Mapping):
            raise ClusterError(f"Slurm profile {self.name}: environment: expected a mapping of variables to values")
        for name, value in self.environment.items():
            good = bool(_VARIABLE.fullmatch(name)) and isinstance(value, str)
            self._require(good, f"environment: {name}", value, 'a variable and its text ("" for an empty one)')

    @property
    def processes(self) -> int:
        """Of a training, on all its nodes."""
        return self.nodes * max(1, self.gpus_per_node)

    @property
    def where(self) -> str:
        """For messages: its name and file."""
        return f"Slurm profile {self.name} ({self.file})" if self.file else f"Slurm profile {self.name}"

    def _require(self, condition: bool, name: str, value: Any, valid: str) -> None:
        if not condition:
            raise ClusterError(f"Slurm profile {self.name}: {name}={value!r} is not valid: {valid}")


TEXTS = frozenset(text_fields(SlurmProfile))  # keys below which text is meant, whatever it looks like


def load_slurm_profile(name: str) -> SlurmProfile:
    """Read and check a profile by name, or by the path of a YAML file."""
    path = place(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not os.path.isfile(path):  # False also for what can be no path
        known = ", ".join(slurm_profile_names())
        raise ClusterError(f"no Slurm profile {name!r}; Slurm profiles: {known}, or the path of a YAML file")
    try:
        content = read_mapping(path, TEXTS)
    except SettingsError as error:
        raise ClusterError(str(error)) from None
    return make_slurm_profile(path.stem, content, str(path))


def make_slurm_profile(name: str, content: Any, file: str = "") -> SlurmProfile:
    """A profile from a mapping; an unknown key is refused with the list of the known ones."""
    known = [f.name for f in dataclasses.fields(SlurmProfile) if f.name not in ("name", "file")]
    if not isinstance(content, Mapping):
        raise ClusterError(f"Slurm profile {name}: expected a mapping with some of {', '.join(known)}")
    for key in content:
        if key not in known:
            near = unknown(key, known)
            raise ClusterError(f"Slurm profile {name}: unknown key {key!r}; known keys: {', '.join(known)}{near}")
    values = dict(content)
    values["memory"] = _gigabytes(values.get("memory", SlurmProfile.memory))
    values["minutes"] = _minutes(values.get("minutes", SlurmProfile.minutes))
    for key in ("modules", "setup"):
        given = values.get(key)
        values[key] = (given,) if isinstance(given, str) else () if given is None else given
    for key in ("environment", "placement"):
        values[key] = {} if values.get(key) is None else values[key]
    return SlurmProfile(name=name, file=file, **values)


def changed(profile: SlurmProfile, changes: Mapping[str, Any]) -> SlurmProfile:
    """The profile with some of its keys changed, for --set slurm.memory=64 and the like."""
    content = {field.name: getattr(profile, field.name) for field in dataclasses.fields(profile)}
    name, file = content.pop("name"), content.pop("file")
    for key in changes:
        if key not in content:
            known = [f"slurm.{known}" for known in content]
            near = unknown(f"slurm.{key}", known)
            raise ClusterError(f"--set slurm.{key}: there is no such setting; known: {', '.join(known)}{near}")
    return make_slurm_profile(name, content | dict(changes), file)


def slurm_profile_names() -> list[str]:
    """The profiles that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_name(value: Any) -> bool:
    return _is_text(value) and not re.search(r"\s", value)


def _gigabytes(value: Any) -> Any:
    """'64G' -> 64, '512M' -> 0.5, as sbatch writes memory; anything else as it is."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]+)?)([MGT])B?", value.upper()) if isinstance(value, str) else None
    return float(found[1]) * {"M": 1 / 1024, "G": 1, "T": 1024}[found[2]] if found else value


def _minutes(value: Any) -> Any:
    """'12:00:00' -> 720: a time as sbatch's --time takes it, in whole minutes, rounded up; anything else as it is."""
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    if not found:
        return value
    days, *given = found.groups()
    parts = [int(part) for part in given if part is not None]
    if days is None and len(parts) < 3:  # minutes, or minutes:seconds
        parts = [0, *parts]
    hours, minutes, seconds = (*parts, 0, 0)[:3]
    return ((int(days or 0) * 24 + hours) * 3600 + minutes * 60 + seconds + 59) // 60
