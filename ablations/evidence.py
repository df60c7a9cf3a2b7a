"""What a finished record shows of the inputs that an identity has today. Imports no torch.

A record carries its inputs; those that it lacks, because it is older or did not know them, are looked for elsewhere in
it: for each kind of input a function finds the value in its settings, its provenance, or the code as its commit has it.
An input that is new in the next version of identities gets such a function here, or records of before cannot stand.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from ablations.facts import DTYPES, minor
from ablations.reasons import flat
from evals.content import OURS
from videonsa.config import NSASettings, SettingsError, SuiteSettings, TrainSettings, from_dict
from videonsa.identity import (
    ROOT,
    VERSION,
    before,
    effect,
    files_at,
    files_here,
    part_of_version_2,
    part_version,
    plain,
    settings_inputs,
)
from videonsa.methods.registry import from_record

Record = Mapping[str, Any]
SUITES = ("evals/suites.py", "evals/aggregates.py")  # the rows of suites, as code


class NotShown(LookupError):
    """The record does not say; the message names what."""


def shown(
    record: Record, wanted: Mapping[str, Any], trainings: Mapping[str, Record]
) -> tuple[dict[str, Any], dict[str, str]]:
    """(inputs that the record shows, by dotted name; of those of `wanted` that it does not show, why).

    `trainings`: records of trainings by id; they show what the weights of a cell depend on.
    """
    inputs = _recorded(record)
    missing = {}
    for name, value in flat(wanted):
        if name not in inputs or (inputs[name] is None and value is not None):
            try:
                inputs[name] = _find(name, value, record, trainings)
            except NotShown as gap:
                missing[name] = str(gap)
    return inputs, missing


def _recorded(record: Record) -> dict[str, Any]:
    """The inputs that a record carries, by dotted name; without the digits of code of an older form."""
    inputs = _carried(record)
    if (record.get("identity") or {}).get("version") == VERSION:
        return inputs
    return {name: value for name, value in inputs.items() if not name.startswith(("code.", "weights.code."))}


def _carried(record: Record) -> dict[str, Any]:
    return dict(flat((record.get("identity") or {}).get("inputs") or {}))


def _find(name: str, wanted: Any, record: Record, trainings: Mapping[str, Record]) -> Any:
    group, _, rest = name.partition(".")
    train = record["settings"].get("train") or {}
    if group == "weights" and "checkpoint" not in train:
        key = str((record.get("identities") or {}).get("training"))
        if key not in trainings:
            raise NotShown(f"the record of its training {key} is not here")
        inputs, missing = shown(trainings[key], _nested(rest, wanted), {})
        if rest in missing:
            raise NotShown(f"of its training {missing[rest]}")
        return inputs[rest]
    if group not in EVIDENCE:
        raise NotShown(f"{name} was not recorded")
    return EVIDENCE[group](record, rest, wanted)


def _nested(name: str, value: Any) -> dict[str, Any]:
    """'a.b', 1 -> {'a': {'b': 1}}."""
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


def _settings(cls: type, key: str | None) -> Callable[[Record, str, Any], Any]:
    """Finds a field in the record's settings; one that they lack had the value of before it existed."""

    def find(record: Record, name: str, wanted: Any) -> Any:
        recorded = record["settings"] if key is None else record["settings"].get(key) or {}
        field, _, inner = name.partition(".")
        try:
            value = _settings_inputs(cls, json.dumps(recorded))[field]
        except (SettingsError, KeyError, TypeError):
            raise NotShown(f"{key or 'train'}.{name} was not recorded") from None
        return value[inner] if inner else value

    return find


@lru_cache(maxsize=4096)
def _settings_inputs(cls: type, text: str) -> dict[str, Any]:
    recorded = json.loads(text)
    values = {field.name: recorded.get(field.name, before(field)) for field in dataclasses.fields(cls)}
    if isinstance(values.get("nsa"), Mapping):
        values["nsa"] = {f.name: values["nsa"].get(f.name, before(f)) for f in dataclasses.fields(NSASettings)}
    settings: Any = from_dict(cls, values)
    return {name: plain(getattr(settings, name)) for name in values} | settings_inputs(settings)


def _own(key: str, usual: str) -> Callable[[Record, str, Any], Any]:
    """A training's model or data: the usual one by name; of another one the content counts, which only inputs keep."""

    def find(record: Record, name: str, wanted: Any) -> Any:
        if record["settings"].get(key) == usual and not name:
            return usual
        raise NotShown(f"the content of its {key} was not recorded")

    return find


def _weights(record: Record, name: str, wanted: Any) -> Any:
    given = str(record["settings"]["train"]["checkpoint"])
    if name == "hub":
        return given.partition("@")[0]
    if name == "revision" and (revision := _provenance(record).get("hub_revision")):
        return revision
    raise NotShown(f"the {'revision' if name == 'revision' else 'content'} of its checkpoint was not recorded")


def _version(record: Record, name: str, wanted: Any) -> Any:
    version = (_provenance(record).get("versions") or {}).get(name)
    if version is None:
        raise NotShown(f"the version of {name} was not recorded")
    return version if name == "lmms-eval" else minor(version)


def _device(record: Record, name: str, wanted: Any) -> str:
    device = _provenance(record).get("device")
    if device is None and str((_provenance(record).get("versions") or {}).get("torch")).endswith("+cpu"):
        device = "cpu"  # torch without CUDA
    if device is None:
        raise NotShown("the device was not recorded")
    return device


def _dtype(record: Record, name: str, wanted: Any) -> str:
    return _provenance(record).get("dtype") or DTYPES[_device(record, name, wanted)]


def _code(record: Record, part: str, wanted: Any) -> str:
    recorded = _carried(record).get(f"code.{part}")
    if recorded is not None and recorded == part_of_version_2(part):  # it was made by what is here
        return part_version(part)
    return _part_at(_commit(record), part)


def _row(record: Record, name: str, wanted: Any) -> Any:
    """The suites stand in the code: where that is as it was, so are they."""
    if not all(_same_code(_commit(record), path) for path in SUITES):
        raise NotShown(f"evals/suites.py was another at commit {_commit(record)[:8]}")
    return wanted


def _task(record: Record, name: str, wanted: Any) -> Any:
    if wanted is None:  # a task that lmms-eval ships
        return None
    file = OURS / f"{record['settings']['suite'].get('task')}.yaml"
    if not file.is_file() or not _same_code(_commit(record), OURS.relative_to(ROOT).as_posix()):
        raise NotShown("the content of its task was not recorded")
    return wanted


def _method(record: Record, name: str, wanted: Any) -> Any:
    try:
        method = from_record(record["settings"].get("method"))
    except SettingsError:
        method = None
    if method is None or name not in (inputs := method.inputs()):
        raise NotShown(f"method.{name} was not recorded")
    return inputs[name]


def _videos(record: Record, name: str, wanted: Any) -> Any:
    return record["settings"].get("videos")


EVIDENCE: dict[str, Callable[[Record, str, Any], Any]] = {
    "train": _settings(TrainSettings, None),
    "nsa": _settings(NSASettings, "nsa"),
    "suite": _settings(SuiteSettings, "suite"),
    "method": _method,
    "videos": _videos,
    "model": _own("model", "tiny"),
    "data": _own("data", "synth"),
    "weights": _weights,
    "versions": _version,
    "device": _device,
    "dtype": _dtype,
    "code": _code,
    "row": _row,
    "task": _task,
}


def _provenance(record: Record) -> Mapping[str, Any]:
    return record.get("provenance") or {}


def _commit(record: Record) -> str:
    """The commit whose code made the record. Raises NotShown where no commit has that code, or it is not here."""
    commit = str(_provenance(record).get("commit") or "")
    if not commit:
        raise NotShown("the commit of its code was not recorded")
    if _provenance(record).get("dirty") is not False:
        raise NotShown(f"its code was not that of commit {commit[:8]} alone")
    if _files(commit) is None:
        raise NotShown(f"commit {commit[:8]} of its code is not at hand")
    return commit


@lru_cache
def _files(commit: str) -> Any:
    return files_at(commit)


@lru_cache
def _part_at(commit: str, part: str) -> str:
    return part_version(part, _files(commit))


@lru_cache
def _same_code(commit: str, top: str) -> bool:
    """All code below this is at the commit as it is here, prose aside."""
    then, now = (
        {path: effect("", text) if path.endswith(".py") else text for path, text in files(top)}
        for files in (_files(commit), files_here)
    )
    return then == now
