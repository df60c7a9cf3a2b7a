"""Files of a copy of a repository. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def files_below(folder: Path) -> Iterator[Path]:
    """All files, in order, but hidden ones: `hf download --local-dir` keeps notes on each in .cache, named alike."""
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root) / name for name in sorted(names) if _is_one(Path(root) / name))


def _is_one(path: Path) -> bool:
    """Not hidden, no link to nothing, and no pipe, which would be waited for."""
    return not path.name.startswith(".") and path.is_file()
