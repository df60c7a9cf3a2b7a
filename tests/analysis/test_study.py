"""The recorded study (benchmarks/study): its records are whole, and docs/study.md shows what they say."""

from __future__ import annotations

import itertools
import json
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.compared import compare
from analysis.load import Results, find_reference, load, read_plan
from analysis.pooled import shown
from analysis.stats import SIGNIFICANT
from analysis.tables import to_markdown
from videonsa.git import ROOT

STUDY = ROOT / "benchmarks" / "study"
ARCHIVES, BEFORE = (sorted(folder.glob("*.tar.xz")) for folder in (STUDY, STUDY / "before"))
PAGE, README = (ROOT.joinpath(*place).read_text(encoding="utf-8") for place in (("docs", "study.md"), ("README.md",)))
SHOWN = dict(re.findall(r"<!-- (study-\S+) -->\n((?:\|.*\n)+)", PAGE))


def unpacked(archives: list[Path], folder: Path) -> Path:
    for archive in archives:
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(ARCHIVES, tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What was asked of weights of seed 0 that were made again since."""
    return unpacked([STUDY / "plans.tar.xz", *BEFORE], tmp_path_factory.mktemp("before"))


def read(out: Path, sweep: str) -> tuple[dict, Results]:
    plan = read_plan(out / "sweeps" / sweep)
    return plan, load(out, plan)


def compared(plan: dict, results: Results) -> pd.DataFrame:
    return compare(results, find_reference(plan, results.cells))


def test_the_records_are_small_and_say_no_path(out: Path, before: Path):
    assert sum(archive.stat().st_size for archive in ARCHIVES + BEFORE) < 10e6
    for record in [path for folder in (out, before) for path in folder.rglob("*.json")]:
        assert not re.search(r'"(/|~|[A-Z]:\\)\S', record.read_text(encoding="utf-8")), record


@pytest.mark.parametrize("sweep", SHOWN)
def test_the_page_shows_what_the_records_say(out: Path, sweep: str):
    plan, results = read(out, sweep)
    rows = compared(plan, results)
    assert (rows["status"] == "done").all()
    made = [line for line in to_markdown(rows, plan).splitlines() if line.startswith("|")]
    assert SHOWN[sweep].splitlines() == made


def test_answers_through_mp4_are_those_without(out: Path):
    _, results = read(out, "study-mp4")
    for _, own in results.questions.groupby("label"):
        drawn, files = (of.set_index("doc_id") for _, of in own.groupby("suite"))
        assert len(drawn) == 48
        assert files.index.equals(drawn.index)
        same = ["prompt_hash", "answer", "prediction"]
        assert files[same].equals(drawn[same])


def test_every_cell_is_compared_with_one_of_its_own_weights_and_nothing_is_wrong(out: Path):
    for sweep in SHOWN:
        plan, results = read(out, sweep)
        assert results.cells["digest"].notna().all(), sweep
        assert not compared(plan, results)["made_again"].any(), sweep
        assert results.problems == ()


def losers(rows: pd.DataFrame, suite: str) -> set[str]:
    return set(rows.loc[(rows["p_holm"] < SIGNIFICANT) & (rows["suite"] == f"synth_long_{suite}"), "label"])


def test_the_methods_that_the_page_says_lose_something_do(out: Path, before: Path):
    rows = compared(*read(out, "study-baselines"))
    controls = {"uniform tokens 25 %", "fewer pixels 25 %", "fewer frames 25 %"}
    assert losers(rows, "order") == {"xattention", "xattention 0.5", "text alone", *controls}
    assert losers(rows, "needle") | losers(rows, "count") == {"text alone", *controls}
    assert losers(rows, "layout") == {"text alone"}
    earlier = compare(read(before, "study-baselines")[1], "minference")
    assert losers(earlier, "order") == {"tri_shape 2304", "xattention 0.5", "text alone", *controls}


def test_weights_that_rounding_sets_apart_differ_as_seeds_do(out: Path, before: Path):
    """Dense attention's seed 0 as it was made first, and as it is: the answers that the page counts."""
    (_, results), (_, old) = read(out, "study-context"), read(before, "study-context")
    dense = [results.cells[results.cells["label"].str.fullmatch(f"dense .* seed {seed}")] for seed in range(3)]
    right = [scores(results, cells) for cells in dense]
    first = scores(old, old.cells.dropna(subset="accuracy"))
    apart = [(one != other).sum() for one, other in [(first, right[0]), *itertools.combinations(right, 2)]]
    found = re.search(
        r"Of the (\d+) answers .* third of these models (\d+)\s.* seeds (\d+), (\d+) and (\d+)\.", PAGE, re.S
    )
    assert found
    assert [*map(int, found.groups())] == [len(first), *apart]


def scores(results: Results, cells: pd.DataFrame) -> np.ndarray:
    """Of all questions of these cells, in an order that is the same for all seeds."""
    asked = results.questions.merge(
        cells[["id", "variant", "suite"]], left_on=["cell", "suite"], right_on=["id", "suite"]
    )
    return asked.sort_values(["variant", "suite", "doc_id"])["score"].to_numpy()


def test_dense_attention_was_trained_twice_to_the_same_bits(out: Path, before: Path):
    made = [folder / "trainings" / "8eb23a140ed7" for folder in (out, before / "twice")]
    one, other = (json.loads((folder / "record.json").read_text(encoding="utf-8")) for folder in made)
    assert one["summary"]["seconds"] != other["summary"]["seconds"], "two trainings"
    assert one["summary"]["weights"] == other["summary"]["weights"]
    assert losses(made[0]) == losses(made[1]) != losses(before / "trainings" / "8eb23a140ed7")


def losses(training: Path) -> list[float]:
    lines = (training / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


def test_answers_asked_again_of_the_same_weights_are_the_same(out: Path, before: Path):
    said = ["doc_id", "prompt_hash", "answer", "prediction", "score"]
    asked = 0
    for sweep in ("study-context_beyond", "study-no_gates"):
        (_, results), (_, old) = read(out, sweep), read(before, sweep)
        digests = results.cells.set_index("id")["digest"]
        for cell, digest in old.cells.dropna(subset="accuracy").set_index("id")["digest"].items():
            if digest == digests[cell]:
                earlier, now = (of.questions[of.questions["cell"] == cell][said] for of in (old, results))
                assert earlier.reset_index(drop=True).equals(now.reset_index(drop=True))
                asked += len(now)
    assert f"the same as before, all {asked};" in PAGE


@pytest.mark.long
def test_what_one_seed_says_and_three_do_not(out: Path):
    first, others, together = [], [], 0
    for plan, results in (read(out, sweep) for sweep in SHOWN):
        if results.cells["seed"].nunique() < 3:
            continue
        cells = [results.cells[results.cells["seed"] == seed].reset_index(drop=True) for seed in range(3)]
        seeds = [shown(compared(plan, replace(results, cells=own))).reset_index() for own in cells]
        told = seeds[0]["p_holm"] < SIGNIFICANT
        first += [seeds[0][told]]
        others += [[one[told] for one in seeds[1:]]]
        together += int((shown(compared(plan, results))["p_holm"] < SIGNIFICANT).sum())
    tables = [pd.concat(of) for of in (first, *zip(*others, strict=True))]
    once = ~tables[0]["id"].duplicated().to_numpy()  # one stands in two of them
    signs = np.array([np.sign(table["difference"].to_numpy())[once] for table in tables])
    sure = np.array([(table["p_holm"] < SIGNIFICANT).to_numpy()[once] for table in tables])
    same = signs[1:] == signs[0]
    again = same & sure[1:]
    page, readme = (text.replace("\n", " ").replace("  ", " ") for text in (PAGE, README))
    own_seed = r"alone (\d+) differences .*?each; (\d+) of them have .*?seeds, (\d+) are sure .*?too, (\d+) in "
    found = re.search(own_seed + r".*?together (\d+) are", page)
    assert found
    counts = (len(signs[0]), same.all(axis=0).sum(), again.any(axis=0).sum(), again.all(axis=0).sum(), together)
    assert tuple(map(int, found.groups())) == counts
    sentence = (
        f"Of {counts[0]} differences that are sure over the questions of one seed, {counts[1]} have the same sign"
    )
    assert f"{sentence} in both others, and {together} are sure over the seeds" in readme
