"""All items of the paper in its order, as one HTML file that prints as well: pictures and tables, ours and published.

No script, nothing fetched: figures are embedded, and the file works offline.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from analysis.items.found import Found
from analysis.items.make import FOLDER, Made
from analysis.items.printed import NotPrinted, print_page
from analysis.items.written import Page, filled_by
from analysis.page import file
from videonsa.record import write_text
from videonsa.text import line_of

TITLE = "VideoNSA (arXiv 2510.02295v2): its tables and figures, ours beside the published numbers"
ABOUT = (
    "Published numbers are the authors', copied from the paper, without intervals; all others were made by the code of "
    "this repository. A cell of ours stands beside a number where it was asked the same question: benchmark, weights, "
    "attention, semantics, gates, sampling, all questions. The published checkpoint was trained and evaluated by code "
    "that differs from the paper's text, and is asked as that code does."
)
COLUMNS = 6  # of a table side by side, as many as a printed page has room for; further ones stand below
MORE = """
td:first-child { white-space: normal; max-width: 24rem; overflow-wrap: anywhere; }
table.items td { white-space: normal; } section { margin-top: 3rem; }
th { font-weight: 600; } th:first-child { min-width: 7rem; }
table.items td:first-child { white-space: nowrap; }
.scroll + .scroll { margin-top: 1.5rem; }
@media print { section { margin-top: 1.5rem; } section table { font-size: 8pt; } .status { break-after: avoid; } }
td.whose, tr.published td, .status { color: var(--quiet); }
"""


def write_appendix(made: Sequence[Made], found: Found) -> list[Path]:
    """<out>/paper/appendix.html of these items and, where it can be printed, .pdf; returns their paths."""
    parts = [f"<h1>{escape(TITLE)}</h1><p class='what'>{escape(ABOUT)}</p>", _contents(made), *map(_section, made)]
    if found.problems:
        parts.append("<h2>Records with problems</h2>" + _list(found.problems))
    head = f"<meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>{escape(TITLE)}</title>"
    page = f"<!doctype html>\n<html lang='en'><head>{head}<style>{file('page.css')}{MORE}</style></head>\n<body>\n"
    path = found.out / FOLDER / "appendix.html"
    write_text(path, page + "\n".join(parts) + "\n</body></html>\n")
    try:
        return [path, print_page(path)]
    except NotPrinted as error:
        found.problems.append(str(error))
        return [path]


def _contents(made: Iterable[Made]) -> str:
    lines = ["<table class='items'>"]
    for one in made:
        link = f"<a href='#{one.item.name}'>{one.item.title}</a>"
        lines.append(f"<tr><td>{link}</td><td>{_text(one.item.shows)}</td><td>{_text(one.page.status)}</td></tr>")
    return "\n".join([*lines, "</table>"])


def _section(one: Made) -> str:
    page = one.page
    parts = [f"<h2>{_text(page.title)}</h2><p class='status'>{_text(page.status)}</p>", _picture(one), _table(page)]
    parts.append(_list(page.notes))
    if page.commands:
        parts.append(f"<p>{filled_by(page.commands)}</p><pre>" + escape("\n".join(page.commands)) + "</pre>")
    return f"<section id='{one.item.name}'>" + "\n".join(filter(None, parts)) + "</section>"


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{_text(line)}</li>" for line in lines) + "</ul>" if lines else ""


def _picture(one: Made) -> str:
    svg = next((path for path in one.paths if path.suffix == ".svg"), None)
    if svg is None:
        return ""
    image = base64.b64encode(svg.read_bytes()).decode()
    links = ", ".join(f"<a href='{svg.stem}.{kind}'>{kind}</a>" for kind in ("pdf", "svg", "png"))
    picture = f"<img alt='{_text(one.page.title)}' src='data:image/svg+xml;base64,{image}'>"
    return f"<figure>{picture}<figcaption>ours ({links})</figcaption></figure>"


def _table(page: Page) -> str:
    if not page.lines:
        return ""
    return "\n".join(_part(page, slice(start, start + COLUMNS)) for start in range(0, len(page.columns), COLUMNS))


def _part(page: Page, columns: slice) -> str:
    """Some columns of the table, below the names of its rows."""
    lines = ["<div class='scroll'><table>", _row("th", ["", "", *page.columns[columns]])]
    for line in page.lines:
        cells = "".join(f"<td{_kind(cell)}>{_text(cell)}</td>" for cell in line.cells[columns])
        whose = line.whose.partition(",")[0]
        named = f"<td>{_text(line.row)}</td><td class='whose'>{_text(line.whose)}</td>"
        lines.append(f"<tr class='{whose}'>{named}{cells}</tr>")
    return "\n".join([*lines, "</table></div>"])


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{_text(cell)}</{tag}>" for cell in cells) + "</tr>"


def _kind(cell: str) -> str:
    return {"-": " class='missing'", "failed": " class='failed'"}.get(cell, "")


def _text(text: str) -> str:
    return escape(line_of(text))
