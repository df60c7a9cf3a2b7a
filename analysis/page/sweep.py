"""report.html: a sweep as one file to send around. Tables, figures, questions, failures, where numbers come from."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.cell_text import cost_text, costs_of, score_text
from analysis.figures import DRAWINGS
from analysis.load import Results
from analysis.notes import notes
from analysis.page import Section, document, file, text
from analysis.page.data import LIMIT, page_data, to_json
from analysis.page.media import Media
from analysis.page.tables import Cell, number, plain, table
from analysis.paper import SOURCE, beside
from analysis.parts import parts_of
from analysis.pooled import SEED, SEEDS, cells_of, shown
from analysis.rows import each, part
from analysis.stats import SIGNIFICANT
from analysis.titles import sweep_title
from videonsa.record import write_text

NAME, WITHOUT_MEDIA = "report.html", "report-no-media.html"
LARGE = 1_000_000  # bytes of a figure's SVG, above which its PNG is shown
UP = '<p class="up"><a href="../../index.html">all sweeps</a></p>'
CHARTS = """<div class="charts" data-chart="accuracy"><h3>Accuracy</h3></div>
<div class="charts" data-chart="cost"><h3>Accuracy against cost</h3>
<p><label>cost <select id="cost"></select></label></p></div>
<div class="charts" data-chart="layers"><h3>By layer</h3></div>
<p class="hint">Point at a mark, or go to a chart with the tab key and step with the arrow keys, for its numbers.</p>
<template id="chart"><figure class="chart"><svg tabindex="0" role="group" aria-roledescription="chart"></svg>
<output aria-live="polite"></output></figure></template>"""


def write_report(
    plan: Mapping[str, Any], results: Results, rows: pd.DataFrame, sweep: Path, pictures: bool = True
) -> Path:
    """Write report.html into the sweep folder, with the figures that lie in its figures/; returns its path.

    Without pictures it is report-no-media.html, the copy to share: it shows nothing of the benchmarks' videos and
    links to no file beside it.
    """
    name, _, question = sweep_title(plan).partition(": ")
    sections = [
        Section("results", "Results", _results(rows, [*notes(rows, plan), *results.problems])),
        Section("charts", "Charts", CHARTS if (rows["status"] == "done").any() else ""),
        Section("questions", "Questions", file("questions.html") if len(results.questions) else ""),
        Section("parts", "Sub-scores", _parts(results)),
        Section("figures", "Figures", _figures(sweep / "figures", pictures)),
        Section("published", "Beside the published numbers", _published(shown(rows))),
        Section("failures", "Failures", _failures(rows)),
        Section("origin", "Where the numbers come from", _origin(rows, pictures)),
    ]
    up = UP if pictures else ""
    frame = document(name, question, sections, "", up)
    room = LIMIT - len(frame.encode("utf-8", "backslashreplace"))  # as write_text has it
    data = page_data(results, rows, Media(sweep.parent.parent), room, pictures)
    path = sweep / (NAME if pictures else WITHOUT_MEDIA)
    write_text(path, document(name, question, sections, to_json(data), up))
    return path


def _table(rows: pd.DataFrame) -> str:
    if not len(rows):
        return '<p class="what">This sweep has no cells.</p>'
    suites = list(dict.fromkeys(rows["suite"]))
    headings = ["variant", *suites, *(heading.replace("\n", " ") for heading, _ in costs_of(rows).values())]
    lines = []
    for label, group in rows.groupby("label", sort=False):
        here = {row.suite: row for row in each(group)}
        cells = [plain(label), *(_score(here.get(suite)) for suite in suites)]
        for name, (_, factor) in costs_of(rows).items():
            values = pd.to_numeric(group[name], errors="coerce").dropna() * factor
            cells.append(number(float(values.min()) if len(values) else None, cost_text(group[name], factor)))
        lines.append(("reference" if group["is_reference"].any() else "", cells))
    return table("Accuracy by variant and benchmark, and what it costs", headings, lines)


def _results(rows: pd.DataFrame, lines: Sequence[str]) -> str:
    """The table, what is to be known of it, and the single seeds that means are over, closed at first."""
    single = rows[rows["unit"] == SEED]
    seeds = f"<details><summary>each training seed</summary>{_table(single)}</details>" if len(single) else ""
    return _table(shown(rows)) + seeds + _list(lines)


def _score(row: Any) -> Cell:
    if row is None or row.status != "done":
        return Cell(score_text(row), kind="missing" if row is None or row.status == "missing" else "failed")
    accuracy, _, rest = score_text(row, decimals=1).partition(" ")
    kind = ""
    if row.p_holm < SIGNIFICANT:
        kind = "better" if row.difference > 0 else "worse"
    hint = f"{int(row.answered)} questions" if pd.notna(row.answered) else "its questions are not recorded"
    hint += f"; {row.seeds} of {row.seeds_planned} seeds" if row.unit == SEEDS else ""
    if row.unit == SEEDS and row.difference and pd.notna(row.difference):
        hint += f"; so in {int(row.seeds_agree)} of {int(row.seeds_compared)} seeds"
    if row.test:
        corrected = "" if pd.isna(row.p_holm) else f", Holm {row.p_holm:.2g}"
        hint += f"; p = {row.p:.2g}{corrected} ({row.test}, {int(row.pairs)} pairs)"
    return Cell(f"{accuracy} <small>{text(rest)}</small>", row.accuracy, kind, hint)


def _list(lines: Sequence[str]) -> str:
    return '<ul class="notes">' + "".join(f"<li>{text(line)}</li>" for line in lines) + "</ul>" if lines else ""


def _parts(results: Results) -> str:
    """A table a benchmark, closed at first."""
    tables = []
    for suite, group in shown(parts_of(results)).groupby("suite", sort=False):
        labels = list(dict.fromkeys(group["label"]))
        lines = []
        for name, same in group.groupby("part", sort=False):
            here = {row.label: row for row in each(same)}
            asked = max((int(count) for count in same["questions"].dropna()), default=0)
            lines.append(
                ("", [plain(name), number(asked, f"{asked:,}"), *(_part(here.get(label)) for label in labels)])
            )
        made = table(f"{suite}: sub-scores in % with 95 % intervals", ["sub-score", "questions", *labels], lines)
        tables.append(f"<details><summary>{text(suite)}</summary>{made}</details>")
    return "\n".join(tables)


def _part(row: Any) -> Cell:
    if row is None or pd.isna(row.score):
        return Cell("-", kind="missing")
    sure = "" if pd.isna(row.low) else f" <small>[{100 * row.low:.1f}–{100 * row.high:.1f}]</small>"
    return Cell(f"{100 * row.score:.1f}{sure}", row.score)


def _figures(folder: Path, linked: bool) -> str:
    shown = []
    for name, drawing in DRAWINGS.items():
        path = folder / f"{name}.svg"
        if path.is_file():
            path, kind = (path, "svg+xml") if path.stat().st_size < LARGE else (path.with_suffix(".png"), "png")
            image = base64.b64encode(path.read_bytes()).decode()
            links = ", ".join(f'<a href="figures/{name}.{end}">{end}</a>' for end in ("pdf", "svg", "png"))
            files = f" ({links})" if linked else ""
            picture = f'<img alt="{text(drawing.what)}" src="data:image/{kind};base64,{image}">'
            shown.append(f"<figure>{picture}<figcaption>{name}: {text(drawing.what)}{files}</figcaption></figure>")
    return "\n".join(shown)


def _published(rows: pd.DataFrame) -> str:
    pairs = beside(rows)
    if not len(pairs):
        return ""
    lines = []
    for pair in each(pairs):
        ours = Cell(f"{pair.ours:.1f} <small>[{pair.low:.1f}–{pair.high:.1f}]</small>", pair.ours)
        cells = [pair.label, pair.suite, pair.table, pair.method, pair.note]
        label, suite, *rest = map(plain, cells)
        lines.append(("", [label, suite, ours, number(pair.published, f"{pair.published:.1f}"), *rest]))
    headings = ["variant", "suite", "ours [95 %]", "published", "table", "method", "note"]
    return table(f"Scores in %; {SOURCE}.", headings, lines)


def _failures(rows: pd.DataFrame) -> str:
    cells = cells_of(rows)
    lost = cells[cells["status"] == "failed"].fillna({"error_type": "error", "error": "", "traceback": "no traceback"})
    shown = []
    for row in each(lost):
        title = text(f"{row.label}, {row.suite}: {row.error_type}: {row.error}")
        trace = f'<pre tabindex="0">{escape(str(row.traceback))}</pre>'
        shown.append(f'<details class="failure"><summary>{title}</summary>{trace}{_list(_facts(row))}</details>')
    return "\n".join(shown)


def _facts(row: Any) -> list[str]:
    """Of one record."""
    origin = row.provenance if isinstance(row.provenance, dict) else {}
    versions = part(origin, "versions")
    changed = " and changes" if origin.get("dirty") else ""
    facts = {
        "record": f"cells/{row.id}/record.json",
        "commit": f"{row.commit}{changed}" if row.commit else None,
        "made": _minute(origin),
        "machine": origin.get("gpu") or origin.get("machine"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return [f"{name}: {value}" for name, value in facts.items() if value]


def _origin(rows: pd.DataFrame, linked: bool) -> str:
    rows = cells_of(rows)
    done = rows[rows["status"] == "done"]
    facts = {
        "commits": sorted(done["commit"].dropna().unique()),
        "code of the method": sorted(done["code"].dropna().unique()),
        "model": sorted(done["model"].dropna().unique()),
        "trainings": sorted(done["training"].dropna().unique()),
    }
    lines = [f"{name}: {', '.join(map(str, values))}" for name, values in facts.items() if values]
    cells = [(row.status, [plain(row.label), plain(row.suite), *_place(row, linked)]) for row in each(rows)]
    headings = ["variant", "suite", "record", "state", "commit", "made", "on"]
    made = table("Every cell and its record, below the out folder", headings, cells)
    return _list(lines) + f"<details><summary>every cell</summary>{made}</details>"


def _place(row: Any, linked: bool) -> list[Cell]:
    origin = row.provenance if isinstance(row.provenance, dict) else {}
    record = Cell(f'<a href="../../cells/{text(row.id)}/record.json">{text(row.id)}</a>') if linked else plain(row.id)
    if row.status == "missing" or isinstance(row.source, str):  # that was not made here has no record
        return [plain(row.id), plain(row.status), *[Cell("-")] * 3]
    commit = f"{str(row.commit or '-')[:10]}{' and changes' if origin.get('dirty') else ''}"
    where = origin.get("gpu") or origin.get("machine") or "-"
    return [record, plain(row.status), plain(commit), plain(_minute(origin)), plain(where)]


def _minute(origin: Mapping[str, Any]) -> str:
    """When a record was made, UTC."""
    return str(origin.get("time") or "-")[:16].replace("T", " ")
