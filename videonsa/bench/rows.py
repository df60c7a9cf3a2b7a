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


def refusal(path: Path | None, columns: Sequence[str], gpu: str) -> str | None:
    """Why rows of this GPU with these columns cannot be added to the file, in one line; None where they can."""
    if path is None or not path.exists():
        return None
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        others = sorted({row.get("gpu") or "" for row in reader} - {gpu})
    if list(reader.fieldnames or columns) != list(columns):
        return f"{path} has other columns than are measured here: give another --out"
    if others:
        return f"{path} holds rows of {', '.join(others)}, and this is {gpu}: a file a card, give another --out"
    return None
