"""questions.jsonl: one line a finished question; a killed evaluation goes on where it stopped. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from videonsa.disk import write_bytes, writing

NAME = "questions.jsonl"


class Journal:
    """Rows of one evaluation, appended as questions finish.

    Each line holds the evaluation's key beside the row. Lines of another key (other settings, other code), those of
    errors, and a last line that a kill cut short are not taken over: these questions are asked again. So are questions
    that show something else than when they were answered, by the row's `asked`; their number does not count.
    """

    def __init__(self, folder: Path, key: str, asked: Callable[[], Mapping[int, str]]) -> None:
        """`asked`: what each question shows now (evals.question.content_of), by document; called when needed."""
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.key = folder / NAME, key
        before = self.path.read_bytes() if self.path.exists() else b""
        kept = {row["asked"]: row for line in before.splitlines(keepends=True) if (row := self._read(line))}
        now = asked() if kept else {}
        self.rows = {doc: {**kept[shown], "doc_id": doc} for doc, shown in now.items() if shown in kept}
        content = "".join(map(self._line, self.rows.values())).encode()
        if content != before:
            write_bytes(self.path, content)

    def append(self, row: dict[str, Any]) -> None:
        """Add a finished question; on the disk when this returns, short of a power failure."""
        with writing(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(self._line(row))
        self.rows[row["doc_id"]] = row

    def _line(self, row: dict[str, Any]) -> str:
        return json.dumps({"key": self.key, **row}) + "\n"

    def _read(self, line: bytes) -> dict[str, Any] | None:
        try:
            row = json.loads(line)
        except ValueError:
            return None
        if not line.endswith(b"\n") or not isinstance(row, dict) or row.pop("key", None) != self.key:
            return None
        if row.get("error") or not row.get("asked"):
            return None  # asked again: the file may be whole now, or memory free
        return row
