"""The model arguments of lmms-eval's command line, read as all our values are. Imports no torch.

lmms-eval's own reading makes 1000 of 1_000, a number of nan, text of nothing, keeps the last of two and cuts a path at
its comma.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from videonsa.config import NSASettings, SettingsError
from videonsa.methods import registry
from videonsa.values import means_text, read_value, text_fields

TEXTS = frozenset({"pretrained", "dtype", "device"} | text_fields(NSASettings) | registry.texts())


def read_arguments(given: str | Mapping[str, Any]) -> dict[str, Any]:
    """'pretrained=FOLDER,block_count=8' as a mapping: an argument ends at the comma before the next name=.

    A mapping, which lmms-eval takes from Python and from its --config files, is as it was made. Raises SettingsError
    for what is no name=value, for a name that stands twice, and for a value that is none.
    """
    if isinstance(given, Mapping):
        return dict(given)
    arguments: dict[str, Any] = {}
    for part in re.split(r",(?=\s*[\w.]+\s*=|\s*$)", given) if given.strip() else ():
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not part.strip():
            continue  # a comma at the end
        if not equals or not name:
            raise SettingsError(f"model argument {part.strip()!r} is not valid: give name=value, such as window=8")
        if name in arguments:
            raise SettingsError(f"model argument {name} is given twice")
        arguments[name] = read_value(value, f"model argument {name}", means_text(name, TEXTS))
    _check_methods(arguments)
    return arguments


def _check_methods(arguments: Mapping[str, Any]) -> None:
    """Refuse settings of a method that is not asked: they would do nothing."""
    asked = arguments.get("method")
    for name in arguments:
        group = name.partition(".")[0]
        if "." in name and group != asked and registry.is_own(group):
            say = f"method={group} is not asked" if asked is None else f"method={asked} is asked"
            raise SettingsError(f"model argument {name!r} is not valid: {say}")
