"""The published numbers, and that they stand only beside cells that ask the same."""

from __future__ import annotations

import pandas as pd
import pytest

from analysis.paper import SOURCE, beside, load_reference, to_markdown, write_beside


def cell(**changes: object) -> dict:
    base = {"label": "x", "suite": "longvideobench_val_v", "status": "done", "model": "checkpoint", "accuracy": 0.6}
    base |= {"low": 0.57, "high": 0.63, "attention": "nsa", "branches": "cmp+slc+swa", "gate_mode": "dynamic"}
    base |= {"block_count": 32, "window": 256, "frames": 256, "fps": None, "tokens_per_frame": 512}
    return base | changes


def test_the_file_is_whole_and_failed_runs_are_no_scores() -> None:
    table = load_reference()
    assert len(table) == 1127
    assert table["value"].isna().sum() == 3
    assert not ((table["value"] == 0) & table["metric"].isin(["overall", "accuracy"])).any()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {(1, 60.0), (2, 60.0), (3, 59.4), (7, 60.2), (22, 59.4)}),
        ({"block_count": 36, "window": 32}, {(30, 59.9)}),
        ({"block_count": 5, "window": 5}, set()),
        ({"branches": "cmp"}, {(2, 48.1)}),
        ({"attention": "dense", "label": "dense"}, {(1, 58.7), (3, 58.7), (7, 58.7)}),
        ({"attention": "dense", "label": "dense_nsa"}, {(3, 56.1)}),
        ({"attention": "dense", "label": "mine"}, set()),
        ({"model": "tiny"}, set()),
        ({"suite": "synth_needle"}, set()),
        ({"status": "failed"}, set()),
        ({"suite": "longtimescope", "gate_mode": "static"}, {(34, 41.5)}),
        ({"suite": "longtimescope", "block_count": 4, "window": 1900}, set()),
    ],
)
def test_only_the_same_question_is_matched(changes: dict, expected: set) -> None:
    pairs = beside(pd.DataFrame([cell(**changes)]))
    assert {(pair.table, pair.published) for pair in pairs.itertuples()} == expected


def test_they_are_labelled_as_published(tmp_path) -> None:
    rows = pd.DataFrame([cell()])
    text = to_markdown(beside(rows))
    assert SOURCE in text
    assert "| published |" in text
    assert len(write_beside(rows, tmp_path)) == 2
    assert write_beside(pd.DataFrame([cell(model="tiny")]), tmp_path) == []
