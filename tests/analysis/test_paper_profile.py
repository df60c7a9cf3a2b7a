"""A whole sweep of each of the paper's grids, its records made up: every table has its reference and its tests, and the
paper's tables stand beside it, each number once, and nothing beside anything else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from ablations.grid import grid_names
from ablations.plan import Sweep
from analysis.compared import compare
from analysis.items import catalog
from analysis.items.found import Found, find
from analysis.items.make import places
from analysis.items.places import ALONE, DONE, commands, status
from analysis.items.printed import BROWSERS
from analysis.load import find_reference, load, read_plan
from analysis.paper import compared, load_reference
from analysis.run import main
from tests.analysis.paper_records import finished

ROOT = Path(__file__).parents[2]
# The paper's tables that a grid repeats: all of their numbers that are no failed runs, and of our methods.
CELLS = ("scores", "settings", "cells")
TABLES = {"branches": [2], "transfer": [3], "tokens": [20, 21, 22, 23, 25], "tomato": [24], "gates": [34]}


def table_of(sweep: Sweep) -> pd.DataFrame:
    plan = read_plan(sweep.folder)
    results = load(sweep.out, plan)
    return compare(results, find_reference(plan, results.cells))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def tables(out: Path) -> dict[str, pd.DataFrame]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ablations.facts.part_version", lambda part: "code")
        return {name: table_of(finished(name, out)) for name in grid_names("paper")}


@pytest.mark.parametrize("grid", grid_names("paper"))
def test_every_table_has_a_reference_and_a_paired_test_of_every_other_row(grid: str, tables: dict) -> None:
    rows = tables[grid]
    assert rows["is_reference"].sum() == rows["suite"].nunique()
    assert rows.loc[~rows["is_reference"], "p"].notna().all()


@pytest.mark.parametrize("grid", TABLES)
def test_each_number_of_the_grids_own_tables_stands_beside_it_once(grid: str, tables: dict) -> None:
    paper = load_reference()
    paper = paper[paper["table"].isin(TABLES[grid]) & paper["value"].notna()]
    pairs, _ = compared(tables[grid])
    pairs = pairs[pairs["table"].isin(TABLES[grid])]
    assert sorted(zip(pairs["table"], pairs["published"], strict=True)) == sorted(
        zip(paper["table"], paper["value"], strict=True)
    )


@pytest.mark.parametrize("grid", ["blocks", "semantics", "semantics_trained", "smoke"])
def test_grids_of_part_of_the_questions_stand_beside_no_number(grid: str, tables: dict) -> None:
    pairs, reasons = compared(tables[grid])
    assert (len(pairs), len(reasons)) == (0, len(tables[grid]))
    assert reasons["reason"].str.contains("the first").all()


def test_contexts_are_the_papers_and_beyond_them_it_has_nothing(tables: dict) -> None:
    pairs, _ = compared(tables["context"])
    here = pairs[(pairs["suite"] == "timescope") & pairs["table"].isin([26, 27])]
    assert list(zip(here["label"], here["published"], strict=True)) == [
        *(("dense 32K", 80.33), ("dense 64K", 81.13), ("dense 128K", 81.0)),
        *(("videonsa 32K", 78.5), ("videonsa 64K", 81.7), ("videonsa 128K", 83.7)),
    ]
    beyond, reasons = compared(tables["context_beyond"])
    assert not beyond["label"].str.contains("beyond").any()
    assert {"dense 256K beyond the paper", "videonsa 256K beyond the paper"} <= set(reasons["label"])


def test_budgets_stand_beside_their_own_sizes(tables: dict) -> None:
    pairs, _ = compared(tables["budget"])
    own = pairs[pairs["table"].isin([28, 29, 30, 32, 33])]
    paper = load_reference().dropna(subset=["block_count", "window"])
    labels = "b=" + paper["block_count"].astype(int).astype(str) + " w=" + paper["window"].astype(int).astype(str)
    known = set(zip(paper["table"], labels, paper["value"], strict=True))
    found = set(zip(own["table"], own["label"], own["published"], strict=True))
    assert len(found) == 7 + 6 + 6 + 9 + 6  # of each table those whose sizes the grid has, and that did not fail
    assert found <= known


@pytest.fixture(scope="module")
def found(out: Path, tables: dict) -> Found:
    """All of the paper's grids together, in one out folder."""
    return find(out, ROOT / "benchmarks")


@pytest.mark.parametrize("name", [name for name, item in catalog().items.items() if item.kind in CELLS])
def test_the_grids_that_an_item_names_fill_all_of_it(name: str, found: Found) -> None:
    item = catalog().items[name]
    several = places(item, found)
    if item.set:  # its grid, but on other benchmarks
        assert commands(several) == [
            f"python ablations/run.py --grid budget --profile paper --set {item.set} --out OUT"
        ]
        return
    assert [(place.row, place.column) for place in several if place.state not in (DONE, ALONE)] == []
    assert status(item, several).startswith("complete: ")


def test_the_command_of_a_missing_probe_looks_at_the_variant_that_it_lacks(tmp_path: Path) -> None:
    item, nothing = catalog().items["fig27"], find(tmp_path, ROOT / "benchmarks")
    (command,) = [of.command for of in places(item, nothing) if of.row == "block_size=128, window=512"]
    label = "s=128 w=512"
    assert f" --grid blocks --profile paper --set 'probe.label={label}' " in command
    finished("blocks", tmp_path, **{"probe.label": label})
    filled = places(item, find(tmp_path, ROOT / "benchmarks"))
    assert [of.row for of in filled if of.state == DONE] == ["block_size=128, window=512"]
    assert status(item, filled) == "partly: 1 of 15 probes"


def test_items_are_made_of_all_records_beside_the_published_numbers(
    out: Path, tables: dict, capsys: pytest.CaptureFixture
) -> None:
    names = ["table1", "table8", "table29", "fig5", "fig8", "fig12"]
    assert main([*names, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "Table 1: main comparison" in shown
    assert "| tri_shape | ours, n_local=2176 | " in shown, "of its settings those that have VideoNSA's budget"
    assert "| llava_onevision_7b | published | 56.3 |" in shown
    assert "†1 4 blocks with a window of 1,900 here" in shown
    table = pd.read_csv(out / "paper" / "table8.csv").set_index(["row", "column"])
    assert "| VideoNSA | ours | timescope, 2 videos, 64 tokens a frame, " in shown, (
        "one probe, of several that would do"
    )
    place = table.loc[("videonsa", "needle")]
    assert (place["state"], place["published"], place["from"]) == (
        "done",
        69.3,
        table.loc[("videonsa", "overall"), "from"],
    )
    assert place["low"] < place["ours"] < place["high"]
    assert all((out / "paper" / f"fig{n}.pdf").read_bytes().startswith(b"%PDF") for n in (5, 8, 12))


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_every_item_and_the_appendix_of_them(out: Path, tables: dict, capsys: pytest.CaptureFixture) -> None:
    items = catalog().items
    assert main([*items, "appendix", "--out", str(out)]) == 1, "some cannot be made"
    shown = capsys.readouterr().out
    made = [name for name, item in items.items() if item.kind in (*CELLS, "probes", "measured")]
    assert all(f"**{item.title}" in shown for item in items.values())
    assert {path.stem for path in (out / "paper").glob("*.md")} == set(made)
    drawn = [name for name, item in items.items() if item.draws]
    printed = {"appendix"} if any(map(shutil.which, BROWSERS)) else set()
    assert {path.stem for path in (out / "paper").glob("*.pdf")} == set(drawn) | printed
    text = (out / "paper" / "appendix.html").read_text()
    places = [text.index(f"<section id='{name}'>") for name in items]
    assert places == sorted(places)
    assert text.count("data:image/svg+xml") == len(drawn)
    assert "<script" not in text
