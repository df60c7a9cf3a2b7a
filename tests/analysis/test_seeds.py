"""Several trainings asked the same questions: intervals and tests over the choice of questions and of seeds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from analysis.samples import crossed
from analysis.stats import estimate, paired

SHARES = {"count": 0.5, "order": 0.25, "needle": 0.25}


def draw(
    generator: np.random.Generator, seeds: int, spread: float, level: float, common: np.ndarray, alike: float = 0.5
) -> tuple[np.ndarray, float]:
    """(right/wrong answers [seeds, questions], their expectation): `common` [questions] is what decides in all seeds,
    `alike` its share, `spread` the standard deviation of seeds' accuracies near this level."""
    threshold = special.ndtri(level)
    shift = spread * np.sqrt(2 * np.pi) * np.exp(threshold**2 / 2)
    own = generator.standard_normal((seeds, len(common)))
    shifts = shift * generator.standard_normal((seeds, 1))
    right = np.sqrt(alike) * common + np.sqrt(1 - alike) * own < threshold + shifts
    return right.astype(float), float(special.ndtr(threshold / np.sqrt(1 + shift**2)))


def layout(generator: np.random.Generator, seeds: int, questions: int = 40) -> np.ndarray:
    return draw(generator, seeds, 0.05, 0.7, generator.standard_normal(questions))[0]


@given(st.integers(0, 10_000), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=30)
def test_one_seed_is_what_it_was(seed: int, by_video: bool, by_kind: bool) -> None:
    generator = np.random.default_rng(seed)
    a, b = generator.random((2, 30)) < [[0.8], [0.6]]
    videos = [f"v{number}" for number in generator.integers(0, 9, 30)] if by_video else None
    about = (videos, list(generator.choice(sorted(SHARES), 30)), SHARES) if by_kind else (videos,)
    assert estimate([a], *about) == estimate(a, *about)
    assert paired([a], [b], *about) == paired(a, b, *about)
    assert paired([a, np.full(30, np.nan)], [b, b], *about) == paired(a, b, *about), "a seed without answers"


def test_seeds_that_answer_alike_are_as_sure_as_one() -> None:
    (once,) = layout(np.random.default_rng(0), 1)
    assert estimate([once] * 3)[:5] == pytest.approx(estimate(once)[:5])
    assert estimate(np.ones((3, 40))) == pytest.approx(estimate(np.ones(40)), abs=0, rel=1e-12)
    other = np.roll(once, 7)
    assert paired([once] * 3, [other] * 3)[:3] == pytest.approx(paired(once, other)[:3])


def test_parts_are_the_mean_squares_of_the_analysis_of_variance() -> None:
    scores = np.random.default_rng(1).random((4, 25))
    sample = crossed(scores, None, None, None)
    assert sample is not None
    by_seed = 25 * ((scores.mean(axis=1) - scores.mean()) ** 2).sum() / 3
    by_question = 4 * ((scores.mean(axis=0) - scores.mean()) ** 2).sum() / 24
    assert sample.seed_part == pytest.approx(by_seed / (4 * 25))
    assert sample.questions.alone(True) == pytest.approx(by_question / (4 * 25))
    assert sample.error**2 == pytest.approx((by_seed + by_question) / (4 * 25))


@given(st.integers(0, 10_000), st.integers(1, 4), st.sampled_from([0.0, 0.3, 0.95]))
@settings(deadline=None, max_examples=60)
def test_an_interval_holds_its_number_and_stays_a_share(seed: int, seeds: int, missing: float) -> None:
    generator = np.random.default_rng(seed)
    n = int(generator.integers(1, 40))
    first, second = generator.random((2, seeds, n))
    first[generator.random((seeds, n)) < missing] = np.nan
    videos, kinds = [f"v{i}" for i in generator.integers(0, 9, n)], list(generator.choice(sorted(SHARES), n))
    result = estimate(first, videos, kinds, SHARES)
    there, back = paired(first, second, videos, kinds, SHARES), paired(second, first, videos, kinds, SHARES)
    if not result.n:
        return
    assert 0 <= result.low <= result.mean + 1e-12
    assert result.mean - 1e-12 <= result.high <= 1
    assert -1 <= there.low <= there.difference + 1e-12
    assert (there.difference, there.low, there.p) == pytest.approx((-back.difference, -back.high, back.p))
    assert 0 <= there.p <= 1


def test_the_number_is_the_mean_of_the_seeds_own() -> None:
    scores = layout(np.random.default_rng(2), 3)
    scores[1, :15] = np.nan
    result = estimate(scores)
    assert result.mean == pytest.approx(np.mean([np.nanmean(row) for row in scores]))
    assert result.n == 40


def test_seeds_that_disagree_widen_what_questions_alone_say() -> None:
    generator = np.random.default_rng(3)
    scores = layout(generator, 3)
    scores[0] = generator.random(40) < 0.3
    asked = estimate(scores.mean(axis=0))
    assert estimate(scores).high - estimate(scores).low > 2 * (asked.high - asked.low)
    ruined = estimate([np.ones(40), np.zeros(40)])
    assert ruined.low < 0.05
    assert ruined.high > 0.95


def test_a_rare_error_does_not_make_seeds_look_independent() -> None:
    right = np.ones((3, 72))
    right[1, 4] = 0
    assert estimate(right).low < estimate(np.ones((3, 72))).low + 0.015


def test_a_difference_in_one_seed_of_two_is_not_sure() -> None:
    gains = np.zeros((2, 60))
    gains[0, :20] = 1
    result = paired(gains, np.zeros((2, 60)))
    assert result.test == "crossed"
    assert result.p > 0.3
    assert paired(gains[:1], np.zeros((1, 60))).p < 1e-4


def rates(seeds: int, spread: float, questions: int, runs: int) -> dict[str, float]:
    """Shares: of intervals that hold the truth, with `asked` of the questions' means alone, and of equal variants that
    differ at 5 %."""
    generator, found = np.random.default_rng(seeds), []
    for _ in range(runs):
        common = generator.standard_normal(questions)
        (a, truth), (b, _) = (draw(generator, seeds, spread, 0.7, common) for _ in range(2))
        ours, asked, test = estimate(a), estimate(a.mean(axis=0)), paired(a, b)
        differs = paired(a.mean(axis=0), b.mean(axis=0)).p < 0.05
        found.append([ours.low <= truth <= ours.high, asked.low <= truth <= asked.high, test.p < 0.05, differs])
    return dict(zip(("holds", "asked holds", "differ", "asked differ"), np.mean(found, axis=0), strict=True))


def test_an_interval_that_ignores_seeds_is_too_narrow() -> None:
    of = rates(seeds=3, spread=0.08, questions=150, runs=120)
    assert of["holds"] > 0.9
    assert of["asked holds"] < 0.85
    assert of["differ"] < 0.1
    assert of["asked differ"] > 0.25


@pytest.mark.long
@pytest.mark.parametrize("questions", [72, 600])
@pytest.mark.parametrize("spread", [0.0, 0.02, 0.05])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_rates_are_what_they_should_be(seeds: int, spread: float, questions: int) -> None:
    """The table of docs/analysis.md: `pytest -m long -k 'seeds and rates' -s` prints it."""
    of = rates(seeds, spread, questions, runs=1000 if questions < 100 else 400)
    shown = (f"{100 * of[name]:.1f}" for name in ("holds", "asked holds", "differ", "asked differ"))
    print("\n| {} | {} | {:g} | {} ({}) | {} ({}) |".format(seeds, questions, 100 * spread, *shown))
    assert of["holds"] > (0.92 if seeds > 2 else 0.85)
    assert of["differ"] < (0.08 if seeds > 2 else 0.15)
