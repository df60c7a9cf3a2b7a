"""The standard error of a number is lmms-eval's; here, where lmms-eval is imported anyway."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lmms_eval.api.metrics import clustered_stderr

from analysis.stats import estimate

asked = st.lists(st.tuples(st.booleans(), st.sampled_from("abcdefgh")), min_size=2, max_size=80)


@given(asked)
@settings(deadline=None)
def test_the_standard_error_is_lmms_evals(questions: list[tuple[bool, str]]) -> None:
    scores, videos = [float(right) for right, _ in questions], [video for _, video in questions]
    # Its sum of a difference of squares may end a hair below 0, and then has no root.
    known = clustered_stderr(scores, videos) if np.ptp(scores) else 0.0
    assert estimate(scores, videos).error == pytest.approx(known, abs=1e-9)
