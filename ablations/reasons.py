"""Why a number is to be made again: inputs of two identities compared, in words. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

WORDS = {  # beginning of an input's name -> what has changed
    "weights.data": "training data",
    "weights.model": "model that training starts from",
    "weights.folder": "weights of the checkpoint",
    "weights.hub": "checkpoint",
    "weights.revision": "revision of the checkpoint",
    "weights": "weights",
    "task": "content of the task",
    "row": "what the suite measures",
    "data": "training data",
    "model": "model that training starts from",
    "folder": "weights of the checkpoint",
    "train": "train",
}


def changes(before: Mapping[str, Any], now: Mapping[str, Any], unknown: Collection[str] = ()) -> dict[str, str]:
    """Input -> what changed, in words: {'code.modeling': 'code of modeling changed: a1b2 -> c3d4'}.

    Inputs nested or by dotted names; those in `unknown` are not compared.
    """
    old, new = dict(flat(before)), dict(flat(now))
    names = [name for name in dict.fromkeys((*new, *old)) if name not in unknown and old.get(name) != new.get(name)]
    steps = {name: (old.get(name), new.get(name)) for name in names}
    twice = {f"weights.{name}" for name in names if steps.get(f"weights.{name}") == steps[name]}  # said once
    return {name: _in_words(name, *steps[name]) for name in names if name not in twice}


def flat(inputs: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of nested inputs."""
    for key, value in inputs.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _in_words(name: str, old: Any, new: Any) -> str:
    step = f"{_short(old)} -> {_short(new)}"
    training = "training's " if name.startswith("weights.") else ""
    plain = name.removeprefix("weights.")
    group, _, rest = plain.partition(".")
    if group == "code":
        return f"{training}code of {rest} changed: {step}"
    if group == "versions":
        return f"{training}{rest} {step}"
    if group in ("device", "dtype"):
        return f"{training}{group} {step}"
    if group in ("nsa", "suite", "train", "videos", "method"):
        return f"{plain} {step}"
    known = [begin for begin in WORDS if name == begin or name.startswith(f"{begin}.")]
    return f"{WORDS[max(known, key=len)] if known else name} changed: {step}"


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    digits = len(text) in (12, 40) and all(letter in "0123456789abcdef" for letter in text)
    return text[:6] if digits else text[:40]
