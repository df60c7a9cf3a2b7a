"""questions.jsonl: one line a finished question; a killed evaluation goes on where it stopped. Imports no torch."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

NAME = "questions.jsonl"


class Journal:
    """Rows of one evaluation, appended as questions finish.

    Each line holds the evaluation's key beside the row. Lines of another key (other settings, other code), those of
    errors, and a last line that a kill cut short are not taken over: these questions are asked again.
    """

    def __init__(self, folder: Path, key: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.key = folder / NAME, key
        self.rows: dict[int, dict[str, Any]] = {}
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        kept = [line for line in lines if self._take(line)]
        if kept != lines:
            self._rewrite(b"".join(kept))

    def append(self, row: dict[str, Any]) -> None:
        """Add a finished question; on the disk when this returns, short of a power failure."""
        self.rows[row["doc_id"]] = row
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"key": self.key, **row}) + "\n")

    def _take(self, line: bytes) -> bool:
        try:
            row = json.loads(line)
        except ValueError:
            return False
        if not line.endswith(b"\n") or not isinstance(row, dict) or row.pop("key", None) != self.key:
            return False
        if row.get("error"):
            return False  # asked again: the file may be whole now, or memory free
        self.rows[row["doc_id"]] = row
        return True

    def _rewrite(self, content: bytes) -> None:
        draft = self.path.with_name(f".{NAME}.{os.getpid()}.tmp")
        try:
            draft.write_bytes(content)
            os.replace(draft, self.path)
        finally:
            draft.unlink(missing_ok=True)
