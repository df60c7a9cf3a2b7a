"""Arrays beside a record: one .npz, no pickles, and what the record says of it. Imports numpy where it is used."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videonsa.disk import write_bytes

ARRAYS = "arrays.npz"  # beside record.json


class NoArrays(ValueError):
    """The file is not what the record says. The message is one line with its place below the out folder."""


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Write numpy arrays of numbers, atomically; returns what the record says: file, SHA-256, each one's shape.

    The same arrays give the same bytes. Raises TypeError for an array of objects, DiskError as write_bytes.
    """
    import numpy as np

    if objects := [name for name, array in arrays.items() if np.asarray(array).dtype.hasobject]:
        raise TypeError(f"array {objects[0]} holds objects, not numbers")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    content = buffer.getvalue()
    write_bytes(path, content)
    held = {
        name: {"shape": list(np.shape(array)), "dtype": str(np.asarray(array).dtype)} for name, array in arrays.items()
    }
    return {"file": path.name, "sha256": hashlib.sha256(content).hexdigest(), "held": held}


def read_arrays(folder: Path, said: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of a record in this folder, by name; said: the record's `arrays`. Raises NoArrays."""
    import numpy as np

    place = f"{folder.parent.name}/{folder.name}/{ARRAYS}"  # for tables and pages, which others read
    try:
        content = (folder / ARRAYS).read_bytes()
    except OSError as error:
        raise NoArrays(f"{place}: cannot be read ({type(error).__name__})") from None
    if hashlib.sha256(content).hexdigest() != said.get("sha256"):
        raise NoArrays(f"{place}: not the file that the record was written with")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, KeyError) as error:
        raise NoArrays(f"{place}: no arrays ({type(error).__name__})") from None
