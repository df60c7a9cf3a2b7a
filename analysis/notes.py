"""What stands below a table: what a reader must know to read it, and every cell that is not whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.cell_text import cost_text, costs_of, errors
from analysis.pooled import cells_of, shown
from analysis.rows import each
from analysis.stats import SIGNIFICANT

ROUNDED = 1e-4  # lmms-eval rounds its figures


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
    lost = f"{errors(row)} of {int(row.questions)} questions ended in an error, left out" if errors(row) else ""
    parts = [lost, figure]
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
