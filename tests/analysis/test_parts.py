"""Sub-scores: each with the interval of the questions that enter it, none where the record does not say which."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from analysis.load import load, read_plan
from analysis.parts import parts_of, to_markdown, write_parts
from analysis.run import main
from analysis.stats import estimate
from tests.analysis import synthetic


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Three kinds; `direction` is the mean of two of them, and so is the whole, with the third. No `lost` says why."""
    sweep = synthetic.branch_sweep(tmp_path)
    for path in tmp_path.glob("cells/*/record.json"):
        record = json.loads(path.read_text())
        rows = record["questions"]
        for row in rows:
            kind = ("easy", "hard", "route", "route")[row["doc_id"] % 4]
            row |= {"kind": kind, "parts": ["direction"] if kind != "route" else [], "video": f"v{row['doc_id'] // 8}"}
        mean = {k: sum(r["score"] for r in rows if r["kind"] == k) / sum(r["kind"] == k for r in rows) for k in KINDS}
        parts = {"direction": (mean["easy"] + mean["hard"]) / 2, "route": mean["route"], "lost": 0.5}
        record["scores"] |= {
            "shares": KINDS,
            "accuracy": sum(share * mean[kind] for kind, share in KINDS.items()),
            "parts": {name: {"score": score, "questions": 100} for name, score in parts.items()},
        }
        path.write_text(json.dumps(record))
    return sweep


KINDS = {"easy": 0.25, "hard": 0.25, "route": 0.5}


def test_every_sub_score_has_the_interval_of_its_questions(tmp_path: Path, sweep: Path) -> None:
    plan = read_plan(sweep)
    results = load(tmp_path, plan)
    assert results.problems == ()
    parts = parts_of(results)
    assert len(parts) == 3 * 21
    cell = plan["cells"][0]["id"]
    mine = parts[parts["id"] == cell].set_index("part")
    asked = results.questions[(results.questions["cell"] == cell)]
    route = asked[asked["kind"] == "route"]
    known = estimate(route["score"].to_numpy(), route["video"].to_numpy())
    assert tuple(mine.loc["route", ["score", "low", "high", "videos"]]) == (known.mean, known.low, known.high, 25)
    assert mine.loc["direction", "low"] < mine.loc["direction", "score"] < mine.loc["direction", "high"]
    assert mine.loc["lost", "score"] == 0.5
    assert pd.isna(mine.loc["lost", "low"])


def test_they_are_written_on_demand(tmp_path: Path, sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parts", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "| route | 100 | " in said
    assert str(sweep / "parts.md") in said
    lines = [line for line in (sweep / "parts.md").read_text().splitlines() if line.startswith("| ")]
    assert {line.count(" | ") for line in lines} == {8}
    assert len(pd.read_csv(sweep / "parts.csv")) == 63


def test_records_without_sub_scores_have_no_such_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = synthetic.branch_sweep(tmp_path)
    plan = read_plan(sweep)
    results = load(tmp_path, plan)
    assert write_parts(plan, results, sweep) == []
    assert to_markdown(parts_of(results), plan)
    assert main(["parts", "--out", str(tmp_path)]) == 1
    assert "no record of tiny-branches has sub-scores" in capsys.readouterr().err
