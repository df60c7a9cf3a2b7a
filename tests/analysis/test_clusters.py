"""Questions that share a video, and numbers that are means over kinds: intervals and tests that know of both."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import special
from scipy import stats as reference

from analysis.stats import estimate, paired, wilson

SHARES = {"count": 0.5, "order": 0.25, "needle": 0.25}
rows = st.lists(
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.sampled_from("abcdef"), st.sampled_from(sorted(SHARES))),
    min_size=1,
    max_size=60,
)


def test_the_number_is_the_sum_of_shares_times_means() -> None:
    kinds = ["count"] * 4 + ["order"] * 2 + ["needle"]
    result = estimate([1, 0, 0, 0, 1, 1, 0], kinds=kinds, shares=SHARES)
    assert result.mean == pytest.approx(0.5 * 0.25 + 0.25 * 1 + 0.25 * 0)
    assert estimate([1, 0, np.nan], kinds=["count", "order", "needle"], shares=SHARES).mean == pytest.approx(0.5 / 0.75)
    assert estimate([1, 0], kinds=["another", None], shares=SHARES).n == 0


@given(rows)
@example([(0.0, 0.0, "b", "needle"), (1.0, 0.0, "a", "count"), (1e-92, 0.0, "a", "needle")])
@settings(deadline=None, max_examples=60)
def test_an_interval_holds_its_number_and_stays_a_share(questions: list[tuple[float, float, str, str]]) -> None:
    first, second, videos, kinds = (list(column) for column in zip(*questions, strict=True))
    result = estimate(first, videos, kinds, SHARES)
    assert 0 <= result.low <= result.mean + 1e-12
    assert result.mean - 1e-12 <= result.high <= 1
    there, back = paired(first, second, videos, kinds, SHARES), paired(second, first, videos, kinds, SHARES)
    assert -1 <= there.low <= there.difference + 1e-12
    assert (there.difference, there.low, there.p) == pytest.approx((-back.difference, -back.high, back.p))
    assert 0 < there.p <= 1


def test_questions_of_a_video_that_are_always_alike_count_once() -> None:
    videos = np.repeat([f"v{i}" for i in range(200)], 5)
    right = np.repeat(np.random.default_rng(4).random(200) < 0.7, 5).astype(float)
    once = wilson(right.sum() / 5, 200)
    assert estimate(right, videos)[1:3] == pytest.approx(once, abs=0.003)
    assert estimate(right)[2] - estimate(right)[1] < 0.5 * (once[1] - once[0])
    assert estimate(np.ones(1000), videos).low == pytest.approx(wilson(200, 200)[0], abs=0.001)


def test_one_video_says_nothing_of_others() -> None:
    assert estimate([1, 1, 0, 1], ["v"] * 4)[1:3] == (0.0, 1.0)
    assert paired([1, 1, 1, 1], [0, 0, 0, 0], ["v"] * 4)[1:4] == (-1.0, 1.0, 1.0)


def test_questions_without_a_video_stand_for_themselves() -> None:
    scores = np.random.default_rng(5).random(50) < 0.6
    assert estimate(scores, [None] * 50) == estimate(scores, [np.nan] * 50) == estimate(scores)


def test_every_exchange_of_answers_by_video_is_counted() -> None:
    a = [1, 1, 0, 1, 1, 0, 1, 0, 1, 1]
    b = [0, 1, 0, 0, 0, 0, 0, 1, 0, 0]
    videos = ["u", "u", "v", "v", "w", "w", "w", "x", "y", "y"]
    gains = [sum(x - y for x, y, v in zip(a, b, videos, strict=True) if v == video) for video in "uvwxy"]
    sums = [
        abs(sum(s * g for s, g in zip(signs, gains, strict=True))) for signs in itertools.product((1, -1), repeat=5)
    ]
    result = paired(a, b, videos)
    assert result.test == "sign-flip"
    assert result.p == pytest.approx(np.mean([total >= sum(gains) for total in sums]))


def test_where_every_question_has_its_video_the_test_is_mcnemars() -> None:
    generator = np.random.default_rng(6)
    a, b = generator.random((2, 300)) < [[0.7], [0.6]]
    own = [f"v{i}" for i in range(300)]
    by_kind = paired(a, b, own, ["all", "same"] * 150, {"all": 0.5, "same": 0.5})  # the same number, counted by kinds
    assert paired(a, b, own) == paired(a, b)
    assert by_kind.test == "sign-flip"
    assert by_kind.p == pytest.approx(paired(a, b).p)


def test_drawn_signs_agree_with_the_normal_distribution() -> None:
    gains = np.random.default_rng(7).normal(0.05, 1, size=400) / 4
    known = 2 * special.ndtr(-abs(gains.sum()) / np.sqrt((gains**2).sum()))
    assert paired(gains, np.zeros(400)).p == pytest.approx(known, abs=0.015)


def test_the_interval_of_a_difference_is_bonett_and_prices() -> None:
    a, b = [1] * 30 + [0] * 10 + [1] * 60, [0] * 30 + [1] * 10 + [1] * 60
    up, down = 31 / 102, 11 / 102
    half = reference.norm.ppf(0.975) * np.sqrt((up + down - (up - down) ** 2) / 102)
    assert paired(a, b)[1:3] == pytest.approx((up - down - half, up - down + half))


def draw(generator: np.random.Generator, sizes: np.ndarray, alike: float, levels: list[np.ndarray]) -> list[np.ndarray]:
    """Right/wrong answers at given levels to the same questions; `alike`: how much of what decides is the video's.

    Half of it is common to all variants, half each variant's own, by video as by question.
    """

    def normal() -> np.ndarray:
        by_video = np.repeat(generator.standard_normal(len(sizes)), sizes)
        return np.sqrt(alike) * by_video + np.sqrt(1 - alike) * generator.standard_normal(sizes.sum())

    common = normal()
    return [(np.sqrt(0.5) * common + np.sqrt(0.5) * normal() < special.ndtri(level)).astype(float) for level in levels]


def sample(videos: int, each: int, seed: int) -> tuple[np.random.Generator, np.ndarray, list[str]]:
    generator = np.random.default_rng(seed)
    sizes = generator.geometric(1 / each, videos)  # as unequal as benchmarks' are
    return generator, sizes, [f"v{i}" for i in np.repeat(np.arange(videos), sizes)]


def rate(runs: int, once: Callable[[int], tuple[bool, bool]]) -> tuple[float, float]:
    first, second = np.mean([once(seed) for seed in range(runs)], axis=0)
    return float(first), float(second)


def wrongly_found(videos: int, each: int, alike: float, kinds: bool, runs: int) -> tuple[float, float]:
    """How often two equal variants differ at 5 %: by our test, and by McNemar's, which knows of no videos."""

    def once(seed: int) -> tuple[bool, bool]:
        generator, sizes, names = sample(videos, each, seed)
        a, b = draw(generator, sizes, alike, [np.array(0.6)] * 2)
        of = list(generator.choice(sorted(SHARES), len(names))) if kinds else None
        shares = SHARES if kinds else None
        return paired(a, b, names, of, shares).p < 0.05, paired(a, b).p < 0.05

    return rate(runs, once)


def covered(videos: int, each: int, alike: float, kinds: bool, runs: int) -> tuple[float, float]:
    """How often an interval holds the truth: ours, and one that takes questions for independent."""
    levels = {"count": 0.5, "order": 0.7, "needle": 0.95}
    truth = sum(SHARES[kind] * level for kind, level in levels.items()) if kinds else 0.7

    def once(seed: int) -> tuple[bool, bool]:
        generator, sizes, names = sample(videos, each, seed)
        of = list(generator.choice(sorted(SHARES), len(names)))
        (scores,) = draw(generator, sizes, alike, [np.array([levels[kind] if kinds else 0.7 for kind in of])])
        given = (of, SHARES) if kinds else (None, None)
        ours, naive = estimate(scores, names, *given), estimate(scores, None, *given)
        return ours.low <= truth <= ours.high, naive.low <= truth <= naive.high

    return rate(runs, once)


def test_a_test_that_ignores_videos_finds_what_is_not_there() -> None:
    ours, naive = wrongly_found(videos=40, each=8, alike=0.8, kinds=False, runs=120)
    assert ours < 0.11
    assert naive > 0.2


def test_an_interval_that_ignores_videos_is_too_narrow() -> None:
    ours, naive = covered(videos=60, each=8, alike=0.8, kinds=True, runs=150)
    assert ours > 0.88
    assert naive < 0.75


@pytest.mark.long
@pytest.mark.parametrize("kinds", [False, True], ids=["plain", "kinds"])
@pytest.mark.parametrize(("videos", "each"), [(10, 10), (40, 8), (300, 2), (100, 10)])
@pytest.mark.parametrize("alike", [0.0, 0.5])
def test_rates_are_what_they_should_be(videos: int, each: int, alike: float, kinds: bool) -> None:
    """The table of docs/analysis.md: `pytest -m long -k rates -s` prints it."""
    found, naive_found = wrongly_found(videos, each, alike, kinds, runs=400)
    holds, naive_holds = covered(videos, each, alike, kinds, runs=400)
    number = "kinds" if kinds else "plain"
    shown = (f"{100 * value:.1f}" for value in (holds, naive_holds, found, naive_found))
    print("\n| {} | {} | {} | {} | {} ({}) | {} ({}) |".format(videos, each, alike, number, *shown))
    assert found < 0.085
    assert holds > (0.90 if videos > 10 else 0.85)


def test_the_choice_that_was_observed_counts_though_sums_are_rounded() -> None:
    first, second = [0.0, 0.0, *[0.007913208956391358] * 3], [*[0.12128344317764575] * 2, *[0.862340995175426] * 3]
    result = paired(first, second, ["b", "b", "a", "a", "c"], ["count"] * 5, SHARES)
    assert result.p == pytest.approx(2 / 2**3)  # of 8 choices of signs, theirs and its opposite
