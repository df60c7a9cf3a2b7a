"""How a variant of a grid asks attention to be spent. Imports no torch.

method: tri_shape              # one of videonsa/methods/settings.py; left out: as nsa.* and the weights say
tri_shape.n_local: 2176        # its settings; they count only where the method is asked
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from videonsa.config import SettingsError
from videonsa.methods import registry
from videonsa.methods.asked import asked_attention
from videonsa.methods.entries import MethodSettings


def attention_of(settings: Mapping[str, Any], where: str) -> tuple[dict[str, Any], MethodSettings | None]:
    """(fields of NSASettings that a variant's dotted settings change, another method's settings or None)."""
    name = settings.get("method")
    own = {} if name is None else group(settings, name)
    return asked_attention(group(settings, "nsa"), name, own, where)


def check_groups(variants: Iterable[Mapping[str, Any]], where: str) -> None:
    """Refuse settings of a method that no variant asks for: they would do nothing."""
    variants = list(variants)
    methods = {settings.get("method") for settings in variants}
    for key in dict.fromkeys(key for settings in variants for key in settings):
        name, dot, _ = key.partition(".")
        if dot and name in registry.names() and name not in methods:
            raise SettingsError(f"{where}: {key} is not valid: no variant asks for method: {name}")


def group(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """{'nsa.window': 8, 'train.steps': 3}, 'nsa' -> {'window': 8}."""
    return {key[len(name) + 1 :]: value for key, value in settings.items() if key.startswith(f"{name}.")}
