"""Text in figures: letters that can be drawn, on one line, as wide as there is room."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import lru_cache

from matplotlib.font_manager import FontProperties, fontManager, get_font
from matplotlib.textpath import text_to_path

from videonsa.text import NO_WIDTH, escaped, line_of, told_apart

# DejaVu ships with matplotlib: the same letters on every machine. What it lacks comes from the first other one that is
# here; what none has is written as its number.
OTHERS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei"),
    *("Droid Sans Fallback", "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "SimHei", "Noto Sans CJK KR"),
    *("Noto Sans Devanagari", "Noto Sans Thai", "Noto Emoji", "Symbola", "Arial Unicode MS", "Unifont"),
)
FONTS = ["DejaVu Sans", *(name for name in OTHERS if name in fontManager.get_font_names())]
NAME_WIDTH = 2.1  # inches of a variant's name at an axis
LONGEST = 44  # letters of one at most
TICK = 6.5  # points of the letters at an axis


def names(labels: Iterable[object], inches: float = NAME_WIDTH, size: float = TICK) -> list[str]:
    """Labels as a figure shows them: one line, letters that can be drawn, long ones shortened, no two alike."""
    drawn = [drawable(label) for label in labels]
    shown = told_apart(drawn, LONGEST)
    for most in range(LONGEST - 2, 8, -2):
        if widest(shown, size) <= inches:
            break
        shown = told_apart(drawn, most)
    return shown


def widest(texts: Iterable[str], size: float = TICK) -> float:
    """Inches that the widest of the texts takes in letters of this size."""
    font = FontProperties(family=FONTS, size=size)
    widths = (text_to_path.get_text_width_height_descent(text, font, False)[0] for text in set(texts))
    return max(widths, default=0.0) / 72


def drawable(text: object) -> str:
    """The text on one line in letters that FONTS have; others are written as numbers: an empty box says nothing."""
    line = unicodedata.normalize("NFC", line_of(text))
    known = _letters()
    return "".join(
        letter if ord(letter) in known else "" if unicodedata.category(letter) in NO_WIDTH else escaped(letter)
        for letter in line
    )


@lru_cache
def _letters() -> frozenset[int]:
    fonts = [get_font(fontManager.findfont(FontProperties(family=[name]))) for name in FONTS]
    return frozenset().union(*(font.get_charmap() for font in fonts))
