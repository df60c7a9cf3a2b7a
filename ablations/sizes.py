"""How large the benchmarks are, known without the hub: what a comparison can show depends on it.

Counted or published by others, not by us; a record says how many questions there really were. Imports no torch.
"""

from __future__ import annotations

from typing import NamedTuple

from videonsa.config import SuiteSettings


class Size(NamedTuple):
    """Questions of a benchmark, and the videos that they are about; None: we found no count."""

    questions: int
    videos: int | None
    source: str


SIZES = {
    "longvideobench_val_v": Size(
        1337, 753, "card of longvideobench/LongVideoBench-Meta; different videos of lvb_val.json"
    ),
    "longtimescope": Size(450, None, "hub viewer of Apollo-LMMs/LongTimeScope"),
    "timescope": Size(1500, None, "hub viewer of Apollo-LMMs/TimeScope (1.5k)"),
    "mlvu_test": Size(502, 349, "questions of choice in MLVU/MLVU_Test, arXiv 2406.04264"),
    "tomato": Size(1484, 1417, "arXiv 2410.23266"),
    "vsibench": Size(5130, 288, "rows of nyu-visionx/VSI-Bench; its card, arXiv 2412.14171"),
    "lsdbench": Size(1304, 400, "lmms-eval's README of the task, arXiv 2503.12496"),
    "videoevalpro": Size(1289, None, "card of TIGER-Lab/VideoEval-Pro"),
}


def questions_of(suite: SuiteSettings) -> int | None:
    """How many questions a suite asks; None when it is the whole of a benchmark of unknown size."""
    from evals.suites import SUITES

    size = SIZES.get(suite.name)
    return suite.limit or SUITES[suite.name].questions or (size.questions if size else None)
