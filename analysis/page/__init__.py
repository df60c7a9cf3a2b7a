"""Pages to look at: one HTML file a sweep and one over all sweeps, which need no network and no server.

page.html, page.css and page.js are what a browser gets; Python writes tables and texts into them, and numbers as JSON
for the script. Nothing else runs or is fetched: the page's own policy names its style and its script by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple

from videonsa.text import line_of

FOLDER = Path(__file__).parent
FILES = ("page.html", "questions.html", "page.css", "page.js")


class Section(NamedTuple):
    """A part of a page that its list of contents names; one without content is left out."""

    name: str  # of the anchor
    title: str
    content: str  # HTML


def document(title: str, about: str, sections: list[Section], data: str = "{}", up: str = "") -> str:
    """A whole page. title, about: text. data: JSON as analysis.page.data.to_json gives it. up: HTML above the title."""
    style, script = file("page.css"), file("page.js")
    there = [section for section in sections if section.content]
    links = "".join(f'<li><a href="#{one.name}">{one.title}</a></li>' for one in there)
    contents = f'<nav aria-label="Sections of this page"><ul>{links}</ul></nav>' if len(there) > 1 else ""
    bodies = "\n".join(
        f'<section id="{one.name}" aria-labelledby="{one.name}-title">\n<h2 id="{one.name}-title">{one.title}</h2>\n'
        f"{one.content}\n</section>"
        for one in there
    )
    parts = {
        "title": text(title),
        "about": text(about),
        "up": up,
        "contents": contents,
        "sections": bodies,
        "data": data,
    }
    hashes = {"style_hash": _hash(style), "script_hash": _hash(script)}
    return Template(file("page.html")).substitute(parts | hashes, style=style, script=script)


def text(value: object) -> str:
    """Any text as HTML, on one line."""
    return escape(line_of(value))


@lru_cache
def file(name: str) -> str:
    """One of FILES."""
    return (FOLDER / name).read_text(encoding="utf-8")


def version() -> str:
    """Changes when what the browser gets does; Python files have versions of their own."""
    return hashlib.sha256("".join(map(file, FILES)).encode()).hexdigest()


def _hash(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
