"""Intervals and paired tests: how sure is a score, and is a difference more than noise.

A benchmark's number is a mean over its questions, or a weighted mean of the means of its kinds of questions. Questions
about one video hang together: what is drawn is the video (a cluster), not the question. docs/analysis.md says how, and
how well intervals cover. Of several training seeds they cover the choice of seeds as well; of one, only questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special  # not scipy.stats: it takes more than a second to import; tests compare with it

from analysis.samples import Names, crossed, normal_quantile

LEVEL = 0.95
SIGNIFICANT = 0.05  # corrected p-values below it are marked
EXACT = 1 << 14  # a sign-flip distribution of at most so many different sums is computed whole
FLIPS = 20_000  # of a larger one so many are drawn: p is never below 1 / (FLIPS + 1)
SEED = 20251002  # of the draws: the same records give the same digits
DIGITS = 9  # sums that agree in so many decimals are the same

Values = Sequence[float] | np.ndarray


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
    test: str  # "mcnemar" or "sign-flip"; over several seeds "crossed"


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
        scores: [questions], or [seeds, questions]: then the number is the mean over seeds of the training, and the
            interval covers their choice, too. NaN (not asked, or errored) is left out, so look at n.
        videos: of each question the id of its video; one that is no text stands for itself alone.
        kinds, shares: the number is the sum of share x mean of the kind; None: the plain mean. A kind without an answer
            is left out, and the other shares grow to sum 1.
    """
    sample = crossed(np.asarray(scores, dtype=float), videos, kinds, shares)
    if sample is None:
        return NO_ESTIMATE
    mean, asked = sample.mean, sample.questions
    n = sample.effective_number(mean * (1 - mean), (0, 1), level)  # graded scores vary less than right/wrong ones
    return Estimate(mean, *wilson(mean * n, n, level), len(asked.values), asked.videos, sample.error)


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

    Of [seeds, questions] each seed's difference is taken on its own, and their mean tested: by exchanges as before, of
    a question's answers in all seeds together, and by Student's t, whose variance holds the seeds. p is the larger.
    """
    sample = crossed(np.asarray(a, dtype=float) - np.asarray(b, dtype=float), videos, kinds, shares)
    if sample is None:
        return NO_PAIRS
    asked, variance = sample.questions, sample.square - sample.mean**2
    n = sample.effective_number(variance, (-1, 1), level)
    limits = adjusted_wald(sample.mean, sample.square, n, level)
    if len(sample.seeds) > 1:
        with_seeds = _student(sample.mean, variance, *sample.sureness(variance, (-1, 1)))
        test, p = "crossed", max(_sign_flip(asked.by_video(asked.values)), with_seeds)
    elif asked.clustered or not asked.whole or len(asked.counts) > 1:
        test, p = "sign-flip", _sign_flip(asked.by_video(asked.values))
    else:
        test, p = "mcnemar", _mcnemar(int((asked.values > 0).sum()), int((asked.values < 0).sum()))
    return Paired(sample.mean, *limits, p, len(asked.values), test)


def wilson(correct: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a proportion: never outside 0..1, also at 0 and at n; n may be an effective number."""
    if n == 0:
        return 0.0, 1.0
    z = normal_quantile(level)
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
    half = normal_quantile(level) * np.sqrt((spread - centre**2) / (n + 2))
    return float(max(-1.0, centre - half)), float(min(1.0, centre + half))


def _student(mean: float, variance: float, n: float, freedom: float) -> float:
    """Two-sided p of a mean of n values of this variance; 0 where they do not vary (nothing is said by it then)."""
    t = abs(mean) / np.sqrt(variance / n) if variance > 0 and n > 0 else np.inf
    return 2 * float(special.ndtr(-t) if np.isinf(freedom) else special.stdtr(max(freedom, 1e-9), -t))


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
