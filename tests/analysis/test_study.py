"""The recorded study (benchmarks/study): its records are whole, and docs/study.md shows what they say."""

from __future__ import annotations

import re
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.load import Results, find_reference, load, read_plan
from analysis.pooled import shown
from analysis.stats import SIGNIFICANT
from analysis.tables import compare, to_markdown
from videonsa.git import ROOT

ARCHIVES = sorted((ROOT / "benchmarks" / "study").glob("*.tar.xz"))
PAGE, README = (ROOT.joinpath(*place).read_text(encoding="utf-8") for place in (("docs", "study.md"), ("README.md",)))
SHOWN = dict(re.findall(r"<!-- (study-\S+) -->\n((?:\|.*\n)+)", PAGE))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    for archive in ARCHIVES:
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")
    return folder


def read(out: Path, sweep: str) -> tuple[dict, Results]:
    plan = read_plan(out / "sweeps" / sweep)
    return plan, load(out, plan)


def compared(plan: dict, results: Results) -> pd.DataFrame:
    return compare(results, find_reference(plan, results.cells))


def test_the_records_are_small_and_say_no_path(out: Path):
    assert sum(archive.stat().st_size for archive in ARCHIVES) < 10e6
    for record in [*out.glob("*/*/record.json"), *out.glob("sweeps/*/plan.json")]:
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


def test_methods_are_compared_where_they_were_asked_of_the_same_weights(out: Path):
    plan, results = read(out, "study-baselines")
    rows = compared(plan, results)
    others = ~rows["label"].isin(["dense", "videonsa"])
    assert rows["made_again"].eq(others).all()
    assert rows.loc[others, "difference"].isna().all()
    nearly_dense = compare(results, "minference").query("label not in ['dense', 'videonsa']")
    assert not nearly_dense["made_again"].any()
    apart = nearly_dense.groupby("label")["p"].min()
    alike = ["flexprefill", "flexprefill 2304", "fastv", "fastv 25 %", "vscan", "vscan 25 %", "oracle 2304"]
    assert (apart[alike] > SIGNIFICANT).all()
    sure = nearly_dense[(nearly_dense["p_holm"] < SIGNIFICANT) & (nearly_dense["suite"] == "synth_long_order")]
    controls = ["uniform tokens 25 %", "fewer pixels 25 %", "fewer frames 25 %", "text alone"]
    assert sorted(sure["label"]) == sorted(["tri_shape 2304", "xattention 0.5", *controls])


@pytest.mark.long
def test_what_one_seed_says_and_three_do_not(out: Path):
    first, others, together = [], [], 0
    for plan, results in (read(out, sweep) for sweep in SHOWN):
        if results.cells["seed"].nunique() < 3:
            continue
        cells = [results.cells[results.cells["seed"] == seed].reset_index(drop=True) for seed in range(3)]
        seeds = [shown(compared(plan, replace(results, cells=own))).reset_index() for own in cells]
        sure = seeds[0]["p_holm"] < SIGNIFICANT
        first += [seeds[0][sure]]
        others += [[one[sure] for one in seeds[1:]]]
        together += int((shown(compared(plan, results))["p_holm"] < SIGNIFICANT).sum())
    own = np.sign(pd.concat(first)["difference"].to_numpy())
    rest = [pd.concat(of) for of in zip(*others, strict=True)]
    alike = np.all([np.sign(of["difference"].to_numpy()) == own for of in rest], axis=0).sum()
    again = np.array([(of["p_holm"] < SIGNIFICANT).to_numpy() for of in rest])
    page, readme = (text.replace("\n", " ").replace("  ", " ") for text in (PAGE, README))
    own_seed = r"alone (\d+) differences .*?each; (\d+) of them have .*?seeds, (\d+) are sure .*?too, (\d+) in "
    found = re.search(own_seed + r".*?together (\d+) are", page)
    assert found
    counts = (len(own), alike, again.any(axis=0).sum(), again.all(axis=0).sum(), together)
    assert tuple(map(int, found.groups())) == counts
    sentence = f"Of {len(own)} differences that are sure over the questions of one seed, {alike} have the same sign"
    assert f"{sentence} in both others, and {together} are sure over the seeds" in readme
