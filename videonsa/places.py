"""Where something lies, as people write it: ~ is a home folder, also where no shell replaced it. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path

from videonsa.values import SettingsError


def place(given: str | Path) -> Path:
    """The path, with the home folder in place of ~ or ~name; SettingsError where nobody knows that folder.

    HOME need not be set: the system knows where a user is at home. In a container it may know no user.
    """
    return Path(place_text(str(given)))


def place_text(given: str) -> str:
    """`place` as text, otherwise as it was written: a hub name stays one."""
    text = os.path.expanduser(given)
    if given.startswith("~") and text == given:
        home = given.partition("/")[0]
        raise SettingsError(f"{given!r}: no home folder {home} is known here; give the path in full, or ./{given}")
    return text
