"""What a score is averaged over, and how sure such a mean is: questions about videos, asked of one training or several.

Seeds x questions are a crossed layout with random effects, as readers x cases are in reader studies. docs/analysis.md
says how, and how well intervals cover.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import special  # not scipy.stats: it takes more than a second to import; tests compare with it

Names = Sequence[Any] | np.ndarray
Ends = tuple[float, float]
SAME = 1e-9  # scores that differ by less are one score


@dataclass(frozen=True)
class Sample:
    """Answered questions: what is averaged, over which kinds, about which videos."""

    values: np.ndarray  # [questions] scores, or differences of two
    kind: np.ndarray  # [questions] number of its kind
    video: np.ndarray  # [questions] number of its video
    shares: np.ndarray  # [kinds], sum 1
    relative: np.ndarray  # [questions] what each counts beside others of its kind, 1 on average
    place: np.ndarray  # [questions] where it stands among those that were asked

    @cached_property
    def counts(self) -> np.ndarray:
        """[kinds] questions."""
        return np.bincount(self.kind)

    @cached_property
    def weights(self) -> np.ndarray:
        """[questions] what each counts, in sum 1."""
        return (self.shares / self.counts)[self.kind] * self.relative

    @cached_property
    def means(self) -> np.ndarray:
        """[kinds]"""
        return np.bincount(self.kind, self.relative * self.values) / self.counts

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
    def together(self) -> float:
        """The mean's variance with videos as the draws, to first order (Taylor); not corrected for their number."""
        return float((self.by_video(self.values - self.means[self.kind]) ** 2).sum()) / len(self.values) ** 2

    @cached_property
    def _squares(self) -> np.ndarray:
        """[kinds] sums of squared distances from the kind's mean; exactly 0 where all are the SAME."""
        least, most = np.full((2, len(self.shares)), np.inf) * [[1], [-1]]
        np.minimum.at(least, self.kind, self.values)
        np.maximum.at(most, self.kind, self.values)
        squares = (self.relative * (self.values - self.means[self.kind])) ** 2
        return np.where(most - least < SAME, 0.0, np.bincount(self.kind, squares))

    def alone(self, corrected: bool) -> float:
        """The mean's variance with questions as the draws. `corrected`: not biased; kinds of one question show none."""
        n = np.maximum(1, self.counts - 1) if corrected else self.counts
        return float((self.shares**2 * self._squares / (self.counts * n)).sum())

    @property
    def error(self) -> float:
        """Standard error by video, equation 4 of Miller (arXiv 2411.00640); for a plain mean it is lmms-eval's."""
        more = self.alone(True) - self.alone(False)
        return float(np.sqrt(self.together + more)) if len(self.values) > 1 else np.nan

    @property
    def same(self) -> float:
        """So many videos of the same weight would count as much."""
        return 1 / float((self.by_video(np.ones_like(self.values)) ** 2).sum()) * len(self.values) ** 2

    @property
    def design_effect(self) -> float:
        """How much larger the variance is with videos as the draws, at least 1 (Korn and Graubard, 1998)."""
        alone = self.alone(True)
        return max(1.0, self.together * self.videos / (self.videos - 1) / alone) if alone else 1.0


@dataclass(frozen=True)
class Crossed:
    """The same questions under several seeds of the training, or under one; the number is the mean over seeds."""

    seeds: tuple[Sample, ...]
    questions: Sample  # each question's mean over the seeds that answered it

    @cached_property
    def mean(self) -> float:
        return float(np.mean([seed.mean for seed in self.seeds]))

    @cached_property
    def square(self) -> float:
        """Mean of the squared values."""
        return float(np.mean([seed.weights @ seed.values**2 for seed in self.seeds]))

    @property
    def whole(self) -> bool:
        return all(seed.whole for seed in self.seeds)

    @property
    def seed_part(self) -> float:
        """The mean's variance with seeds as the draws: MS_seeds / (seeds x questions) of the analysis of variance."""
        return float(np.var([seed.mean for seed in self.seeds], ddof=1)) / len(self.seeds) if self.seeds[1:] else 0.0

    @property
    def error(self) -> float:
        """Standard error: `Sample.error` of the questions' means, and the seeds' part."""
        return float(np.hypot(self.questions.error, np.sqrt(self.seed_part)))

    def question_number(self, variance: float, ends: Ends) -> float:
        """As many independent questions, each of this variance, as would make the mean as sure as it is.

        Korn and Graubard (1998), with a design effect of at least 1. A sample that does not show its variance (one
        video, or all scores the same) counts each video as one question. Answers of several seeds to one question
        are `alike` from 1 / seeds (independent) to 1 (the same): for that, two questions are added that all seeds
        answer alike, one at each of the `ends` of what a value can be, as rare errors show little of it.
        """
        one = float(np.mean([seed.alone(False) for seed in self.seeds]))
        if self.questions.videos == 1 or one == 0:
            return self.questions.same
        added = sum((end - self.mean) ** 2 for end in ends) * float((self.questions.weights**2).mean())
        alike = (self.questions.alone(False) + added) / (one + added)
        return variance / one / self.questions.design_effect / max(alike, 1 / len(self.seeds))

    @property
    def question_freedom(self) -> float:
        """Degrees of freedom of the questions' part; of right/wrong scores by question the variance needs no t."""
        return np.inf if not self.questions.clustered and self.whole else self.questions.same - 1

    def sureness(self, variance: float, ends: Ends) -> tuple[float, float]:
        """(effective number of questions, degrees of freedom) of the mean over the choice of questions and of seeds.

        Variance = questions' part + seeds' part, with Satterthwaite's (1946) degrees of freedom. The textbook's
        estimator (Cornfield and Tukey, 1956) also subtracts the interaction's part, which both hold: it is unbiased,
        but with two or three seeds often says nearly nothing of a seed effect that is there. Without it the variance is
        never too small on average, and never below the questions' alone.
        """
        number, freedom = self.question_number(variance, ends), self.question_freedom
        if not self.seed_part or self.questions.videos == 1:
            return number, freedom
        by_questions = variance / number
        whole = by_questions + self.seed_part
        squares = by_questions**2 / freedom + self.seed_part**2 / (len(self.seeds) - 1)
        return variance / whole, whole**2 / squares

    def effective_number(self, variance: float, ends: Ends, level: float) -> float:
        """`sureness` as a number of questions for a normal interval: few videos or seeds leave the variance uncertain,
        so Student's t stands for the normal."""
        number, freedom = self.sureness(variance, ends)
        return (
            number if np.isinf(freedom) else number * (normal_quantile(level) / student_quantile(level, freedom)) ** 2
        )


def crossed(
    values: np.ndarray, videos: Names | None, kinds: Names | None, shares: Mapping[str, float] | None
) -> Crossed | None:
    """Of values [questions] or [seeds, questions]; NaN was not answered. None when no seed has any that counts."""
    rows = np.atleast_2d(values)
    seeds = tuple(one for row in rows if (one := _sample(row, videos, kinds, shares)) is not None)
    if len(seeds) < 2:
        return Crossed(seeds, seeds[0]) if seeds else None
    answered = _sample(np.where(np.isnan(rows).all(axis=0), np.nan, 0.0), videos, kinds, shares)
    assert answered is not None
    weights, sums = np.zeros((2, len(seeds), rows.shape[1]))
    for seed, weight, total in zip(seeds, weights, sums, strict=True):
        weight[seed.place], total[seed.place] = seed.weights, seed.weights * seed.values
    weight, total = (of.mean(axis=0)[answered.place] for of in (weights, sums))
    of_kinds = np.bincount(answered.kind, weight)
    relative = (weight / (of_kinds / answered.counts)[answered.kind]).round(12)  # 1 where all seeds answered all
    return Crossed(seeds, dataclasses.replace(answered, values=total / weight, shares=of_kinds, relative=relative))


def _sample(
    values: np.ndarray, videos: Names | None, kinds: Names | None, shares: Mapping[str, float] | None
) -> Sample | None:
    """The answered questions that count; None when there is none."""
    named = [None] * len(values) if kinds is None or not shares else list(kinds)
    weights: Mapping[Any, float] = shares if kinds is not None and shares else {None: 1.0}
    counts = [not np.isnan(number) and weights.get(kind, 0) > 0 for number, kind in zip(values, named, strict=True)]
    here = np.flatnonzero(counts)
    if not len(here):
        return None
    order: dict[Any, int] = {}
    kind = np.array([order.setdefault(named[place], len(order)) for place in here])
    share = np.array([weights[name] for name in order], dtype=float)
    ids: dict[Any, int] = {}
    names = [None] * len(values) if videos is None else list(videos)
    video = [ids.setdefault(names[place] if isinstance(names[place], str) else place, len(ids)) for place in here]
    return Sample(values[here], kind, np.array(video), share / share.sum(), np.ones(len(here)), here)


def normal_quantile(level: float) -> float:
    return float(special.ndtri((1 + level) / 2))


def student_quantile(level: float, freedom: float) -> float:
    return float(special.stdtrit(freedom, (1 + level) / 2)) if freedom > 1e-9 else np.inf
