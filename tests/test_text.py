"""Labels stay text where there is little room, and in Markdown."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videonsa.text import line_of, markdown, padded, shortened, told_apart, width


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("a\nb\u2028c\r\nd\te\x85f", "a b c d e f"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("\u202eabc", "\\u202eabc"),  # would turn the rest of the line
        ("\ud800", "\\ud800"),
        ("模型 שלום e\u0301 👩‍🔬", "模型 שלום e\u0301 👩‍🔬"),
    ],
)
def test_a_line_is_a_line(text: str, shown: str):
    assert line_of(text) == shown


@given(st.lists(st.text(max_size=400), max_size=6), st.integers(12, 60))
@settings(max_examples=100)
def test_labels_fit_and_are_told_apart(labels: list[str], most: int):
    shown = told_apart(labels, most)
    assert len(set(shown)) == len(set(labels))
    assert all(width(text) <= most and line_of(text) == text for text in shown)


def test_a_long_label_keeps_its_begin_and_its_end():
    assert shortened("the window is " + "very " * 60 + "wide", 24) == "the window is ve…ry wide"
    assert told_apart(["x" * 300 + "a" + "y" * 300, "x" * 300 + "b" + "y" * 300], 20)[1].endswith(" (2)")
    assert padded("模型", 6) + "|" == "模型  |"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        (
            "b=1 w=2, synth_needle * p < 0.05 [82–91]",
            "b=1 w=2, synth_needle * p < 0.05 [82–91]",
        ),  # as it is read anyway
        ("$100% vs $50%", "\\$100% vs \\$50%"),
        ("<b>bold</b> &lt;", "\\<b>bold\\</b> \\&lt;"),
        ("*a* _b_ `c` ~~d~~", "\\*a\\* \\_b\\_ \\`c\\` \\~\\~d\\~\\~"),
        ("[a](b)", "\\[a\\](b)"),
        ("\\$ a\\", "\\\\\\$ a\\\\"),
        ("# a", "\\# a"),
        ("- a", "\\- a"),
        ("1. a", "1\\. a"),
    ],
)
def test_markdown_shows_the_letters(text: str, escaped: str):
    assert markdown(text) == escaped
