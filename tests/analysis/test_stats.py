"""Intervals and tests against scipy.stats, and the properties that any of them must have."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference

from analysis.stats import estimate, holm, paired, wilson

counts = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
verdicts = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


@given(counts, st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_is_scipys(count: tuple[int, int], level: float) -> None:
    correct, n = count
    known = reference.binomtest(correct, n).proportion_ci(level, method="wilson")
    assert wilson(correct, n, level) == pytest.approx((known.low, known.high), abs=1e-12)


@given(counts)
def test_an_interval_holds_its_mean_and_stays_a_share(count: tuple[int, int]) -> None:
    correct, n = count
    low, high = wilson(correct, n)
    assert 0 <= low <= correct / n <= high <= 1
    assert low < high, "even a perfect score is not certain"


def test_wilson_covers_as_often_as_it_says() -> None:
    drawn = np.random.default_rng(0).binomial(192, 0.92, size=4000)
    intervals = {count: wilson(int(count), 192) for count in np.unique(drawn)}
    covered = np.mean([intervals[count][0] <= 0.92 <= intervals[count][1] for count in drawn])
    assert 0.93 < covered < 0.97


@given(verdicts)
def test_mcnemar_is_the_exact_binomial_test(pairs: list[tuple[bool, bool]]) -> None:
    a, b = np.array(pairs, dtype=float).T
    won, lost = int((a > b).sum()), int((a < b).sum())
    result = paired(a, b)
    known = reference.binomtest(won, won + lost, 0.5).pvalue if won + lost else 1.0
    assert result.p == pytest.approx(known, abs=1e-12)
    assert result.difference == pytest.approx(a.mean() - b.mean())
    assert -1 <= result.low < result.high <= 1
    assert result.test == "mcnemar"


@given(verdicts)
def test_a_comparison_turned_round_changes_only_its_sign(pairs: list[tuple[bool, bool]]) -> None:
    a, b = np.array(pairs, dtype=float).T
    there, back = paired(a, b), paired(b, a)
    assert there.p == pytest.approx(back.p)
    assert (there.difference, there.low, there.high) == pytest.approx((-back.difference, -back.high, -back.low))


def test_the_interval_of_a_difference_covers() -> None:
    generator = np.random.default_rng(1)
    covered = []
    for _ in range(600):
        difficulty = generator.uniform(size=200)
        a, b = (difficulty + generator.normal(0, 0.1, 200) < accuracy for accuracy in (0.9, 0.85))
        result = paired(a.astype(float), b.astype(float))
        covered.append(result.low <= 0.0446 <= result.high)  # 0.8917 - 0.8471, by integration
    assert 0.92 < np.mean(covered) < 0.99


def test_graded_scores_get_an_interval_of_their_own_spread() -> None:
    scores = np.random.default_rng(2).uniform(size=300).round(1)
    result = estimate(scores)
    assert (result.high - result.low) / 2 == pytest.approx(1.96 * scores.std() / np.sqrt(300), rel=0.03)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10_000))
def test_a_shift_is_found_and_noise_is_not(seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.uniform(0, 0.8, size=400)
    noise = generator.normal(0, 0.05, size=400)
    assert paired(scores + 0.1 + noise, scores).p < 0.001
    assert paired(scores, scores).p == 1.0


def test_noise_alone_is_called_a_difference_as_often_as_it_should() -> None:
    generator = np.random.default_rng(3)
    found = [paired(generator.uniform(size=40), generator.uniform(size=40)).p < 0.05 for _ in range(60)]
    assert np.mean(found) < 0.15


def test_unanswered_questions_are_left_out_and_counted() -> None:
    assert estimate([1.0, np.nan, 0.0, np.nan]).n == 2
    assert estimate([1.0, np.nan, 0.0, np.nan]).mean == 0.5
    assert estimate([np.nan, np.nan]).n == 0
    assert np.isnan(estimate([]).mean)
    result = paired([1, np.nan, 1, 0], [0, 1, np.nan, 0])
    assert result.n == 2
    assert result.difference == 0.5


def test_scores_that_never_vary_count_as_if_they_were_right_or_wrong() -> None:
    assert estimate([0.5] * 10)[1:3] == pytest.approx(student_wilson(5, 10, freedom=9))
    assert estimate([1.0] * 10)[1:3] == wilson(10, 10)


def student_wilson(correct: float, n: float, freedom: float) -> tuple[float, float]:
    """Wilson's interval with Student's t, by the textbook's formula."""
    t = reference.t.ppf(0.975, freedom)
    centre, half = correct / n + t**2 / (2 * n), t * np.sqrt(correct / n * (1 - correct / n) / n + t**2 / (4 * n**2))
    return (centre - half) / (1 + t**2 / n), (centre + half) / (1 + t**2 / n)


probabilities = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@given(probabilities)
def test_holm_is_between_no_correction_and_bonferroni(p: list[float]) -> None:
    adjusted = holm(p)
    assert (adjusted >= np.array(p) - 1e-15).all()
    assert (adjusted <= np.minimum(1, len(p) * np.array(p)) + 1e-12).all()
    order = np.argsort(p, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, np.nan, 0.005]) == pytest.approx([0.03, 0.06, 0.06, np.nan, 0.02], nan_ok=True)
    assert len(holm([])) == 0
