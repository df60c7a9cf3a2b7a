"""Samples that cannot be shown: passed over, listed in FOLDER/skipped.jsonl, and too many of them end a training.

Which step meets one is a matter of its number alone, so the list is the same for any number of processes. No torch.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from videonsa.config import SettingsError
from videonsa.disk import writing
from videonsa.record import write_text

FILE = "skipped.jsonl"


class SampleError(ValueError):
    """A sample that cannot be shown for another reason than its video."""


@dataclass(frozen=True)
class Skipped:
    """An entry of the data that was passed over."""

    entry: int  # its number in the file, from 1
    sample: str  # its id and its video
    why: str


class Skips:
    """What a training has passed over so far, the same in all its processes."""

    def __init__(self, file: Path, share: float, samples: int, known: Iterable[int] = ()) -> None:
        """share: of `samples`, the different ones that the training shows, that may be passed over; known: entries that
        were passed over before it was stopped."""
        self.file, self.share, self.samples, self.entries = file, share, samples, set(known)

    def add(self, step: int, found: Iterable[Skipped], main: bool) -> None:
        """Note what all processes found in a step; the main one lists what is new.

        Raises SettingsError, in all at once, where it is too much.
        """
        new = {each.entry: each for each in found if each.entry not in self.entries}
        if not new:
            return
        self.entries |= new.keys()
        if main:
            lines = [json.dumps({"step": step, **asdict(new[entry])}) + "\n" for entry in sorted(new)]
            with writing(self.file), open(self.file, "a", encoding="utf-8") as file:
                file.writelines(lines)
        if len(self.entries) > self.share * self.samples:
            last = new[max(new)]
            raise SettingsError(
                f"max_skipped={self.share!r}: {len(self.entries)} of {self.samples} samples cannot be shown, "
                f"such as {last.sample}: {last.why}; {self.file} lists them: repair the data, or allow more"
            )


def forget_after(file: Path, step: int) -> None:
    """Drop what was listed after the step that a run goes on from: it comes again."""
    kept = [line for line in _lines(file) if line["step"] <= step]
    if kept or file.exists():
        write_text(file, "".join(json.dumps(line) + "\n" for line in kept))


def summary(folder: Path) -> dict[str, Any]:
    """Of a training's folder: {"samples": entries, "why": {reason: entries}, the most frequent first}."""
    lines = _lines(folder / FILE)
    why = Counter(re.sub(r"\d[\d.]*", "N", line["why"]) for line in lines)
    return {"samples": len(lines), "why": dict(why.most_common())}


def in_words(folder: Path) -> str | None:
    """'3 samples could not be shown (2 No such file or directory, 1 ...): FOLDER/skipped.jsonl'; None: all could."""
    found = summary(folder)
    count, why = found["samples"], ", ".join(f"{number} {reason}" for reason, number in found["why"].items())
    return f"{count} sample{'s' * (count > 1)} could not be shown ({why}): {folder / FILE}" if count else None


def _lines(file: Path) -> list[dict[str, Any]]:
    """The lines of a list; one that a kill cut short is none."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
