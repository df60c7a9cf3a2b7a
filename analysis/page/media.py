"""What evaluation kept of the questions for people to look at (answers/*/media/): prompts, lengths, sheets of frames.

Nothing has to be there: a folder of records alone, or of before, gives questions without prompts and pictures.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.files import read_mapping

PLACE = re.compile(r"answers/[^/\\]+/media/[0-9a-f]+\.json")  # as records name it; they may come from anybody
SHEET = re.compile(r"[0-9a-f]{8,64}")
ABOUT = ("seconds", "seen", "times", "columns")  # what a sheet's comment says
MOST_SECONDS = 1e9  # and numbers of frames; NaN and infinity are no less
MOST = 500  # questions whose pictures a page holds


@dataclass(frozen=True)
class Seen:
    """What is known of how a question was asked."""

    prompt: str | None = None
    folder: str = ""  # of its sheets, below the out folder
    sheets: tuple[str, ...] = ()  # one a clip, by name


class Media:
    """What lies below an out folder."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self._questions: dict[str, dict[str, Any]] = {}
        self._about: dict[tuple[str, str], dict[str, Any]] = {}

    def question(self, place: object, doc_id: str) -> Seen:
        """Of a question; `place` as the cell's record names it."""
        if not (isinstance(place, str) and PLACE.fullmatch(place)):
            return Seen()
        if place not in self._questions:
            self._questions[place] = read_mapping(self.out / place)
        found = self._questions[place].get(doc_id)
        if not isinstance(found, dict):
            return Seen()
        prompt, names = found.get("prompt"), found.get("sheets")
        known = names if isinstance(names, list) else ()
        sheets = tuple(name for name in known if isinstance(name, str) and SHEET.fullmatch(name))
        return Seen(prompt if isinstance(prompt, str) else None, place.rpartition("/")[0], sheets)

    def about(self, folder: str, sheet: str) -> dict[str, Any]:
        """What a sheet's comment says: `seconds` of the clip, frames `seen`, `times` of those shown, `columns`; and its
        `size`. Nothing where it is not there, or says something else."""
        if (folder, sheet) not in self._about:
            self._about[folder, sheet] = _comment(self.out / folder / f"{sheet}.jpg")
        return self._about[folder, sheet]

    def there(self, seen: Seen) -> list[str]:
        """Its sheets that are there: none is of what was answered before they were kept."""
        return [sheet for sheet in seen.sheets if self.about(seen.folder, sheet)]

    def seconds(self, seen: Seen) -> float | None:
        """How long the clips of a question are together; None where one is not known."""
        lengths = [self.about(seen.folder, sheet).get("seconds") for sheet in seen.sheets]
        known = [float(length) for length in lengths if isinstance(length, int | float)]
        return round(sum(known), 1) if known and len(known) == len(lengths) else None

    def sheet(self, folder: str, sheet: str) -> dict[str, Any]:
        """What the page shows of a sheet: `about` it, and its JPEG in base64 as `jpg`. Nothing where there is none."""
        about = self.about(folder, sheet)
        try:
            picture = (self.out / folder / f"{sheet}.jpg").read_bytes() if about else b""
        except OSError:
            picture = b""
        return {**about, "jpg": base64.b64encode(picture).decode()} if picture else {}


def _comment(path: Path) -> dict[str, Any]:
    from PIL import Image

    try:
        with Image.open(path, formats=("JPEG",)) as picture:
            said, size = json.loads(picture.info["comment"]), picture.size
    except (OSError, ValueError, KeyError, TypeError, RecursionError, Image.DecompressionBombError):
        return {}
    return {**{name: said[name] for name in ABOUT}, "size": size} if _is_about(said) else {}


def _is_about(said: Any) -> bool:
    """What the page's script and a page's JSON can do with; a file may come from anybody."""
    if not (isinstance(said, dict) and isinstance(said.get("times"), list)):
        return False
    numbers = [*(said.get(name) for name in ABOUT if name != "times"), *said["times"]]
    return all(type(value) in (int, float) and 0 <= value < MOST_SECONDS for value in numbers)
