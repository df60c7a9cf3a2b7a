"""A sweep of several training seeds: a row a variant, over its seeds, wherever numbers are shown."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.answer import answer_lines
from analysis.compared import compare
from analysis.figures import accuracy, style
from analysis.load import Results, load, read_plan
from analysis.mirror.spec import make_report
from analysis.mirror.tables import cells_table, question_tables, run_id
from analysis.notes import notes
from analysis.page.media import Media
from analysis.page.sweep import write_report
from analysis.parts import parts_of
from analysis.pooled import cells_of, shown
from analysis.rows import each
from analysis.seeds import to_markdown as to_seeds
from analysis.stats import estimate, holm, paired
from analysis.summary import sweep_data
from analysis.tables import to_csv, to_markdown, to_text
from tests.analysis import synthetic

OTHER, LOST, GIVEN = "b=1 w=2", "b=2 w=8", "given"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.seed_sweep(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def plan(sweep: Path) -> dict:
    return read_plan(sweep)


@pytest.fixture(scope="module")
def results(sweep: Path, plan: dict) -> Results:
    return load(sweep.parent.parent, plan)


@pytest.fixture(scope="module")
def rows(results: Results) -> pd.DataFrame:
    return compare(results, synthetic.REFERENCE)


def at(rows: pd.DataFrame, label: str, suite: str) -> pd.Series:
    (place,) = np.flatnonzero((rows["label"] == label) & (rows["suite"] == suite))
    return rows.iloc[place]


def scores(results: Results, rows: pd.DataFrame, variant: str, suite: str, seeds: tuple[int, ...]) -> np.ndarray:
    """[seeds, questions]"""
    ids = [at(rows, f"{variant} seed {seed}", suite)["id"] for seed in seeds]
    asked = results.questions.pivot(index="doc_id", columns="cell", values="score")
    return asked[ids].to_numpy(dtype=float).T


def test_a_variant_is_one_row_over_its_seeds(rows: pd.DataFrame, results: Results) -> None:
    assert list(shown(rows)["label"].unique()) == [synthetic.REFERENCE, OTHER, LOST, GIVEN]
    row, of = at(rows, OTHER, "synth_order"), scores(results, rows, OTHER, "synth_order", (0, 1, 2))
    assert (row["unit"], row["seeds"], row["seeds_planned"]) == ("seeds", 3, 3)
    assert pd.isna(row["seed"])
    assert row["accuracy"] == pytest.approx(of.mean())
    assert row["seeds_deviation"] == pytest.approx(of.mean(axis=1).std(ddof=1))
    assert tuple(row[["low", "high"]]) == pytest.approx(estimate(of)[1:3])
    assert (row["prefill_ms"], row["answered"], row["block_count"]) == (21, 200, 5)
    single = [at(rows, f"{OTHER} seed {seed}", "synth_order") for seed in range(3)]
    assert row["high"] - row["low"] > max(one["high"] - one["low"] for one in single), "seeds differ by more than noise"


def test_its_difference_is_over_the_seeds_that_both_have(rows: pd.DataFrame, results: Results) -> None:
    for suite, seeds in (("synth_order", (0, 1, 2)), ("synth_layout", (0, 1))):
        own, base = (scores(results, rows, name, suite, seeds) for name in (OTHER, synthetic.REFERENCE))
        row, known = at(rows, OTHER, suite), paired(own, base)
        assert (row["difference"], row["p"], row["test"]) == (*map(pytest.approx, known[::3][:2]), "crossed")
        assert (row["seeds_compared"], row["seeds_agree"]) == (len(seeds), len(seeds))
    assert at(rows, LOST, "synth_order")["seeds_compared"] == 2
    assert pd.isna(at(rows, synthetic.REFERENCE, "synth_order")["difference"])
    assert at(rows, GIVEN, "synth_order")["test"] == "mcnemar"


def test_a_seed_that_was_made_again_is_left_out_of_the_difference(results: Results, plan: dict) -> None:
    cells = results.cells.assign(training="of seed " + results.cells["seed"].astype(str), digest="before")
    again = (cells["variant"] == OTHER) & (cells["seed"] == 0)
    cells.loc[again, "digest"] = "after"
    rows = compare(replace(results, cells=cells), synthetic.REFERENCE)
    mean = at(rows, OTHER, "synth_order")
    assert (mean["seeds"], mean["seeds_compared"], mean["made_again"]) == (3, 2, True)
    assert not at(rows, LOST, "synth_order")["made_again"]
    said = notes(rows, plan)
    fewer = (
        f"synth_order: the difference is over 2 of 3 seeds, those in which {synthetic.REFERENCE} can be compared with"
    )
    assert any(line.startswith(fewer) and OTHER in line for line in said)
    assert any(line.endswith(f"after: {OTHER} seed 0") for line in said if "made again" in line)
    assert not any("other questions" in line for line in said)


def test_holm_counts_what_is_shown(rows: pd.DataFrame, plan: dict) -> None:
    body = shown(rows)
    assert rows.loc[rows["unit"] == "seed", "p"].notna().sum() > 6
    assert rows.loc[rows["unit"] == "seed", "p_holm"].isna().all()
    assert body["p_holm"].notna().sum() == 6
    np.testing.assert_array_equal(body["p_holm"], holm(body["p"].astype(float)))
    assert "Holm-corrected over 6 comparisons" in "\n".join(notes(rows, plan))


def test_tables_show_means_and_say_which_seeds_are_there(rows: pd.DataFrame, plan: dict) -> None:
    text = to_text(rows, plan)
    assert "seed 1 failed on synth_order: OutOfMemoryError" in text
    assert "1 of 20 cells have no record yet" in text
    lines = [line for line in to_markdown(rows, plan).splitlines() if line.startswith("|")]
    assert [line.split(" | ")[0].strip("|* ") for line in lines[2:]] == list(shown(rows)["label"].unique())
    assert ["(2 of 3 seeds)" in line for line in lines[2:]] == [True, False, True, False]
    back = pd.read_csv(io.StringIO(to_csv(rows)))
    assert back["unit"].value_counts().to_dict() == {"seed": 18, "seeds": 6, "cell": 2}
    assert len(cells_of(rows)) == 20


def test_each_seed_stands_beside_its_difference(rows: pd.DataFrame, plan: dict) -> None:
    lines = [line.strip("| ").split(" | ") for line in to_seeds(rows, plan).splitlines() if line[:1] == "|"]
    assert lines[0] == ["variant", "synth_order", "synth_layout"]
    table = {line[0]: line[1:] for line in lines[2:]}
    assert list(table) == [f"**{synthetic.REFERENCE}**", OTHER, LOST]
    of = {
        (name, suite): [at(rows, f"{name} seed {seed}", suite) for seed in range(3)]
        for name in (synthetic.REFERENCE, OTHER, LOST)
        for suite in ("synth_order", "synth_layout")
    }
    assert table[f"**{synthetic.REFERENCE}**"][1] == " / ".join(
        [f"{100 * one['accuracy']:.1f}" for one in of[synthetic.REFERENCE, "synth_layout"][:2]] + ["-"]
    )
    numbers = [f"{100 * one['accuracy']:.1f}" for one in of[OTHER, "synth_layout"]]
    more = [f"{100 * one['difference']:+.1f}" for one in of[OTHER, "synth_layout"][:2]]
    assert table[OTHER][1] == f"{' / '.join(numbers)} ({' / '.join([*more, '-'])})"
    assert table[LOST][0].split(" / ")[1] == "-", "a seed that failed"


def test_what_intervals_cover_is_said_of_each(rows: pd.DataFrame, plan: dict) -> None:
    first, second, *more = notes(rows, plan)
    assert first == (
        "accuracy in %, mean over 2–3 training seeds [95 % interval over questions and seeds]; of one seed, whose "
        "interval does not cover another: given"
    )
    assert "on the same questions and seeds" in second
    fewer = "synth_layout: the difference is over 2 of 3 seeds, those in which b=5 w=4 can be compared with"
    assert f"{fewer}: b=1 w=2, b=2 w=8" in more
    assert any(line.startswith("standard deviation over training seeds, in points: synth_order") for line in more)
    lost = rows.assign(seeds=rows["seeds"].mask((rows["label"] == LOST) & (rows["suite"] == "synth_order"), 1))
    assert notes(lost, plan)[0].endswith("does not cover another: b=2 w=8 on synth_order, given")
    assert any("two seeds say little of others" in line for line in more)
    whole = rows[rows["variant"].isin([OTHER, synthetic.REFERENCE]) & (rows["suite"] == "synth_order")]
    assert not any("two seeds" in line for line in notes(whole, plan))
    assert notes(whole, plan)[0] == "accuracy in %, mean over 3 training seeds [95 % interval over questions and seeds]"
    assert "does not cover another training seed" in notes(rows[rows["variant"] == GIVEN], plan)[0]


def test_the_answer_speaks_of_means(rows: pd.DataFrame) -> None:
    order, _, how, lost, seeds = answer_lines(rows)
    assert "the highest accuracy of 4 variants" in order
    assert "over 6 comparisons" in how
    assert lost == "2 of 20 cells have no number."
    assert seeds == "Numbers are means over up to 3 training seeds; some are of one and say nothing of another."
    assert answer_lines(rows[rows["variant"] == OTHER])[-1] == "Numbers are means over 3 training seeds."


def test_of_seeds_that_all_failed_or_none_has_run_there_is_no_number(results: Results, plan: dict) -> None:
    cells = results.cells.copy()
    lost = cells["variant"] == OTHER
    cells.loc[lost, ["status", "accuracy"]] = "missing", None
    cells.loc[cells[lost].index[0], "status"] = "failed"
    questions = results.questions[~results.questions["cell"].isin(cells.loc[lost, "id"])]
    rows = compare(Results(cells, questions, results.gates, results.sinks, results.points, ()), synthetic.REFERENCE)
    states = [at(rows, OTHER, suite)["status"] for suite in ("synth_order", "synth_layout")]
    assert states == ["failed", "missing"]
    assert "| b=1 w=2 | failed | - |" in to_markdown(rows, plan)


def test_sub_scores_are_means_too(results: Results, rows: pd.DataFrame) -> None:
    number = results.questions["doc_id"].astype(int)
    questions = results.questions.assign(kind=np.where(number % 2, "odd", "even"))
    means = questions[questions["kind"] == "odd"].groupby("cell")["score"].mean()
    parts = [
        {"odd": {"score": means[cell], "questions": 100}} if cell in means else None for cell in results.cells["id"]
    ]
    found = parts_of(replace(results, cells=results.cells.assign(parts=parts), questions=questions))
    row = at(found, OTHER, "synth_order")
    of = scores(
        replace(results, questions=questions[questions["kind"] == "odd"]), rows, OTHER, "synth_order", (0, 1, 2)
    )
    assert (row["unit"], row["score"]) == ("seeds", pytest.approx(of.mean()))
    assert tuple(row[["low", "high"]]) == pytest.approx(estimate(of)[1:3])
    assert list(shown(found)["label"].unique()) == list(shown(rows)["label"].unique())


def test_figures_page_and_wandb_show_means_and_lead_to_seeds(
    rows: pd.DataFrame, results: Results, plan: dict, tmp_path: Path
) -> None:
    with style.style():
        figure = accuracy.draw(sweep_data(plan, results)["rows"])
    assert [len(axes.get_yticks()) for axes in figure.axes[:2]] == [4, 4]
    ticks = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_marker() == "|"]
    singles = [100 * at(rows, f"{OTHER} seed {seed}", "synth_order")["accuracy"] for seed in range(3)]
    assert ticks[3:6] == pytest.approx(singles)
    assert len(ticks) == 3 + 3 + 2, "of each seed that is done"
    assert "one training seed" in [text.get_text() for text in figure.legends[0].get_texts()]
    page = write_report(plan, results, rows, tmp_path).read_text()
    data = json.loads(page.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    assert [data["variants"][cell["v"]] for cell in data["cells"]] == list(shown(rows)["label"])
    (order, _), names = data["questions"], data["variants"]
    assert {names[int(variant)] for variant in order["given"]} >= {"b=1 w=2 seed 0", "b=1 w=2 seed 2", GIVEN}
    assert {names[place] for place in data["references"]} >= {synthetic.REFERENCE, f"{synthetic.REFERENCE} seed 0"}
    assert "each training seed" in page
    assert "so in 3 of 3 seeds" in page
    table = cells_table(rows)
    assert [row[table.columns.index("variant")] for row in table.data] == list(shown(rows)["label"])
    runs = {run_id(row) for row in each(cells_of(rows)) if row.status != "missing"}
    assert {row[table.columns.index("run")] for row in table.data} - {None} < runs
    assert {row[0] for row in question_tables(results, rows, Media(tmp_path))["synth_order"].data} >= {"b=1 w=2 seed 1"}
    assert set(make_report(plan, rows, [], [], [], [])["runs"]) == runs


def test_of_one_seed_nothing_is_pooled(out: Path) -> None:
    plan = read_plan(out / "sweeps" / "tiny-budget")
    assert set(compare(load(out, plan), synthetic.REFERENCE)["unit"]) == {"cell"}
