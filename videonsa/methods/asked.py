"""How attention is asked to be spent: by fields of NSA, or by a method's name. One rule for all commands; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from videonsa.config import NSASettings, SettingsError, attention_differences, differences
from videonsa.methods import registry
from videonsa.methods.entries import MethodSettings
from videonsa.names import POSITION_DIFFERENCES

OF_NSA = {"dense": {"attention": "dense"}, "paper": {"attention": "nsa", "semantics": "paper"}}


def asked_attention(
    nsa: Mapping[str, Any], name: str | None, own: Mapping[str, Any], where: str = ""
) -> tuple[dict[str, Any], MethodSettings | None]:
    """(fields of NSASettings to change, the settings of another method or None).

    Args:
        nsa: fields of NSASettings that are asked.
        name: of a method; None: as `nsa` and the weights say. paper, release and dense say the same as fields of `nsa`.
        own: the method's settings.
    Raises:
        SettingsError: an unknown method, a value that is not valid, fields of NSA that say otherwise.
    """
    if name is None:
        return dict(nsa), None
    prefix = f"{where}: " if where else ""
    registry.check_name(name, where)
    if name not in registry.OF_NSA:
        if nsa.get("attention") == "nsa":
            raise SettingsError(f"{prefix}nsa.attention='nsa' is not valid: method={name!r} stands in its place")
        return {**nsa, "attention": "dense"}, registry.make(name, own, where)
    meant = OF_NSA.get(name) or {"attention": "nsa", "semantics": nsa.get("semantics", "release")}
    for key, value in meant.items():
        if nsa.get(key, value) != value:
            raise SettingsError(f"{prefix}nsa.{key}={nsa[key]!r} is not valid: method={name!r} means {key}={value}")
    if name == "release" and not attention_differences(meant["semantics"]):
        raise SettingsError(f"{prefix}nsa.semantics={meant['semantics']!r} is not valid: it is what method paper means")
    return {**nsa, **meant}, None


def beside(asked: NSASettings) -> NSASettings:
    """What of NSA's settings still acts where another method attends: the differences of positions."""
    names = differences(asked.semantics) & set(POSITION_DIFFERENCES)
    return NSASettings(attention="dense", semantics="+".join(names) or "paper")
