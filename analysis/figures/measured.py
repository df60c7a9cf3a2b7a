"""Tables of measurements, benchmarks/*.csv, as the figures of them read them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd


def read_table(path: Path, needed: Sequence[str]) -> pd.DataFrame:
    """The measurements; ValueError with one line when the file is missing or lacks a column."""
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: no table of measurements ({type(error).__name__})") from None
    lacking = [name for name in needed if name not in table.columns]
    if lacking:
        raise ValueError(f"{path}: no column {', '.join(lacking)}")
    return table
