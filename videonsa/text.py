"""Text that people wrote, shown where a line, a cell or a picture has little room: it stays text. Imports no torch."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

BREAKS = re.compile(r"\r\n|[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]")
# What acts instead of being shown: control characters, halves of letters, and what turns a line's direction.
ACTING = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069\ufeff]")
NO_WIDTH = ("Mn", "Me", "Cf")  # categories: marks on the letter before, and joiners

# Where Markdown (GitHub's) would read something else than the letters.
MARKS = re.compile(
    r"\\(?=[!-/:-@\[-`{-~]|$)"  # before punctuation, or what a table puts behind the text
    r"|[`$]|(?<!\s)[*~]|[*~](?!\s)"  # alone between spaces, neither marks anything
    r"|(?<![^\W_])_(?!\s)|(?<!\s)_(?![^\W_])"  # inside of a word it is a letter
    r"|<(?=[A-Za-z/!?])|&(?=#?\w+;)|\](?=[(\[:])"
)


def line_of(text: object) -> str:
    """The text on one line: a break is a space, and a character that would act is written out, as in \\x1b."""
    return ACTING.sub(lambda found: escaped(found[0]), BREAKS.sub(" ", str(text)))


def duration(seconds: float) -> str:
    """'45 s', '3 min 20 s', '2 h 05 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def escaped(letter: str) -> str:
    """\\x1b, \\u202e or \\U0001f3a5: a character by its number, as Python writes it."""
    number = ord(letter)
    return f"\\x{number:02x}" if number < 1 << 8 else f"\\u{number:04x}" if number < 1 << 16 else f"\\U{number:08x}"


def width(text: str) -> int:
    """Columns of a terminal: letters of East Asia take two, marks none."""
    return sum(
        0 if unicodedata.category(letter) in NO_WIDTH else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def padded(text: str, columns: int) -> str:
    """The text with spaces behind it, up to so many columns."""
    return text + " " * (columns - width(text))


def told_apart(labels: Sequence[object], most: int) -> list[str]:
    """The labels on one line each, at most so many columns wide; two that differ stay two.

    A long one loses its middle; what then is the same as another gets a number.
    """
    made: dict[str, str] = {}
    for label in map(str, labels):
        if label in made:
            continue
        short, count = shortened(line_of(label), most), 1
        while short in made.values():
            count += 1
            mark = f" ({count})"
            short = shortened(line_of(label), most - len(mark)) + mark
        made[label] = short
    return [made[label] for label in map(str, labels)]


def shortened(text: str, most: int) -> str:
    """The text, or its begin and its end with an ellipsis between them."""
    if width(text) <= most:
        return text
    tail = _fitting(text[::-1], (most - 1) // 3)[::-1]
    return _fitting(text, most - 1 - width(tail)).rstrip() + "…" + tail.lstrip()


def _fitting(text: str, most: int) -> str:
    """The begin of a text, as much as fits."""
    used = 0
    for end, letter in enumerate(text):
        used += width(letter)
        if used > most:
            return text[:end]
    return text


def markdown(text: object) -> str:
    """The text such that Markdown shows its letters, on one line; in a cell of a table a | needs more."""
    line = MARKS.sub(lambda found: "\\" + found[0], line_of(text))
    return re.sub(r"^(\d+)(?=[.)]\s)", r"\1\\", re.sub(r"^(?=[>\[]|#{1,6}\s|[-+=]+(\s|$))", r"\\", line))
