"""The data file of a training: conversations about videos, as in LLaVA-Video-178K. Imports no torch.

Read when a sweep is planned and again when it trains: a file that is none is refused before anything runs. Of a large
one a dry run reads the begin.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videonsa.config import SettingsError

ROLES = {"human": "user", "gpt": "assistant"}  # the file's names -> a chat template's
VALID = 'a JSON or JSONL file of {"video": path, "conversations": [{"from": "human"|"gpt", "value": text}, ...]}'

WHOLE = 64 << 20  # bytes of a file that a dry run reads to its end: a second
HEAD = 8 << 20  # bytes that it reads of a larger one
LONGEST = 1 << 20  # characters of an entry that may be cut off at the end of these
GAP = re.compile(r"[\s,]*")  # between two entries


@dataclass(frozen=True)
class Head:
    """What a dry run knows of a data file."""

    entries: list[dict[str, Any]]  # checked: all of them, or the first
    read: int  # bytes that they take
    size: int  # bytes of the file

    @property
    def whole(self) -> bool:
        return self.read >= self.size

    @property
    def samples(self) -> int:
        """Entries of the file; by the size of the first ones where it was not read whole."""
        return round(len(self.entries) * self.size / self.read)


def read_head(path: Path) -> Head:
    """The entries of a file, of a large one the first. Raises as read_conversations; OSError."""
    if not path.is_file() or path.stat().st_size <= WHOLE:
        content = read_content(path)
        return Head(parse_conversations(content, str(path)), len(content), len(content))
    with open(path, "rb") as file:
        text = _text(file.read(HEAD), str(path), whole=False)
    entries, read = [], 0
    for entry, end in _first_entries(text):
        entries.append(entry)
        read = end
    if len(text) - read > LONGEST:
        raise _refused(str(path), f"no JSON of an entry behind the first {len(entries)}")
    _check(entries, str(path))
    return Head(entries, len(text[:read].encode()), os.path.getsize(path))


def _first_entries(text: str) -> Iterator[tuple[Any, int]]:
    """The whole entries of a list, or of lines, that is cut off, and where each ends."""
    decoder, place = json.JSONDecoder(), len(text) - len(text.lstrip())
    place += text[place : place + 1] == "["
    while True:
        gap = GAP.match(text, place)
        assert gap is not None
        try:
            entry, place = decoder.raw_decode(text, gap.end())
        except (ValueError, RecursionError):
            return
        yield entry, place


def read_conversations(path: Path) -> list[dict[str, Any]]:
    """The entries of a JSON list or of JSON lines; none is returned that training could not use.

    Raises SettingsError, one line: the file, its entry or line, and what is wrong with it.
    """
    try:
        return parse_conversations(read_content(path), str(path))
    except OSError as error:
        raise _refused(str(path), error.strerror or type(error).__name__) from None


def read_content(path: Path) -> bytes:
    """What is in the file. Raises SettingsError for a folder, or a pipe on which one would wait; OSError."""
    if path.exists() and not path.is_file():
        raise _refused(str(path), "it is no file")
    return path.read_bytes()


def parse_conversations(content: bytes, name: str) -> list[dict[str, Any]]:
    """As read_conversations, of a file's content."""
    entries = _parse(content, name)
    if not entries:
        raise _refused(name, "it holds no entry")
    _check(entries, name)
    return entries


def _check(entries: list[Any], name: str) -> None:
    for number, entry in enumerate(entries, 1):
        if problem := _problem(entry):
            known = f" (id {str(entry['id'])[:40]!r})" if isinstance(entry, dict) and entry.get("id") else ""
            raise _refused(name, f"entry {number}{known}: {problem}")


def _parse(content: bytes, name: str) -> list[Any]:
    text = _text(content, name)
    if text.lstrip().startswith("["):
        return _load(text, name, "")
    lines = text.split("\n")  # alone: JSON may hold other ends of lines, such as U+2028, within its texts
    return [_load(line, name, f"line {number}: ") for number, line in enumerate(lines, 1) if line.strip()]


def _text(content: bytes, name: str, whole: bool = True) -> str:
    """The content as text; of one that is not whole the last character may be cut short."""
    try:
        return codecs.getincrementaldecoder("utf-8-sig")().decode(content, final=whole)
    except UnicodeDecodeError as error:
        raise _refused(name, f"it is no text: {error.reason} at byte {error.start}") from None


def _load(text: str, name: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if where else f"line {error.lineno}, column {error.colno}"
        raise _refused(name, f"{where}no JSON, or only the begin of it: {error.msg} at {place}") from None
    except (RecursionError, ValueError):  # nested too deeply; a number of thousands of digits
        raise _refused(name, f"{where}no conversations") from None


def _problem(entry: Any) -> str | None:
    """What keeps an entry from being trained on."""
    if not isinstance(entry, dict):
        return f"{_shown(entry)} is no entry"
    if entry.get("image") or entry.get("images"):
        return "it is about an image, which training would not show; give videos or text alone"
    meant = next((key for key in entry if key.startswith("video")), None)
    if meant is not None and "video" not in entry:
        return f"{meant!r:.60} is not read; a video's path is called video"
    video, turns = entry.get("video"), entry.get("conversations")
    if video is not None and not isinstance(video, str):
        return f"video={_shown(video)} is no path"
    if not isinstance(turns, list) or not turns:
        return f"conversations={_shown(turns)} is no list of turns"
    for turn in turns:
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            return f"{_shown(turn)} is no turn"
        if turn.get("from") not in list(ROLES):
            return f"from={_shown(turn.get('from'))} is not valid: choose from {', '.join(ROLES)}"
    if not any(turn["from"] == "gpt" for turn in turns):
        return "nobody answers: there is no turn from gpt"
    return None


def _shown(value: Any) -> str:
    return f"{value!r:.60}"


def _refused(name: str, problem: str) -> SettingsError:
    return SettingsError(f"data={name!r}: {problem}; give {VALID}")
