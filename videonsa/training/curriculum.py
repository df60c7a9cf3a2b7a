"""How long the synthetic videos of each step are, and how many it shows: stages, shortest first."""

from __future__ import annotations

from itertools import accumulate

import numpy as np

from videonsa.config import TrainSettings
from videonsa.synth.hashing import Draws

EARLIER = 1  # of random streams: which steps show an earlier length


class Curriculum:
    """The steps of a run with `steps`, `frames`, `frame_shares`, `frame_batches` and `earlier` of these settings."""

    def __init__(self, settings: TrainSettings) -> None:
        assert settings.steps is not None
        self.settings, self.steps = settings, settings.steps
        lengths = sorted(settings.frames)
        shares = settings.frame_shares or (1.0,) * len(lengths)
        self.lengths = lengths
        self.ends = [round(self.steps * end / sum(shares)) for end in accumulate(shares)]  # of stages, steps
        sizes = settings.frame_batches or (settings.batch_size,) * len(lengths)
        each = [sizes[self._stage(step)] for step in range(self.steps)]
        self.bounds = np.concatenate([[0], np.cumsum(each)])  # of the steps' samples

    def batch(self, step: int) -> range:
        """The numbers of a step's samples."""
        return range(int(self.bounds[step]), int(self.bounds[step + 1]))

    def step_of(self, index: int) -> int:
        """The step that shows a sample."""
        return int(np.searchsorted(self.bounds, index, side="right")) - 1

    def frames(self, step: int) -> int:
        """Of each of its videos."""
        return self.lengths[self._stage(step)]

    def _stage(self, step: int) -> int:
        """That of the step, or for some steps an earlier one."""
        stage = next(stage for stage, end in enumerate(self.ends) if step < end)
        if not self.settings.earlier or not stage:
            return stage
        draws = Draws(self.settings.seed, step, EARLIER)
        return draws.integers(0, stage) if draws.integers(0, 1 << 20) < self.settings.earlier * (1 << 20) else stage
