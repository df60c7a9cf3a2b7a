"""Checks of what grids and profiles hold: each refuses in one line that names the place. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from videonsa.config import SettingsError
from videonsa.limits import is_whole
from videonsa.values import unknown


def mapping_at(content: Mapping[str, Any], key: str, where: str, example: str = "") -> dict[str, Any]:
    """The mapping at a key; empty where the key is left out, or null."""
    value = content.get(key)
    if not isinstance(value, Mapping | None):
        raise SettingsError(f"{where}: {key}: expected a mapping{example}, not {value!r}")
    return dict(value or {})


def text_or_none(value: Any, where: str) -> str | None:
    """Text that is not blank, or None."""
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise SettingsError(f"{where}={value!r} is not valid: give text, or null for none")
    return value


def check_keys(content: Any, known: Iterable[str], where: str) -> None:
    """Refuse a key that is not known, listing those that are."""
    if not isinstance(content, Mapping):
        raise SettingsError(f"{where}: expected a mapping with some of {', '.join(known)}")
    for key in content:
        if key not in known:
            raise SettingsError(f"{where}: unknown key {key!r}; known keys: {', '.join(known)}{unknown(key, known)}")


def positive(value: Any, where: str) -> int:
    """A whole number of at least 1."""
    if not is_whole(value, 1):
        raise SettingsError(f"{where}={value!r} is not valid: give a whole number of at least 1")
    return value


def whole_numbers(values: Any, where: str) -> tuple[int, ...]:
    """A non-empty list of whole numbers, from one number or several."""
    items = values if isinstance(values, list | tuple) else [values]
    if not items or not all(is_whole(item, 0) for item in items):
        raise SettingsError(f"{where}={values!r} is not valid: give whole numbers of at least 0, such as [0, 1, 2]")
    if len(set(items)) < len(items):
        raise SettingsError(f"{where}={values!r} is not valid: give each number once")
    return tuple(items)
