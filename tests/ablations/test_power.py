"""What a sweep can show is said before it runs: by simulation, by hand, and in the dry run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import special

from ablations.power import POWER, compared, detectable
from ablations.run import main
from ablations.sizes import SIZES
from evals.suites import SUITES


@pytest.mark.parametrize(("questions", "discordance"), [(192, 0.3), (502, 0.15), (1337, 0.15), (1337, 0.02), (40, 0.1)])
def test_the_difference_is_found_four_times_in_five(questions: int, discordance: float) -> None:
    difference = detectable(questions, discordance)
    assert difference is not None
    differ = max(discordance, difference)
    won, lost = (differ + difference) / 2, (differ - difference) / 2
    drawn = np.random.default_rng(0).multinomial(questions, [won, lost, max(0.0, 1 - won - lost)], size=4000)
    p = 2 * special.bdtr(drawn[:, :2].min(axis=1), drawn[:, :2].sum(axis=1), 0.5)
    assert np.mean(p < 0.05) == pytest.approx(POWER, abs=0.09), (
        "the exact test finds a little less than the formula says"
    )


def test_half_a_point_on_1300_questions_cannot_be_seen() -> None:
    assert detectable(1300, 0.15) == pytest.approx(0.03, abs=0.001)
    assert detectable(1300, 0.02) > 0.009
    assert detectable(5, 0.15) is None
    assert detectable(6, 0.15) == pytest.approx(1, abs=0.35)


def test_every_benchmark_has_a_size() -> None:
    assert set(SIZES) == {name for name, suite in SUITES.items() if suite.family is None}
    assert all(size.videos is None or size.videos <= size.questions for size in SIZES.values())


def record(scores: list[float], videos: list[str | None], kinds: str = "", shares: Any = None) -> dict[str, Any]:
    rows = [
        {"doc_id": i, "prompt_hash": f"p{i}", "score": score, "video": video, "kind": kind}
        for i, (score, video, kind) in enumerate(zip(scores, videos, kinds or "k" * len(scores), strict=True))
    ]
    return {"status": "done", "questions": rows, "scores": {"shares": shares}}


def test_two_records_say_how_much_variants_differ() -> None:
    first = record([1, 1, 0, 0, 1, 1, 0, 0], list("aabbccdd"))
    second = record([0, 0, 1, 1, 1, 1, 0, 0], list("aabbccdd"))
    known = compared(first, second)
    assert (known.questions, known.videos, known.discordance) == (8, 4, 0.5)
    assert known.effect == pytest.approx(2), "pairs of questions that change together"
    alone = compared(record([1, 1, 0, 0], [None] * 4), record([0, 1, 1, 0], [None] * 4))
    assert (alone.videos, alone.discordance, alone.effect) == (None, 0.5, 1.0)
    assert compared(first, first) is None


def test_unequal_shares_cost_what_they_cost() -> None:
    shares = {"x": 0.5, "y": 0.5}  # one question of x weighs as much as nine of y
    kinds = "x" + "y" * 9
    right = record([1] + [1, 0] * 4 + [1], [None] * 10, kinds, shares)
    known = compared(right, record([0] * 10, [None] * 10, kinds, shares))
    weights = np.array([0.5] + [0.5 / 9] * 9)
    differ = np.array([1] + [1, 0] * 4 + [1])
    assert known.discordance == pytest.approx(weights @ differ)
    assert known.effect == pytest.approx(10 * (weights**2 @ differ) / (weights @ differ))


def test_the_dry_run_says_it_for_each_benchmark(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suites = ["--set", "suites=longvideobench_val_v+videoevalpro"]
    command = ["--grid", "branches", "--profile", "paper", "--dry-run", "--out", str(out), *suites]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("  longvideobench_val_v  1,337")]
    assert "1,337 questions, 753 videos: at best differences below 3.0 points cannot be seen (3.9 where" in line
    assert any(line.startswith("  videoevalpro          1,289 questions: at best differences below") for line in lines)
    assert main([*command, "--set", "suite.limit=100"]) == 0
    assert "  longvideobench_val_v  100 questions: at best differences below 10." in capsys.readouterr().out


def test_finished_records_replace_what_was_assumed(
    sweep: Callable[..., int], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep() == 0
    paths = sorted(out.glob("cells/*/record.json"))
    for number, path in enumerate(paths):
        written = json.loads(path.read_text())
        scores = [float((i + number) % 4 > 0) for i in range(200)]
        written["questions"] = record(scores, [f"v{i // 5}" for i in range(200)])["questions"]
        path.write_text(json.dumps(written))
    capsys.readouterr()
    assert sweep("--dry-run") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  synth_needle  ")][-1:]
    assert "200 questions, 40 videos: differences below " in line
    assert "(2 records: 50 % of answers differ, design effect 1." in line
