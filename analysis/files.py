"""Files that may be missing or damaged, read for what they still say; and texts in a folder, with those of before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videonsa.record import write_text


def read_mapping(path: Path) -> dict[str, Any]:
    """The JSON object of a file; an empty one where there is no such file, or something else in it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def write_texts(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    """Write files by name; an empty text removes the one of a time when there was something to say."""
    for name, text in texts.items():
        if text:
            write_text(folder / name, text)
        else:
            (folder / name).unlink(missing_ok=True)
    return [folder / name for name, text in texts.items() if text]
