"""The recorded study (benchmarks/study): its records are whole, and docs/study.md shows what they say."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

import pytest

from analysis.load import find_reference, load, read_plan
from analysis.tables import compare, to_markdown
from videonsa.git import ROOT

ARCHIVES = sorted((ROOT / "benchmarks" / "study").glob("*.tar.xz"))
PAGE = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"<!-- (study-\S+) -->\n((?:\|.*\n)+)", PAGE)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    for archive in ARCHIVES:
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")
    return folder


def test_the_records_are_small_and_say_no_path(out: Path):
    assert sum(archive.stat().st_size for archive in ARCHIVES) < 10e6
    for record in [*out.glob("*/*/record.json"), *out.glob("sweeps/*/plan.json")]:
        assert not re.search(r'"(/|~|[A-Z]:\\)\S', record.read_text(encoding="utf-8")), record


@pytest.mark.parametrize("sweep", [name for name, _ in SHOWN])
def test_the_page_shows_what_the_records_say(out: Path, sweep: str):
    plan = read_plan(out / "sweeps" / sweep)
    results = load(out, plan)
    rows = compare(results, find_reference(plan, results.cells))
    assert (rows["status"] == "done").all()
    made = [line for line in to_markdown(rows, plan).splitlines() if line.startswith("|")]
    assert dict(SHOWN)[sweep].splitlines() == made
