"""The sweep table: variants x suites, each accuracy with its interval and its paired difference to the reference.

`compare` computes it once, tidy, one row a cell and one a mean over a variant's seeds; the terminal, Markdown and CSV
are three ways to write the same rows.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from analysis.load import Results
from analysis.numbers import Asked, by_cell, pair_of, statistics
from analysis.pooled import cells_of, shown, with_pooled
from analysis.rows import AGGREGATE, OF_PAGES, each, groups_of
from analysis.stats import SIGNIFICANT, holm
from analysis.titles import sweep_title
from videonsa.text import line_of, markdown, told_apart

SUITES_A_TABLE = 4  # more suites than this are stacked as further tables
COSTS = {  # column -> (heading, factor)
    "prefill_ms": ("prefill\nms", 1.0),
    "peak_memory_mib": ("peak\nMiB", 1.0),
    "attention_fraction": ("attention\n%", 100.0),
}
OF_METHODS = {"density": ("pairs\n%", 100.0)}  # where a sweep compares methods
COMPARED = [
    "low",
    "high",
    "standard_error",
    "answered",
    "unanswered",
    "videos",
    "difference",
    "difference_low",
    "difference_high",
    "p",
    "pairs",
    "test",
]
ROUNDED = 1e-4  # lmms-eval rounds its figures
TEXT_WIDTH = 140  # characters of table.txt
LABEL_WIDTH = 48  # columns of a label in it


def compare(results: Results, reference: str | None) -> pd.DataFrame:
    """The cells with columns added: those of COMPARED and p_holm; `videos` is NaN where the record names none.

    A difference is the cell minus the reference variant on the same suite and seed, over the questions both answered;
    in a sweep of groups, minus the variant that is like the reference in the cell's own group. Where both are of one
    training that was made again between them, to other bits (`made_again`), there is none: it would be of two weights.
    A variant of several seeds has a row more on each benchmark, the mean over them (analysis/pooled.py).
    Holm's correction is over every test of the frame that is shown, so not over single seeds' ones; labels of equal
    settings are one cell, and one test. A failed or missing cell has NaN everywhere.
    """
    cells = _by_group(results.cells)
    cells["digest"] = cells["digest"].astype(object).where(cells["digest"].notna(), None)
    scores = by_cell(results.questions.drop_duplicates(["cell", "doc_id"], keep="last"))
    cells["reference"] = _references(cells, reference)
    cells["is_reference"] = cells["variant"] == cells["reference"]
    bases = {(row.suite, row.seed, row.reference): row for row in each(cells) if row.is_reference}
    beside = [bases.get((row.suite, row.seed, row.reference)) for row in each(cells)]
    cells["made_again"] = [_made_again(row, base) for row, base in zip(each(cells), beside, strict=True)]
    cells["base"] = pd.Series([base.id if base else None for base in beside], index=cells.index, dtype=object)
    cells.loc[cells["is_reference"] | cells["made_again"], "base"] = None
    rows = [_statistics(row, scores) for row in each(cells)]
    cells[COMPARED] = pd.DataFrame(rows, index=cells.index, columns=COMPARED)
    cells = with_pooled(cells, scores)
    again = cells["id"].duplicated() | cells["id"].isin(cells.loc[cells["is_reference"], "id"])
    counted = ~again & cells.index.isin(shown(cells).index)
    cells["p_holm"] = holm(cells["p"].astype(float).where(counted).to_numpy()) if len(cells) else []
    cells["p_holm"] = cells.groupby("id")["p_holm"].transform("first")
    return cells


def _by_group(cells: pd.DataFrame) -> pd.DataFrame:
    """A copy whose groups, where there are any, stand together, in the order in which they come first."""
    order = {group: place for place, group in enumerate(groups_of(cells))}
    return cells.sort_values("group", key=lambda groups: groups.map(order), kind="stable", ignore_index=True)


def _references(cells: pd.DataFrame, reference: str | None) -> pd.Series:
    """The variant that each cell is compared with: the reference, or what is like it in the cell's group."""
    alike = cells["name"].isin(cells.loc[cells["variant"] == reference, "name"]) & cells["group"].notna()
    of_groups = cells[alike].drop_duplicates("group").set_index("group")["variant"]
    return cells["group"].map(of_groups).astype(object).where(cells["group"].notna(), reference)


def _made_again(row: Any, base: Any) -> bool:
    """The cell and the one that it is compared with were asked of other weights, though of one training.

    A training whose weights are gone is made again for more questions, on a GPU not always to the same bits. What was
    asked before that records whose weights had no digest is of weights that are not known.
    """
    done = base is not None and row.status == base.status == "done"
    return done and row.training == base.training and row.digest != base.digest


def _statistics(row: Any, asked: Asked) -> dict[str, Any]:
    pair = pair_of(row, asked)
    return statistics(row, [asked[row.id]] if row.id in asked else [], [pair] if pair else [])


def to_csv(rows: pd.DataFrame) -> str:
    """Tidy, every digit, one row a cell and one a mean over seeds (column `unit`); tracebacks and notes stay in the
    records, sub-scores have their own table."""
    return rows.drop(columns=["traceback", *AGGREGATE, *OF_PAGES, "base", "seeds_accuracies"]).to_csv(
        index=False, lineterminator="\n"
    )


def costs_of(rows: pd.DataFrame) -> dict[str, tuple[str, float]]:
    """The columns of cost that a table of these rows has, with heading and factor."""
    known = set(rows["method"].dropna()) <= {"paper", "release", "dense"}
    return COSTS if known else COSTS | OF_METHODS


def score_text(row: Any, decimals: int = 0) -> str:
    """'91.0 [86–94] +1.5* (2 of 3 seeds)', 'failed', or '-' for a cell that has not run."""
    if row is None or row.status == "missing":
        return "-"
    if row.status == "failed":
        return "failed"
    text = f"{100 * row.accuracy:.1f}"
    if not np.isnan(row.low):
        text += f" [{100 * row.low:.{decimals}f}–{100 * row.high:.{decimals}f}]"
    if not np.isnan(row.difference):
        text += f" {100 * row.difference:+.1f}{'*' if row.p_holm < SIGNIFICANT else ''}"
    text += f" ({row.seeds} of {row.seeds_planned} seeds)" if row.seeds < row.seeds_planned else ""
    return text + (f" ({_errors(row)} err)" if _errors(row) else "")


def _errors(row: Any) -> int:
    """Questions that ended in an error; 0, too, where the record does not hold its questions."""
    return int(row.unanswered) if pd.notna(row.unanswered) else 0


def cost_text(values: pd.Series, factor: float = 1.0) -> str:
    """One number, or 'low–high' where the suites differ; '-' when none was measured."""
    numbers = pd.to_numeric(values, errors="coerce").dropna() * factor
    if not len(numbers):
        return "-"
    low, high = (f"{x:,.0f}" if x >= 99.5 else f"{x:.3g}" for x in (numbers.min(), numbers.max()))
    return low if low == high else f"{low}–{high}"


def rich_table(rows: pd.DataFrame, plan: Mapping[str, Any], problems: Sequence[str] = ()) -> RenderableType:
    """The table for a terminal; it folds to the terminal's width."""
    body = shown(rows)
    suites = list(dict.fromkeys(body["suite"]))
    chunks = [suites[i : i + SUITES_A_TABLE] for i in range(0, len(suites), SUITES_A_TABLE)]
    parts: list[RenderableType] = [Text(line_of(sweep_title(plan)), style="bold")]
    parts += [_rich_part(body, chunk, plan) for chunk in chunks]
    lines = [*notes(rows, plan), *problems, *_cut(body)]
    parts += [Text(line_of(note), style="dim") for note in lines]
    return Group(*parts)


def _rich_part(rows: pd.DataFrame, suites: Sequence[str], plan: Mapping[str, Any]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    names = _names(rows)
    table.add_column("variant", no_wrap=True, min_width=max(map(cell_len, names.values()), default=0))
    for suite in suites:
        table.add_column(
            Text(line_of(suite)), min_width=12, overflow="fold"
        )  # "91.0 [86–94]"; the difference folds below it on a narrow terminal
    for heading, _ in costs_of(rows).values():
        table.add_column(heading, justify="right", no_wrap=True)
    for label, group in rows.groupby("label", sort=False):
        here = {row.suite: row for row in each(group)}
        cells = [Text(score_text(here.get(suite)), style=_style(here.get(suite))) for suite in suites]
        asked = group[group["suite"].isin(suites)]
        costs = [cost_text(asked[column], factor) for column, (_, factor) in costs_of(rows).items()]
        name = Text(names[str(label)], style="bold" if group["is_reference"].any() else "")
        table.add_row(name, *cells, *costs)
    return table


def _names(rows: pd.DataFrame) -> dict[str, str]:
    """Label -> what stands for it where there is little room."""
    labels = list(dict.fromkeys(map(str, rows["label"])))
    return dict(zip(labels, told_apart(labels, LABEL_WIDTH), strict=True))


def _cut(rows: pd.DataFrame) -> list[str]:
    """A note where labels are not whole."""
    cut = any(line_of(label) != name for label, name in _names(rows).items())
    return ["labels are shortened here; table.csv has them whole"] if cut else []


def _style(row: Any) -> str:
    if row is None or row.status == "missing":
        return "dim"
    if row.status == "failed":
        return "red"
    if not np.isnan(row.difference) and row.p_holm < SIGNIFICANT:
        return "green" if row.difference > 0 else "yellow"
    return ""


def notes(rows: pd.DataFrame, plan: Mapping[str, Any]) -> list[str]:
    """What a reader must know to read the table, and every cell that is not whole."""
    body, cells = shown(rows), cells_of(rows)
    over = "questions and seeds" if (body["seeds_compared"].fillna(0) > 1).any() else "questions"
    lines = [_covered(body)]
    tests = int(body.drop_duplicates("id")["p_holm"].notna().sum())
    if tests:
        lines.append(
            f"then the difference to {_reference(rows, plan)} on the same {over}; "
            f"* p < {SIGNIFICANT} in a paired test, Holm-corrected over {tests} comparisons"
        )
    elif _reference(rows, plan) and not cells["made_again"].any():
        lines.append(
            f"no comparison: {_reference(rows, plan)} and another variant have no finished questions in common"
        )
    lines += (
        _by_video(body)
        + _other_questions(body)
        + _other_weights(cells)
        + _two_seeds(body)
        + _fewer_seeds(body)
        + _over_seeds(body)
        + _chance(rows)
    )
    lines.append(
        "attention: keys that a vision query reads by selection and window (by compression alone: block means), "
        "as a share of causal dense attention; - is not measured"
    )
    if "density" in costs_of(rows):
        lines.append(
            "pairs: of query and key that were computed, over all causal pairs of the prompt, mean over layers and "
            "heads; the attention of methods other than NSA is the same share"
        )
    lines += _packed(body) + _noted(cells)
    lines += [line for row in each(cells[cells["status"] == "done"]) if (line := _left_out(row))]
    lost = cells[cells["status"] == "failed"].fillna({"error_type": "error", "error": "no message"})
    for (label, kind, message), group in lost.groupby(["label", "error_type", "error"], sort=False):
        lines.append(f"{label} failed on {', '.join(group['suite'])}: {kind}: {_first_line(message)}")
    missing = int((cells["status"] == "missing").sum())
    return lines + ([f"{missing} of {len(cells)} cells have no record yet"] if missing else [])


def _covered(rows: pd.DataFrame) -> str:
    """What numbers are, and what their intervals cover."""
    done = rows[rows["status"] == "done"]
    several, one = done[done["seeds"] > 1], done[done["seeds"] <= 1]
    if not len(several):
        return "accuracy in % [95 % interval over questions; it does not cover another training seed]"
    seeds = "–".join(f"{count}" for count in sorted({several["seeds"].min(), several["seeds"].max()}))
    said = f"accuracy in %, mean over {seeds} training seeds [95 % interval over questions and seeds]"
    return f"{said}; of one seed, whose interval does not cover another: {_named(one, done)}" if len(one) else said


def _named(rows: pd.DataFrame, among: pd.DataFrame) -> str:
    """Labels of rows, with their benchmarks where `among` the rows a label has others, too."""
    whole = among["label"].value_counts()
    return ", ".join(
        str(label) if len(group) == whole[label] else f"{label} on {', '.join(group['suite'])}"
        for label, group in rows.groupby("label", sort=False)
    )


def _two_seeds(rows: pd.DataFrame) -> list[str]:
    """A warning: the least number that shows a spread at all (docs/analysis.md has the rates)."""
    two = (rows["seeds"] == 2) | (rows["seeds_compared"] == 2)
    said = "two seeds say little of others: where seeds differ much, intervals and tests over two are too sure"
    return [said] if two.any() else []


def _fewer_seeds(rows: pd.DataFrame) -> list[str]:
    """Whose difference is over fewer seeds than its accuracy, or the reference's: those that both have finished in."""
    theirs = {(row.suite, row.variant): row.seeds for row in each(rows) if row.is_reference}
    compared = rows["seeds_compared"].astype(float).fillna(rows["seeds"].where(rows["pairs"].astype(float) > 0))
    most = [max(row.seeds, theirs.get((row.suite, row.reference), 0)) for row in each(rows)]
    fewer = rows.assign(compared=compared, most=most)
    fewer = fewer[fewer["compared"] < fewer["most"]]
    return [
        f"{suite}: the difference is over {compared:.0f} of {most:.0f} seeds, those in which {reference} can be "
        f"compared with: {', '.join(group['label'])}"
        for (suite, reference, compared, most), group in fewer.groupby(
            ["suite", "reference", "compared", "most"], sort=False
        )
    ]


def _reference(rows: pd.DataFrame, plan: Mapping[str, Any]) -> str | None:
    """What cells are compared with, in words."""
    references = rows["reference"].dropna()
    if references.nunique() <= 1:
        return references.iloc[0] if len(references) else None
    name, axis = rows.loc[rows["is_reference"], "name"].iloc[0], str(plan.get("within")).rpartition(".")[2]
    return f"{name} at the same {axis} ({', '.join(map(str, rows['group'].unique()))})"


def _by_video(rows: pd.DataFrame) -> list[str]:
    """How intervals and tests were made, where not simply of independent questions that count the same."""
    done = rows[rows["status"] == "done"]
    about, parts, unknown = [], [], []
    for suite, group in done.groupby("suite", sort=False):
        videos, answered = group["videos"].astype(float).max(), group["answered"].astype(float).max()
        kinds = max((len(shares) for shares in group["shares"] if isinstance(shares, dict)), default=0)
        parts += [f"{suite} {kinds} kinds"] if kinds else []
        if np.isnan(videos):
            unknown.append(str(suite))
        elif videos < answered:
            about.append(f"{suite} {answered:,.0f} questions about {videos:,.0f} videos")
    lines = [f"intervals and tests by video: {', '.join(about)}"] if about else []
    lines += [f"mean over kinds of questions, each with its share: {', '.join(parts)}"] if parts else []
    blind = "not recorded which questions share a video, so each counts for itself and intervals may be too narrow"
    return lines + ([f"{blind}: {', '.join(unknown)}"] if unknown else [])


def _packed(rows: pd.DataFrame) -> list[str]:
    """Whose weights were of few bits, as their times and memory are of another kind than the others'."""
    packed = rows[rows["packed_bits"].notna()]
    return [
        f"{label}: weights of {int(group['packed_bits'].iloc[0])} bits, {cost_text(group['weights_mib'])} MiB in all, "
        "unpacked at each use: its times are not those of a fused kernel"
        for label, group in packed.groupby("label", sort=False)
    ]


def _noted(rows: pd.DataFrame) -> list[str]:
    """What records say of how their questions were asked and counted; once a suite where all its cells say the same."""
    lines: dict[str, None] = {}
    for suite, group in rows[rows["status"] == "done"].groupby("suite", sort=False):
        said = [notes if isinstance(notes, list) else [] for notes in group["notes"]]
        common = set(said[0]).intersection(*said)
        for label, notes in zip(group["label"], said, strict=True):
            lines |= {f"{suite}: {note}" if note in common else f"{label}, {suite}: {note}": None for note in notes}
    return list(lines)


def _left_out(row: Any) -> str:
    """What a finished cell left out, and lmms-eval's own figure where it is another and no note says so."""
    said = isinstance(row.notes, list) and any("lmms-eval" in note for note in row.notes)
    known = not said and isinstance(row.lmms_eval, int | float) and abs(row.lmms_eval - row.accuracy) > ROUNDED
    figure = f"lmms-eval's own figure is {100 * row.lmms_eval:.1f}" if known else ""
    errors = f"{_errors(row)} of {int(row.questions)} questions ended in an error, left out" if _errors(row) else ""
    parts = [errors, figure]
    return f"{row.label}, {row.suite}: {'; '.join(filter(None, parts))}" if any(parts) else ""


def _other_questions(rows: pd.DataFrame) -> list[str]:
    """Cells that could not be compared though both sides are finished: their prompts differ from the reference's."""
    ready = {(row.suite, row.reference) for row in each(rows[rows["is_reference"] & (rows["status"] == "done")])}
    asked = pd.Series([(row.suite, row.reference) in ready for row in each(rows)], index=rows.index, dtype=bool)
    alone = rows[(rows["status"] == "done") & ~rows["is_reference"] & (rows["pairs"] == 0) & asked]
    alone = alone[~alone["made_again"].astype(bool)]
    if not len(alone):
        return []
    return [f"not compared, as they were asked other questions than the reference: {len(alone)} cells"]


def _other_weights(cells: pd.DataFrame) -> list[str]:
    """Trainings that were made again, to other bits, between cells of this table."""
    done = cells[(cells["status"] == "done") & cells["training"].notna()]
    lines = []
    for training, own in done.groupby("training", sort=False):
        parts = {
            digest: _named(of, done) for digest, of in own.groupby(own["digest"].fillna("not recorded"), sort=False)
        }
        if len(parts) > 1:
            named = "; ".join(f"{digest}: {labels}" for digest, labels in parts.items())
            lines.append(f"training {training} was made again, and cells of other weights are not compared: {named}")
    return lines


def _over_seeds(rows: pd.DataFrame) -> list[str]:
    """How far apart the seeds of a variant are: of each benchmark the least and the most."""
    several = rows.dropna(subset=["seeds_deviation"])
    parts = []
    for suite, group in several.groupby("suite", sort=False):
        points = 100 * group["seeds_deviation"].astype(float)
        parts.append(f"{suite} {'–'.join(dict.fromkeys(f'{value:.1f}' for value in (points.min(), points.max())))}")
    return [f"standard deviation over training seeds, in points: {', '.join(parts)}"] if parts else []


def _chance(rows: pd.DataFrame) -> list[str]:
    chance = rows.dropna(subset=["chance"]).groupby("suite", sort=False)["chance"].first().astype(float)
    if not len(chance):
        return []
    if chance.nunique() == 1 and set(chance.index) == set(rows["suite"]):
        return [f"chance: {100 * chance.iloc[0]:.0f} % on every suite"]
    return ["chance: " + ", ".join(f"{suite} {100 * value:.0f} %" for suite, value in chance.items())]


def _first_line(text: Any) -> str:
    lines = str(text or "no message").splitlines()
    return lines[0][:160] if lines else "no message"


def to_text(rows: pd.DataFrame, plan: Mapping[str, Any], problems: Sequence[str] = ()) -> str:
    """The terminal's table as plain text."""
    stream = io.StringIO()
    about: dict[str, Any] = {"width": TEXT_WIDTH, "height": 100, "color_system": None, "force_terminal": False}
    about |= {"highlight": False, "legacy_windows": False, "_environ": {}}  # not what COLUMNS or TERM say
    Console(file=stream, **about).print(rich_table(rows, plan, problems))
    return "\n".join(line.rstrip() for line in stream.getvalue().split("\n")).rstrip("\n") + "\n"


def to_markdown(rows: pd.DataFrame, plan: Mapping[str, Any], problems: Sequence[str] = ()) -> str:
    """The same table for a README or a pull request; intervals with one decimal."""
    body = shown(rows)
    suites = list(dict.fromkeys(body["suite"]))
    headings = ["variant", *suites, *(heading for heading, _ in costs_of(body).values())]
    lines = [f"**{markdown(sweep_title(plan))}**", "", markdown_row(map(markdown, headings))]
    lines.append(markdown_row(["---"] * len(headings)))
    for label, group in body.groupby("label", sort=False):
        here = {row.suite: row for row in each(group)}
        cells = [score_text(here.get(suite), decimals=1) for suite in suites]
        costs = [cost_text(group[column], factor) for column, (_, factor) in costs_of(body).items()]
        name = markdown(label)
        lines.append(markdown_row([f"**{name}**" if group["is_reference"].any() else name, *cells, *costs]))
    return "\n".join([*lines, "", *(f"- {markdown(note)}" for note in [*notes(rows, plan), *problems])]) + "\n"


def markdown_row(cells: Iterable[str]) -> str:
    """One row of a Markdown table, of what is Markdown already."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
