"""Intervals and paired tests: how sure is a score, and is a difference more than noise.

A right/wrong score gets Wilson's interval and McNemar's exact test; a graded one (VSIBench) a bootstrap over its
questions. Both treat questions as independent draws: where a benchmark asks several about one video, the true interval
is somewhat wider. Neither says anything about another training seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special  # not scipy.stats: it takes more than a second to import; tests compare with it

LEVEL = 0.95
SIGNIFICANT = 0.05  # corrected p-values below it are marked
RESAMPLES = 5000
SEED = 20251002  # of the bootstraps: the same records give the same digits


class Estimate(NamedTuple):
    """A mean with its interval, over n questions."""

    mean: float
    low: float
    high: float
    n: int


class Paired(NamedTuple):
    """Mean difference (a - b) on the same questions, its interval, and the p-value of no difference."""

    difference: float
    low: float
    high: float
    p: float
    n: int
    test: str  # "mcnemar" or "bootstrap"


NO_ESTIMATE = Estimate(np.nan, np.nan, np.nan, 0)
NO_PAIRS = Paired(np.nan, np.nan, np.nan, np.nan, 0, "")


def is_binary(scores: np.ndarray) -> bool:
    """Whether every score is 0 or 1."""
    return bool(np.isin(scores, (0.0, 1.0)).all())


def wilson(correct: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a proportion: never empty, never outside 0..1, also at 0 and at n."""
    z = _normal_quantile(level)
    share = correct / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low = 0.0 if correct == 0 else max(0.0, centre - half)  # exactly, without rounding
    high = 1.0 if correct == n else min(1.0, centre + half)
    return float(low), float(high)


def _normal_quantile(level: float) -> float:
    return float(special.ndtri((1 + level) / 2))


def estimate(scores: Sequence[float] | np.ndarray, level: float = LEVEL) -> Estimate:
    """Mean and interval of per-question scores; NaN (not asked, or errored) is left out, so look at n."""
    values = np.asarray(scores, dtype=float)
    values = values[~np.isnan(values)]
    if not len(values):
        return NO_ESTIMATE
    if is_binary(values):
        return Estimate(float(values.mean()), *wilson(int(values.sum()), len(values), level), len(values))
    return Estimate(float(values.mean()), *_bootstrap_interval(values, level), len(values))


def paired(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray, level: float = LEVEL) -> Paired:
    """Compare two variants on the same questions in the same order; pairs with a NaN are left out."""
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    both = ~(np.isnan(first) | np.isnan(second))
    first, second = first[both], second[both]
    if not len(first):
        return NO_PAIRS
    if is_binary(first) and is_binary(second):
        return _mcnemar(int((first > second).sum()), int((first < second).sum()), len(first), level)
    return _paired_bootstrap(first - second, level)


def _mcnemar(won: int, lost: int, n: int, level: float) -> Paired:
    """Exact McNemar: under no difference the disagreeing pairs fall either way with probability 1/2.

    The interval is Bonett and Price's (2012) adjusted Wald for paired proportions.
    """
    p = min(1.0, 2 * float(special.bdtr(min(won, lost), won + lost, 0.5))) if won + lost else 1.0
    up, down = (won + 1) / (n + 2), (lost + 1) / (n + 2)
    half = _normal_quantile(level) * np.sqrt((up + down - (up - down) ** 2) / (n + 2))
    low, high = max(-1.0, up - down - half), min(1.0, up - down + half)
    return Paired((won - lost) / n, float(low), float(high), p, n, "mcnemar")


def _resampled_means(values: np.ndarray) -> np.ndarray:
    """Means of RESAMPLES draws with replacement, in slices that keep memory below about 40 MB."""
    generator = np.random.default_rng(SEED)
    rows = max(1, min(RESAMPLES, 5_000_000 // len(values)))
    parts = [
        values[generator.integers(0, len(values), (min(rows, RESAMPLES - start), len(values)))].mean(axis=1)
        for start in range(0, RESAMPLES, rows)
    ]
    return np.concatenate(parts)


def _bootstrap_interval(values: np.ndarray, level: float) -> tuple[float, float]:
    if np.ptp(values) == 0:  # one graded score repeated: the sample says nothing about its spread
        return np.nan, np.nan
    low, high = np.quantile(_resampled_means(values), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _paired_bootstrap(differences: np.ndarray, level: float) -> Paired:
    """Bootstrap over questions; p from the resampled means moved to centre 0 (never below 1 / (RESAMPLES + 1))."""
    mean = float(differences.mean())
    if np.ptp(differences) == 0:
        p = 1.0 if mean == 0 else np.nan
        return Paired(mean, np.nan, np.nan, p, len(differences), "bootstrap")
    means = _resampled_means(differences)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    p = (1 + int((np.abs(means - mean) >= abs(mean)).sum())) / (RESAMPLES + 1)
    return Paired(mean, float(low), float(high), p, len(differences), "bootstrap")


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's step-down correction: adjusted p-values in the given order; NaN (no test) stays NaN and does not count."""
    p = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(p), np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors)) if len(order) else []
    return adjusted
