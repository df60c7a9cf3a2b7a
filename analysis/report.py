"""One sweep as one HTML file to send around: table, figures, failures with tracebacks, where the numbers come from.

No script, nothing fetched: figures are embedded, and the file works offline.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.figures import DRAWINGS
from analysis.load import Results
from analysis.paper import SOURCE, beside
from analysis.rows import each
from analysis.stats import SIGNIFICANT
from analysis.tables import cost_text, costs_of, notes, score_text, sweep_title
from videonsa.record import write_text
from videonsa.text import line_of

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1b1b; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2.2rem; }
p.what { color: #555; margin-top: .2rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .9rem .3rem 0; text-align: left; white-space: nowrap; border-bottom: 1px solid #e4e4e4; }
th { color: #555; font-weight: 600; } td.n { text-align: right; } tr.reference td:first-child { font-weight: 700; }
td:first-child { white-space: normal; max-width: 24rem; overflow-wrap: anywhere; }
small { color: #666; } .better { color: #00694d; } .worse { color: #a44800; }
.failed { color: #b00020; } .missing { color: #999; }
figure { margin: 1.2rem 0 2rem; } figure img { max-width: 100%; height: auto; }
figcaption { color: #555; font-size: .9rem; }
pre { overflow-x: auto; background: #f6f6f6; padding: .7rem; font-size: .8rem; }
ul { padding-left: 1.1rem; color: #444; }
""".strip()


def write_report(plan: Mapping[str, Any], results: Results, rows: pd.DataFrame, sweep: Path) -> Path:
    """Write report.html into the sweep folder, with the figures that lie in its figures/; returns its path."""
    title = _text(sweep_title(plan))
    name, _, question = title.partition(": ")
    parts = [
        f"<h1>{name}</h1><p class='what'>{question}</p>",
        _table(rows),
        _list([*notes(rows, plan), *results.problems]),
        _figures(sweep / "figures"),
        _published(rows),
        _failures(rows),
        _origin(rows),
    ]
    head = f"<meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>{name}</title>"
    page = f"<!doctype html>\n<html lang='en'><head>{head}<style>{STYLE}</style></head>\n<body>\n"
    write_text(sweep / "report.html", page + "\n".join(part for part in parts if part) + "\n</body></html>\n")
    return sweep / "report.html"


def _text(text: object) -> str:
    """Text as HTML."""
    return escape(line_of(text))


def _table(rows: pd.DataFrame) -> str:
    suites = list(dict.fromkeys(rows["suite"]))
    headings = ["variant", *suites, *(heading for heading, _ in costs_of(rows).values())]
    factors = [(name, factor) for name, (_, factor) in costs_of(rows).items()]
    lines = ["<div class='scroll'><table><tr>" + "".join(f"<th>{_text(text)}</th>" for text in headings) + "</tr>"]
    for label, group in rows.groupby("label", sort=False):
        here = {row.suite: row for row in each(group)}
        cells = "".join(_cell(here.get(suite)) for suite in suites)
        costs = "".join(f"<td class='n'>{cost_text(group[name], factor)}</td>" for name, factor in factors)
        kind = " class='reference'" if group["is_reference"].any() else ""
        lines.append(f"<tr{kind}><td>{_text(label)}</td>{cells}{costs}</tr>")
    return "\n".join([*lines, "</table></div>"])


def _cell(row: Any) -> str:
    if row is None or row.status != "done":
        kind = "missing" if row is None or row.status == "missing" else "failed"
        return f"<td class='{kind}'>{score_text(row)}</td>"
    accuracy, _, rest = score_text(row, decimals=1).partition(" ")
    kind = ""
    if row.p_holm < SIGNIFICANT:
        kind = "better" if row.difference > 0 else "worse"
    hint = f"{int(row.answered)} questions"
    if row.test:
        hint += f"; p = {row.p:.2g}, Holm {row.p_holm:.2g} ({row.test}, {int(row.pairs)} pairs)"
    return f"<td class='{kind}' title='{_text(hint)}'>{accuracy} <small>{_text(rest)}</small></td>"


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{_text(line)}</li>" for line in lines) + "</ul>" if lines else ""


def _figures(folder: Path) -> str:
    shown = []
    for name, drawing in DRAWINGS.items():
        path = folder / f"{name}.svg"
        if path.is_file():
            image = base64.b64encode(path.read_bytes()).decode()
            links = ", ".join(f"<a href='figures/{name}.{kind}'>{kind}</a>" for kind in ("pdf", "svg", "png"))
            picture = f"<img alt='{_text(drawing.what)}' src='data:image/svg+xml;base64,{image}'>"
            shown.append(f"<figure>{picture}<figcaption>{name}: {_text(drawing.what)} ({links})</figcaption></figure>")
    return "<h2>Figures</h2>" + "\n".join(shown) if shown else ""


def _published(rows: pd.DataFrame) -> str:
    pairs = beside(rows)
    if not len(pairs):
        return ""
    lines = [f"<h2>Beside the published numbers</h2><p class='what'>Scores in %; {SOURCE}.</p><table>"]
    headings = ("variant", "suite", "ours [95 %]", "published", "table", "method", "note")
    lines.append("<tr>" + "".join(f"<th>{text}</th>" for text in headings) + "</tr>")
    for pair in each(pairs):
        ours = f"{pair.ours:.1f} [{pair.low:.1f}–{pair.high:.1f}]"
        cells = (pair.label, pair.suite, ours, f"{pair.published:.1f}", pair.table, pair.method, pair.note)
        lines.append("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in cells) + "</tr>")
    return "\n".join([*lines, "</table>"])


def _failures(rows: pd.DataFrame) -> str:
    lost = rows[rows["status"] == "failed"].fillna({"error_type": "error", "error": "", "traceback": "no traceback"})
    shown = []
    for row in each(lost):
        title = _text(f"{row.label}, {row.suite}: {row.error_type}: {row.error}")
        trace = f"<pre>{escape(str(row.traceback))}</pre>"
        shown.append(f"<details><summary class='failed'>{title}</summary>{trace}</details>")
    return "<h2>Failures</h2>" + "\n".join(shown) if shown else ""


def _origin(rows: pd.DataFrame) -> str:
    done = rows[rows["status"] == "done"]
    facts = {
        "commits": sorted(done["commit"].dropna().unique()),
        "code of the method": sorted(done["code"].dropna().unique()),
        "model": sorted(done["model"].dropna().unique()),
        "trainings": sorted(done["training"].dropna().unique()),
    }
    lines = [f"{name}: {', '.join(map(str, values))}" for name, values in facts.items() if values]
    lines.append("records: ../../cells/<id>/record.json (table.csv has the ids)")
    return "<h2>Where the numbers come from</h2>" + _list(lines)
