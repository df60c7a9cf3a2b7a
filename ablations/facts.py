"""What lies outside of the settings and can change a number: versions, device, code, contents. Imports no torch.

Each is looked up once when a sweep is planned, and kept in its plan.json: jobs, --status and --cancel go by it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from ablations.failures import PlannedOtherwise
from slurm.machine import local_device
from videonsa.config import SettingsError, SuiteSettings, TrainSettings
from videonsa.fingerprint import fingerprint
from videonsa.hub import cached_revision, folder_at, hub_revision, is_hub_name, split_revision
from videonsa.identity import part_version
from videonsa.lock import Lock
from videonsa.record import write_text
from videonsa.training.conversations import WHOLE, parse_conversations, read_content
from videonsa.weights import check_folder

DATA = "data.json"  # of an out folder: what large data files held, by place, size and time of change
REVISIONS = "revisions.json"  # of an out folder: the hub revision of each checkpoint, as it was first seen
SOME_VIDEOS = 256  # of a training's videos, evenly chosen: their sizes tell one set from another
DTYPES = {"cpu": "float32", "cuda": "bfloat16"}  # that evals/checkpoint.py loads a model in
WEIGHTS = "weights "  # begins the names under which checkpoints are known


@dataclass(frozen=True)
class Facts:
    """`known` holds what was looked up, by kind and name; as JSON in plan.json."""

    versions: Mapping[str, str | None]  # of packages: see `installed`
    device: str  # cpu or cuda
    revisions: Mapping[str, str] = field(default_factory=dict)  # hub name -> revision, pinned
    known: dict[str, Any] = field(default_factory=dict)
    asks_hub: bool = False  # for revisions that neither the out folder nor this machine knows
    files: dict[str, Any] = field(default_factory=dict)  # large data files that were read
    reads_whole: bool = True  # large data files, too, where they are not known

    def look(self, kind: str, name: str, find: Callable[[], Any]) -> Any:
        """What was found under this kind and name when it was first asked for."""
        key = f"{kind} {name}"
        if key not in self.known:
            self.known[key] = find()
        return self.known[key]

    def code(self, parts: Iterable[str]) -> dict[str, str]:
        """The versions of these parts of the code."""
        return {part: self.look("code", part, lambda part=part: part_version(part)) for part in parts}  # type: ignore[misc]

    def weights(self, checkpoint: str) -> dict[str, Any]:
        """What a checkpoint is: its folder's content, or its hub name and revision."""
        return self.look("weights", checkpoint, lambda: self._weights(checkpoint))

    def _weights(self, checkpoint: str) -> dict[str, Any]:
        if folder := folder_at(checkpoint):
            check_folder(folder)
            return {"folder": fingerprint(folder)}
        if not is_hub_name(checkpoint):
            raise SettingsError(f"checkpoint {checkpoint!r}: there is no such folder")
        name, revision = split_revision(checkpoint)
        revision = revision or self.revisions.get(name) or cached_revision(name)
        return {"hub": name, "revision": revision or (hub_revision(name) if self.asks_hub else None)}

    def data(self, settings: TrainSettings) -> dict[str, Any]:
        """What a training's own data are: its file's content, and sizes of its videos; null for what is not here, and
        for a large file that was not read."""
        name = f"{settings.data} {settings.video_folder}"
        return self.look("data", name, lambda: self._data(Path(settings.data), Path(settings.video_folder or "")))

    def _data(self, file: Path, folder: Path) -> dict[str, Any]:
        content = self._content(file)
        return {"file": content and content["digits"], "videos": content and _videos(content["videos"], folder)}

    def _content(self, file: Path) -> dict[str, Any] | None:
        """12 digits for a data file, and some of its videos; None where it is not here, or not to be read."""
        try:
            found = file.stat()
            stamp, name, large = [found.st_size, found.st_mtime_ns], str(file.resolve()), found.st_size > WHOLE
            if large and self.files.get(name, {}).get("stamp") == stamp:
                return self.files[name]
            if large and not self.reads_whole:
                return None
            content = read_content(file)
        except OSError:  # it may be where the training runs
            return None
        entries = parse_conversations(content, str(file))
        names = sorted({entry["video"] for entry in entries if entry.get("video")})
        chosen = names[:: max(1, len(names) // SOME_VIDEOS)]
        read = {"stamp": stamp, "digits": hashlib.sha256(content).hexdigest()[:12], "videos": chosen}
        if large:
            self.files[name] = read
        return read

    def task(self, suite: SuiteSettings) -> Any:
        """The content of a local task and of its data; null for a shipped one, which lmms-eval's version names."""
        from evals.content import task_content

        return self.look("task", suite.task, lambda: task_content(suite))

    @property
    def dtype(self) -> str:
        """That models are evaluated in."""
        return DTYPES[self.device]

    @property
    def hub(self) -> dict[str, str | None]:
        """The hub names that were asked for, with their revisions; None where it could not be found out."""
        found = [value for key, value in self.known.items() if key.startswith(WEIGHTS) and value.get("hub")]
        return {value["hub"]: value["revision"] for value in found}

    def location(self, checkpoint: str) -> str:
        """What to load: the folder wherever a job starts, or the hub name at the revision that was planned."""
        if folder := folder_at(checkpoint):
            return str(folder.resolve())
        revision = self.weights(checkpoint).get("revision")
        return f"{split_revision(checkpoint)[0]}@{revision}" if revision else checkpoint

    def as_dict(self) -> dict[str, Any]:
        """For plan.json."""
        plain = {"versions": dict(self.versions), "device": self.device, "revisions": dict(self.revisions)}
        return plain | {"known": dict(sorted(self.known.items()))}


def facts_now(
    device: str | None = None, out: Path | None = None, asks_hub: bool = False, reads_whole: bool = True
) -> Facts:
    """As it is here now; `device`: of the cluster that jobs will run on, `out`: the folder that pins revisions."""
    revisions, files = (read_revisions(out), _mapping(out / DATA)) if out else ({}, {})
    return Facts(installed(), device or local_device(), revisions, {}, asks_hub, files, reads_whole)


def facts_of_plan(folder: Path) -> Facts | None:
    """As a sweep was planned; None without a plan of this form."""
    try:
        content = json.loads((folder / "plan.json").read_text(encoding="utf-8"))["facts"]
        return Facts(**{name: content[name] for name in ("versions", "device", "revisions", "known")})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def installed() -> dict[str, str | None]:
    """What counts of the versions of packages: torch and transformers to the minor number, lmms-eval whole."""
    found = {name: _version(name) for name in ("torch", "transformers", "lmms-eval")}
    return {name: version if name == "lmms-eval" else minor(version) for name, version in found.items()}


def minor(version: str | None) -> str | None:
    """'2.13.0+cpu' -> '2.13'."""
    return None if version is None else ".".join(version.partition("+")[0].split(".")[:2])


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def check_here(facts: Facts, device: str | None, packages: Iterable[str]) -> None:
    """Raise PlannedOtherwise where this process has other versions, or a device of another kind, than was planned."""
    here, planned = installed(), facts.versions
    other = [f"{name} {planned.get(name)}, here {here[name]}" for name in packages if here[name] != planned.get(name)]
    other += [f"{facts.device}, here {device}"] if device not in (None, facts.device) else []
    if other:
        raise PlannedOtherwise(f"planned for {'; '.join(other)}: make both alike, or plan where it is as here")


def read_revisions(out: Path) -> dict[str, str]:
    """The revisions that an out folder pins."""
    return {name: str(revision) for name, revision in _mapping(out / REVISIONS).items()}


def _mapping(file: Path) -> dict[str, Any]:
    """A JSON file's; empty where there is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def pin_revisions(facts: Facts, out: Path) -> None:
    """Keep the revisions that are new: later sweeps of this out folder use the same."""
    if not any(facts.hub.values()):
        return
    with Lock(out / f"{REVISIONS}.lock", wait=True):  # two sweeps may have something new at once
        known = read_revisions(out)
        new = {name: revision for name, revision in facts.hub.items() if revision and name not in known}
        if new:
            write_text(out / REVISIONS, json.dumps(known | new, indent=1, sort_keys=True) + "\n")


def keep_files(facts: Facts, out: Path) -> None:
    """Keep what large data files held: they are not read again until they change."""
    if facts.files and facts.files != _mapping(out / DATA):
        write_text(out / DATA, json.dumps(facts.files, indent=1, sort_keys=True) + "\n")


def _videos(chosen: Iterable[str], folder: Path) -> str | None:
    """12 digits for the names and sizes of these videos; null where none is here."""
    sizes = [(name, (folder / name).stat().st_size) for name in chosen if (folder / name).is_file()]
    return hashlib.sha256(json.dumps(sizes).encode()).hexdigest()[:12] if sizes else None
