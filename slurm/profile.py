"""Slurm profiles: what a site's jobs ask for (slurm/profiles/*.yaml). They never enter the identity of a result."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "profiles"


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
    environment: Mapping[str, str] = field(default_factory=dict)
    file: str = ""  # where it was read

    def __post_init__(self) -> None:
        for name in ("nodes", "cpus", "minutes", "max_parallel"):
            _number(self.name, name, getattr(self, name), 1)
        _number(self.name, "gpus_per_node", self.gpus_per_node, 0)
        if not isinstance(self.memory, int | float) or isinstance(self.memory, bool) or self.memory <= 0:
            raise ClusterError(f"Slurm profile {self.name}: memory={self.memory!r} is not valid: GB, a number above 0")
        for name in ("partition", "account", "qos", "constraint"):
            if not isinstance(getattr(self, name), str | None):
                raise ClusterError(f"Slurm profile {self.name}: {name}={getattr(self, name)!r} is not valid: a name")


def load_slurm_profile(name: str) -> SlurmProfile:
    """Read and check a profile by name, or by the path of a YAML file."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(slurm_profile_names())
        raise ClusterError(f"no Slurm profile {name!r}; Slurm profiles: {known}, or the path of a YAML file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ClusterError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    return make_slurm_profile(path.stem, content, str(path))


def make_slurm_profile(name: str, content: Any, file: str = "") -> SlurmProfile:
    """A profile from a mapping; an unknown key is refused with the list of the known ones."""
    known = [f.name for f in dataclasses.fields(SlurmProfile) if f.name not in ("name", "file")]
    if not isinstance(content, Mapping):
        raise ClusterError(f"Slurm profile {name}: expected a mapping with some of {', '.join(known)}")
    for key in content:
        if key not in known:
            raise ClusterError(f"Slurm profile {name}: unknown key {key!r}; known keys: {', '.join(known)}")
    values = dict(content)
    values["memory"] = _gigabytes(values.get("memory", SlurmProfile.memory))
    for key in ("modules", "setup"):
        given = values.get(key) or ()
        values[key] = (given,) if isinstance(given, str) else tuple(str(line) for line in given)
    if not isinstance(values.get("environment") or {}, Mapping):
        raise ClusterError(f"Slurm profile {name}: environment: expected a mapping of variables to values")
    values["environment"] = {str(key): str(value) for key, value in (values.get("environment") or {}).items()}
    return SlurmProfile(name=name, file=file, **values)


def changed(profile: SlurmProfile, changes: Mapping[str, Any]) -> SlurmProfile:
    """The profile with some of its keys changed, for --set slurm.memory=64 and the like."""
    content = {field.name: getattr(profile, field.name) for field in dataclasses.fields(profile)}
    name, file = content.pop("name"), content.pop("file")
    for key in changes:
        if key not in content:
            known = ", ".join(f"slurm.{known}" for known in content)
            raise ClusterError(f"--set slurm.{key}: there is no such setting; known: {known}")
    return make_slurm_profile(name, content | dict(changes), file)


def slurm_profile_names() -> list[str]:
    """The profiles that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def _gigabytes(value: Any) -> Any:
    """'64G' -> 64, '512M' -> 0.5, as sbatch writes memory; anything else as it is."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([MGT])B?", value) if isinstance(value, str) else None
    return float(found[1]) * {"M": 1 / 1024, "G": 1, "T": 1024}[found[2]] if found else value


def _number(profile: str, name: str, value: Any, minimum: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ClusterError(
            f"Slurm profile {profile}: {name}={value!r} is not valid: a whole number of at least {minimum}"
        )
