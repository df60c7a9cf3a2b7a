"""A sweep of groups (a grid's `within`): cells are compared in their own group, and figures tell groups apart."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis.answer import answer_lines
from analysis.compared import compare
from analysis.figures import accuracy, lengths, style
from analysis.foreign import NotForeign, read_foreign
from analysis.joined import join
from analysis.load import Results
from analysis.notes import notes
from analysis.page.index import _reference
from analysis.tables import to_csv
from tests.analysis import synthetic
from tests.analysis.test_joined import line, write

GROUPS = {"8K": 256, "32K": 1024}  # frames
NAMES = ("p", "q", "r", "s")


@pytest.fixture(scope="module")
def grouped(results: Results) -> Results:
    """Eight of the budgets as four variants in two groups, dealt in turn: the reference is p at 8K."""
    variants = sorted(dict.fromkeys(results.cells["variant"]), key=lambda name: name != synthetic.REFERENCE)
    place = {name: (NAMES[number // 2], list(GROUPS)[number % 2]) for number, name in enumerate(variants[:8])}
    cells = results.cells[results.cells["variant"].isin(place)]
    groups = [place[name][1] for name in cells["variant"]]
    names = [place[name][0] for name in cells["variant"]]
    frames = [GROUPS[group] for group in groups]
    return replace(results, cells=cells.assign(group=groups, name=names, frames=frames, tokens_per_frame=64))


@pytest.fixture(scope="module")
def rows(grouped: Results) -> pd.DataFrame:
    return compare(grouped, synthetic.REFERENCE)


def test_cells_are_compared_with_what_is_like_the_reference_in_their_group(
    rows: pd.DataFrame, results: Results
) -> None:
    assert (rows["group"] != rows["group"].shift()).sum() == len(GROUPS)  # one after the other
    for group, here in rows.groupby("group"):
        (reference,) = here.loc[here["is_reference"], "variant"].unique()
        assert (here["reference"] == reference).all()
        assert here.loc[here["is_reference"], "name"].eq("p").all()
        assert (reference == synthetic.REFERENCE) == (group == "8K")
        cells = results.cells[results.cells["variant"].isin(here["variant"])]
        alone = compare(replace(results, cells=cells), reference)
        known = alone.set_index("id")["difference"].reindex(here["id"]).to_numpy(float)
        assert here["difference"].to_numpy(float) == pytest.approx(known, nan_ok=True)
    tested = rows["p"].notna()
    assert rows.loc[tested, "p_holm"].min() == pytest.approx(min(1, tested.sum() * rows["p"].min()))


def test_words_name_the_axis_and_the_group(rows: pd.DataFrame) -> None:
    told = notes(rows, {"within": "context"})
    assert any("the difference to p at the same context (32K, 8K)" in line for line in told)
    said = answer_lines(rows)
    assert any(line.startswith("synth_order, 8K: ") for line in said)
    assert any(line.startswith("synth_order, 32K: ") for line in said)


def test_accuracy_has_a_row_a_variant_and_a_shape_a_group(rows: pd.DataFrame) -> None:
    with style.style():
        figure = accuracy.draw(rows)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(NAMES)
    shapes = {line.get_marker() for line in axes.lines} - {"None", None, ""}
    assert shapes == {"o", "s"}
    texts = {text.get_text() for legend in figure.legends for text in legend.get_texts()}
    assert {"p", "8K", "32K"} <= texts


def test_lengths_has_a_line_a_variant(rows: pd.DataFrame) -> None:
    with style.style():
        figure = lengths.draw(rows)
    axes = figure.axes[0]
    lines = [line for line in axes.lines if line.get_marker() not in ("None", None, "")]
    assert [len(line.get_xdata()) for line in lines] == [2, 2, 2, 1]  # a cell of s is missing
    assert [label.get_text() for label in axes.get_xticklabels()] == ["8K", "32K"]


def test_only_cells_whose_own_reference_is_there_were_asked_other_questions(grouped: Results) -> None:
    cells = grouped.cells.copy()
    lost = (cells["name"] == "p") & (cells["group"] == "32K") & (cells["suite"] == "synth_order")
    cells.loc[lost, "status"] = "failed"
    rows = compare(replace(grouped, cells=cells), synthetic.REFERENCE)
    assert not any("other questions than the reference" in line for line in notes(rows, {"within": "context"}))


def test_a_joined_row_says_its_group(grouped: Results, tmp_path: Path) -> None:
    write(tmp_path, [line(number) for number in range(synthetic.QUESTIONS)])
    with pytest.raises(NotForeign, match=r"theirs' does not say where it was asked: .* end with one of 32K, 8K"):
        join(grouped, read_foreign(f"{tmp_path}=theirs"), synthetic.REFERENCE)
    rows = compare(join(grouped, read_foreign(f"{tmp_path}=theirs 32K"), synthetic.REFERENCE), synthetic.REFERENCE)
    (row,) = rows[rows["label"].str.contains("theirs")].itertuples()
    assert (row.group, row.name) == ("32K", "foreign: theirs")
    assert row.reference in set(rows.loc[rows["is_reference"] & (rows["group"] == "32K"), "variant"])
    with style.style():
        assert len(lengths.draw(rows).axes) == len(synthetic.SUITES)


def test_any_number_of_groups_and_a_reference_that_is_not_drawn(rows: pd.DataFrame) -> None:
    many = pd.concat([rows[rows["group"] == "8K"].assign(group=f"{number}K") for number in range(9)])
    branched = rows.assign(
        branches=rows["name"].map(dict(zip(NAMES, ("cmp", "slc", "swa", "cmp+slc"), strict=True))),
        attention=rows["name"].map(lambda name: "dense" if name == "p" else "nsa"),
    )
    with style.style():
        accuracy.draw(many)
        accuracy.draw_branches(branched)
    with pytest.raises(ValueError, match="several variants of one subset"):
        accuracy.draw_branches(branched.assign(branches=branched["branches"].replace("swa", "slc")))


def test_the_index_says_the_reference_of_each_group(rows: pd.DataFrame) -> None:
    lines = list(csv.DictReader(io.StringIO(to_csv(rows))))
    said = _reference(lines)
    reference = {row.group: row.variant for row in rows[rows["is_reference"]].itertuples()}
    assert said.count(": ") == 2
    assert all(f"{variant}: synth_needle" in said for variant in reference.values())


@pytest.mark.parametrize("change", [{"group": None}, {"frames": 256}])
def test_lengths_wants_groups_of_several_lengths(rows: pd.DataFrame, change: dict) -> None:
    with pytest.raises(ValueError, match="no groups of two or more context lengths"):
        lengths.draw(rows.assign(**change))
