"""The answers to one suite by one checkpoint, under however many attentions, by whichever processes. Imports no torch.

A folder: each process appends to a file of its own, a line an answer, below one that says what it is. An answer stands
under a key of all that can change it and under what its question shows; no other list says what has been asked. What
is about one video is asked by one process at a time, under that video's claim, so that any number of processes give
every answer once. One that is killed leaves at most half a line at the end of its file, which nobody reads.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from videonsa.disk import writing
from videonsa.lock import Lock, LockHeld

Row = dict[str, Any]  # one question as it was answered, or the error that it met


class Answers:
    """What the folder holds, read as it grows; `add` adds to it.

    An error settles its question in the attempt that met it alone: the next one asks again, as the file may be whole
    then, or memory free.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any] | None = None, attempt: str = "") -> None:
        """about: the process, as records will say who answered. attempt: processes of one attempt share this name."""
        self.folder, self.about, self.attempt = folder, dict(about or {}), attempt
        self.rows: dict[tuple[str, str], Row] = {}  # by key and question; `by` names the file
        self.writers: dict[str, dict[str, Any]] = {}  # what each file says of its process
        self._read: dict[Path, int] = {}  # bytes of each file that are known
        self._own: Path | None = None
        self.read()

    def read(self) -> None:
        """Take in what has been added since, by others."""
        for path in sorted(self.folder.glob("*.jsonl")):
            if path == self._own:
                continue
            with open(path, "rb") as file:
                file.seek(self._read.get(path, 0))
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            for line in whole.splitlines():
                self._take(path.stem, line)

    def settled(self, key: str, question: str) -> bool:
        """It has an answer, or met an error in this attempt."""
        row = self.rows.get((key, question))
        return row is not None and (not row["error"] or row["attempt"] == self.attempt)

    def add(self, key: str, question: str, row: Mapping[str, Any]) -> None:
        """Add an answer, or an error; on the disk when this returns, short of a power failure. Raises DiskError."""
        full = {**row, "attempt": self.attempt} if row["error"] else dict(row)
        line = json.dumps({"key": key, "question": question, **full}) + "\n"
        path = self._own
        if path is None:
            path = self.folder / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:8]}.jsonl"
            line = json.dumps({"about": self.about}) + "\n" + line
        self._own = None  # a file that half a line may end is left alone
        with writing(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(path, "a", encoding="utf-8") as file:
                file.write(line)
        self._own = path
        self._read[path] = path.stat().st_size
        self.writers[path.stem] = self.about
        self._keep(key, question, {**full, "by": path.stem})

    @contextmanager
    def claimed(self, video: str, wait: bool = False) -> Iterator[Lock | None]:
        """The claim of the questions about a video, with all that others have answered so far; call its `check` before
        adding. None where another process has it, unless this waits for its turn."""
        lock = Lock(self.folder / "claims" / video, wait)
        try:
            lock.__enter__()
        except LockHeld:
            yield None
            return
        try:
            self.read()
            yield lock
        finally:
            lock.__exit__()

    def _take(self, writer: str, line: bytes) -> None:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # half a line, of a disk that was full
            return
        if isinstance(row, dict) and isinstance(row.get("about"), dict):
            self.writers[writer] = row["about"]
        elif isinstance(row, dict) and _is_answer(row):
            self._keep(row.pop("key"), row.pop("question"), {**row, "by": writer})

    def _keep(self, key: str, question: str, row: Row) -> None:
        """The first answer stands; an error makes way for an answer, and one of another attempt for any."""
        old = self.rows.get((key, question))
        if old is None or (old["error"] and not (row["error"] and self.settled(key, question))):
            self.rows[key, question] = row


def _is_answer(row: Row) -> bool:
    """It names its question, and has an answer or an error of some attempt."""
    kind = ("prediction",) if row.get("error") is None else ("error", "attempt")
    return "error" in row and all(isinstance(row.get(name), str) for name in ("key", "question", *kind))
