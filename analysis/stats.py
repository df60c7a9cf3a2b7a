"""Intervals and paired tests: how sure is a score, and is a difference more than noise.

A benchmark's number is a mean over its questions, or a weighted mean of the means of its kinds of questions. Questions
about one video hang together: what is drawn is the video (a cluster), not the question. docs/analysis.md says how, and
how well intervals cover. Nothing here covers another training seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from scipy import special  # not scipy.stats: it takes more than a second to import; tests compare with it

LEVEL = 0.95
SIGNIFICANT = 0.05  # corrected p-values below it are marked
EXACT = 1 << 14  # a sign-flip distribution of at most so many different sums is computed whole
FLIPS = 20_000  # of a larger one so many are drawn: p is never below 1 / (FLIPS + 1)
SEED = 20251002  # of the draws: the same records give the same digits
DIGITS = 9  # sums that agree in so many decimals are the same

Values = Sequence[float] | np.ndarray
Names = Sequence[Any] | np.ndarray


class Estimate(NamedTuple):
    """A score with its interval, over n questions about so many videos."""

    mean: float
    low: float
    high: float
    n: int
    videos: int
    error: float  # standard error by video, as lmms-eval computes it for a plain mean


class Paired(NamedTuple):
    """Difference (a - b) on the same questions, its interval, and the p-value of no difference."""

    difference: float
    low: float
    high: float
    p: float
    n: int
    test: str  # "mcnemar" or "sign-flip"


NO_ESTIMATE = Estimate(np.nan, np.nan, np.nan, 0, 0, np.nan)
NO_PAIRS = Paired(np.nan, np.nan, np.nan, np.nan, 0, "")


def estimate(
    scores: Values,
    videos: Names | None = None,
    kinds: Names | None = None,
    shares: Mapping[str, float] | None = None,
    level: float = LEVEL,
) -> Estimate:
    """A benchmark's number, of per-question scores in [0, 1], with its interval.

    Args:
        scores: NaN (not asked, or errored) is left out, so look at n.
        videos: of each question the id of its video; one that is no text stands for itself alone.
        kinds, shares: the number is the sum of share x mean of the kind; None: the plain mean. A kind without an answer
            is left out, and the other shares grow to sum 1.
    """
    sample = _sample(scores, videos, kinds, shares)
    if sample is None:
        return NO_ESTIMATE
    n = sample.effective_number(sample.mean * (1 - sample.mean), level)  # graded scores vary less than right/wrong ones
    return Estimate(sample.mean, *wilson(sample.mean * n, n, level), len(sample.values), sample.videos, sample.error)


def paired(
    a: Values,
    b: Values,
    videos: Names | None = None,
    kinds: Names | None = None,
    shares: Mapping[str, float] | None = None,
    level: float = LEVEL,
) -> Paired:
    """Compare two variants on the same questions in the same order; pairs with a NaN are left out.

    Under no difference the two answers to every question about a video may change places without anything being
    different: p is the share of all such exchanges that end with a difference of at least this size. Where every
    question has a video of its own and right/wrong scores count the same, that is McNemar's exact test.
    """
    sample = _sample(np.asarray(a, dtype=float) - np.asarray(b, dtype=float), videos, kinds, shares)
    if sample is None:
        return NO_PAIRS
    square = float(sample.weights @ sample.values**2)
    n = sample.effective_number(square - sample.mean**2, level)
    limits = adjusted_wald(sample.mean, square, n, level)
    if sample.clustered or not sample.whole or len(sample.shares) > 1:
        test, p = "sign-flip", _sign_flip(sample.by_video(sample.values))
    else:
        test, p = "mcnemar", _mcnemar(int((sample.values > 0).sum()), int((sample.values < 0).sum()))
    return Paired(sample.mean, *limits, p, len(sample.values), test)


@dataclass(frozen=True)
class _Sample:
    """Answered questions: what is averaged, over which kinds, about which videos."""

    values: np.ndarray  # [questions] scores, or differences of two
    kind: np.ndarray  # [questions] number of its kind
    video: np.ndarray  # [questions] number of its video
    shares: np.ndarray  # [kinds], sum 1

    @cached_property
    def counts(self) -> np.ndarray:
        """[kinds] questions."""
        return np.bincount(self.kind)

    @cached_property
    def weights(self) -> np.ndarray:
        """[questions] what each counts, in sum 1."""
        return (self.shares / self.counts)[self.kind]

    @cached_property
    def means(self) -> np.ndarray:
        """[kinds]"""
        return np.bincount(self.kind, self.values) / self.counts

    @cached_property
    def mean(self) -> float:
        return float(self.shares @ self.means)

    @cached_property
    def videos(self) -> int:
        return int(self.video.max()) + 1

    @property
    def clustered(self) -> bool:
        """Whether two questions share a video."""
        return self.videos < len(self.values)

    @property
    def whole(self) -> bool:
        """Whether scores are right or wrong, so that their differences are -1, 0 or 1."""
        return bool(np.isin(self.values, (-1.0, 0.0, 1.0)).all())

    def by_video(self, values: np.ndarray) -> np.ndarray:
        """[videos] weighted sums, in units of one question of a plain mean (whole numbers for right/wrong scores)."""
        return np.bincount(self.video, self.weights * values * len(values))

    @cached_property
    def _squares(self) -> np.ndarray:
        """[kinds] sums of squared distances from the kind's mean; exactly 0 where all are the same."""
        least, most = np.full((2, len(self.shares)), np.inf) * [[1], [-1]]
        np.minimum.at(least, self.kind, self.values)
        np.maximum.at(most, self.kind, self.values)
        return np.where(least == most, 0.0, np.bincount(self.kind, (self.values - self.means[self.kind]) ** 2))

    @cached_property
    def _together(self) -> float:
        """The mean's variance with videos as the draws, to first order (Taylor); not corrected for their number."""
        return float((self.by_video(self.values - self.means[self.kind]) ** 2).sum()) / len(self.values) ** 2

    def _alone(self, corrected: bool) -> float:
        """The mean's variance with questions as the draws. `corrected`: not biased; kinds of one question show none."""
        n = np.maximum(1, self.counts - 1) if corrected else self.counts
        return float((self.shares**2 * self._squares / (self.counts * n)).sum())

    @property
    def error(self) -> float:
        """Standard error by video, equation 4 of Miller (arXiv 2411.00640); for a plain mean it is lmms-eval's."""
        more = self._alone(True) - self._alone(False)
        return float(np.sqrt(self._together + more)) if len(self.values) > 1 else np.nan

    @property
    def known(self) -> bool:
        """Whether the sample shows how much such a mean varies: two videos at least, and not all scores the same."""
        return self.videos > 1 and self._alone(False) > 0

    def effective_number(self, variance: float, level: float) -> float:
        """As many independent questions, each of this variance, as would make the mean as sure as it is.

        Korn and Graubard (1998), with a design effect (how much larger the variance is with videos as the draws) of at
        least 1. A sample that does not show its variance counts each video as one question. Few videos leave
        the variance uncertain: then Student's t stands for the normal.
        """
        same = 1 / float((self.by_video(np.ones_like(self.values)) ** 2).sum()) * len(self.values) ** 2
        number = same  # so many videos of the same weight
        if self.known:
            together = self._together * self.videos / (self.videos - 1)
            number = variance / self._alone(False) / max(1.0, together / self._alone(True))
        if not self.clustered and self.whole:
            return number
        return number * (_normal_quantile(level) / _student_quantile(level, same - 1)) ** 2


def _sample(
    values: Values, videos: Names | None, kinds: Names | None, shares: Mapping[str, float] | None
) -> _Sample | None:
    """The answered questions that count; None when there is none."""
    numbers = np.asarray(values, dtype=float)
    named = [None] * len(numbers) if kinds is None or not shares else list(kinds)
    weights: Mapping[Any, float] = shares if kinds is not None and shares else {None: 1.0}
    counts = [not np.isnan(number) and weights.get(kind, 0) > 0 for number, kind in zip(numbers, named, strict=True)]
    here = np.flatnonzero(counts)
    if not len(here):
        return None
    order: dict[Any, int] = {}
    kind = np.array([order.setdefault(named[place], len(order)) for place in here])
    share = np.array([weights[name] for name in order], dtype=float)
    ids: dict[Any, int] = {}
    names = [None] * len(numbers) if videos is None else list(videos)
    video = [ids.setdefault(names[place] if isinstance(names[place], str) else place, len(ids)) for place in here]
    return _Sample(numbers[here], kind, np.array(video), share / share.sum())


def wilson(correct: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a proportion: never outside 0..1, also at 0 and at n; n may be an effective number."""
    if n == 0:
        return 0.0, 1.0
    z = _normal_quantile(level)
    share = correct / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(max(0.0, share * (1 - share)) / n + z**2 / (4 * n**2))
    low = 0.0 if correct == 0 else max(0.0, centre - half)  # exactly, without rounding
    high = 1.0 if correct == n else min(1.0, centre + half)
    return float(low), float(high)


def adjusted_wald(mean: float, square: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """Bonett and Price's (2012) interval of a mean difference: Wald's with two pairs added, one won and one lost.

    `square` is the mean squared difference (of right/wrong scores: the share of pairs that disagree).
    """
    centre, spread = n * mean / (n + 2), (n * square + 2) / (n + 2)
    half = _normal_quantile(level) * np.sqrt((spread - centre**2) / (n + 2))
    return float(max(-1.0, centre - half)), float(min(1.0, centre + half))


def _normal_quantile(level: float) -> float:
    return float(special.ndtri((1 + level) / 2))


def _student_quantile(level: float, freedom: float) -> float:
    return float(special.stdtrit(freedom, (1 + level) / 2)) if freedom > 1e-9 else np.inf


def _mcnemar(won: int, lost: int) -> float:
    """Exact: under no difference the disagreeing pairs fall either way with probability 1/2."""
    return min(1.0, 2 * float(special.bdtr(min(won, lost), won + lost, 0.5))) if won + lost else 1.0


def _sign_flip(sums: np.ndarray) -> float:
    """Share of all choices of the sums' signs whose total is at least as far from 0 as theirs."""
    sums = sums.round(DIGITS)
    total = abs(float(sums.sum())) - 10.0**-DIGITS  # of the same rounded sums as all other choices, or it misses itself
    sizes = np.sort(np.abs(sums))
    sizes = sizes[sizes > 0]
    totals: np.ndarray = np.zeros(1)
    chances: np.ndarray = np.ones(1)
    for size in sizes:
        both = np.concatenate([totals + size, totals - size]).round(DIGITS)
        totals, place = np.unique(both, return_inverse=True)
        chances = np.bincount(place, weights=np.tile(chances / 2, 2))
        if len(totals) > EXACT:
            return _drawn_sign_flip(sizes, total)
    return min(1.0, float(chances[np.abs(totals) >= total].sum()))


def _drawn_sign_flip(sizes: np.ndarray, total: float) -> float:
    """The same, of FLIPS random choices."""
    generator = np.random.default_rng(SEED)
    rows = max(1, 4_000_000 // len(sizes))  # keeps memory below about 50 MB
    reached = 0
    for start in range(0, FLIPS, rows):
        signs = 2 * generator.integers(0, 2, (min(rows, FLIPS - start), len(sizes)), dtype=np.int8) - 1
        reached += int((np.abs(signs @ sizes) >= total).sum())
    return (1 + reached) / (FLIPS + 1)


def holm(p_values: Values) -> np.ndarray:
    """Holm's step-down correction: adjusted p-values in the given order; NaN (no test) stays NaN and does not count."""
    p = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(p), np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors)) if len(order) else []
    return adjusted
