"""Rows of measurements, appended to a CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from videonsa.disk import write_bytes


def append(rows: Sequence[Mapping[str, object]], columns: Sequence[str], path: Path) -> None:
    """Add rows to the file, which is made with its header when missing."""
    before = path.read_bytes() if path.exists() else b""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=columns)
    if not before:
        writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, before + text.getvalue().encode())
