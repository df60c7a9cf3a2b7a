"""Files that may be missing or damaged, read for what they still say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_mapping(path: Path) -> dict[str, Any]:
    """The JSON object of a file; an empty one where there is no such file, or something else in it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
