"""A whole sweep of each of the paper's grids, its records made up: every table has its reference and its tests, and the
paper's tables stand beside it, each number once, and nothing beside anything else."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from ablations.cell import Cell
from ablations.grid import grid_names, load_grid
from ablations.plan import Sweep, cell_folder, make_sweep, write_plan
from ablations.profile import load_profile
from ablations.records import record_of
from analysis.load import find_reference, load, read_plan
from analysis.paper import compared, load_reference
from analysis.tables import compare

QUESTIONS = 12
# The paper's tables that a grid repeats: all of their numbers that are no failed runs, and of our methods.
TABLES = {"branches": [2], "transfer": [3], "tokens": [20, 21, 22, 23, 25], "tomato": [24], "gates": [34]}


def made_up(cell: Cell) -> dict:
    """A finished record of this cell."""
    right = [float((number * 7 + int(cell.id[:6], 16)) % 5 > 1) for number in range(QUESTIONS)]
    rows = [
        {"doc_id": number, "prompt_hash": f"p{number}", "score": score, "vision_tokens": 8, "error": None}
        for number, score in enumerate(right)
    ]
    scores = {"metric": "m", "accuracy": sum(right) / QUESTIONS, "questions": QUESTIONS, "errors": 0, "chance": None}
    return record_of(cell) | {"status": "done", "scores": scores, "questions": rows}


def finished(name: str, out: Path) -> Sweep:
    sweep = make_sweep(load_grid(name, "paper"), load_profile("paper"), out, name, {})
    write_plan(sweep)
    for cell in sweep.cells:
        path = cell_folder(out, cell.id) / "record.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(made_up(cell)))
    return sweep


def table_of(sweep: Sweep) -> pd.DataFrame:
    plan = read_plan(sweep.folder)
    results = load(sweep.out, plan)
    return compare(results, find_reference(plan, results.cells))


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    out = tmp_path_factory.mktemp("runs")
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
