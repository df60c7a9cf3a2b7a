"""Tables of a page: each with a caption, and headings that sort it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from analysis.page import text


class Cell(NamedTuple):
    """One cell: HTML; what it is sorted by, where that is not what it shows; classes; what it says when pointed at."""

    html: str
    sort: float | str | None = None
    kind: str = ""
    hint: str = ""


def plain(value: object) -> Cell:
    """A text as a cell."""
    return Cell(text(value))


def number(value: float | None, shown: str) -> Cell:
    """A number as a cell; one that is not there is sorted last."""
    return Cell(text(shown), value, "n")


def table(caption: str, headings: Sequence[str], rows: Iterable[tuple[str, Sequence[Cell]]]) -> str:
    """A table of rows, each with its class and its cells, of which the first is the row's heading."""
    head = "".join(f'<th scope="col">{text(heading)}</th>' for heading in headings)
    lines = [f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}"><table class="sortable">']
    lines.append(f"<caption>{text(caption)}</caption><thead><tr>{head}</tr></thead><tbody>")
    for kind, cells in rows:
        mark = f' class="{kind}"' if kind else ""
        first, *rest = cells
        lines.append(f'<tr{mark}><th scope="row">{first.html}</th>{"".join(map(_cell, rest))}</tr>')
    return "\n".join([*lines, "</tbody></table></div>"])


def _cell(cell: Cell) -> str:
    marks = f' class="{cell.kind}"' if cell.kind else ""
    marks += f' data-sort="{text(cell.sort)}"' if cell.sort is not None else ""
    marks += f' title="{text(cell.hint)}"' if cell.hint else ""
    return f"<td{marks}>{cell.html}</td>"
