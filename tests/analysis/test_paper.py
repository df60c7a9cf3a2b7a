"""The published numbers, and that they stand only beside cells that ask the same."""

from __future__ import annotations

import pandas as pd
import pytest

from analysis.paper import SOURCE, beside, compared, load_reference, to_markdown, write_beside
from analysis.paper.questions import QWEN, VIDEONSA
from analysis.weights import OTHER, OWN_VIDEONSA, TWIN, weights_name
from videonsa.config import TrainSettings, to_dict

TIMESCOPE = {"suite": "timescope", "tokens_per_frame": 64, "max_new_tokens": 16}
LONGTIMESCOPE = {"suite": "longtimescope", "frames": 512, "tokens_per_frame": 128, "max_new_tokens": 16}
RECIPE = to_dict(TrainSettings(data="data/videonsa.jsonl", video_folder="data/videos"))


def cell(**changes: object) -> dict:
    base = {"label": "x", "suite": "longvideobench_val_v", "status": "done", "weights": VIDEONSA, "accuracy": 0.6}
    base |= {"low": 0.57, "high": 0.63, "attention": "nsa", "branches": "cmp+slc+swa", "gate_mode": "dynamic"}
    base |= {"block_size": 64, "block_count": 32, "window": 256, "gate_temperature": 0.3, "semantics": "release"}
    base |= {"frames": 256, "fps": 4.0, "tokens_per_frame": 512, "max_new_tokens": 32, "limit": None, "errors": 0}
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
        ({"attention": "dense", "weights": QWEN}, {(1, 58.7), (3, 58.7), (7, 58.7)}),
        ({"attention": "dense", "weights": f"{QWEN}-AWQ"}, {(1, 59.0), (7, 59.0)}),
        ({"attention": "dense", "weights": TWIN}, {(1, 57.8), (3, 57.8), (7, 57.8)}),
        ({"attention": "dense"}, {(3, 56.1)}),
        (
            {"attention": "dense", "block_size": 4, "gate_mode": "fixed", "weights": QWEN},
            {(1, 58.7), (3, 58.7), (7, 58.7)},
        ),
        ({"attention": "dense", "semantics": "paper", "weights": QWEN}, set()),  # the true time between patches
        ({"attention": "dense", "label": "dense", "weights": "me/model"}, set()),
        ({"weights": None}, set()),
        ({"weights": QWEN}, set()),
        ({"weights": OTHER}, set()),
        ({"weights": OWN_VIDEONSA}, {(1, 60.0), (2, 60.0), (3, 59.4), (7, 60.2), (22, 59.4)}),
        ({"suite": "synth_needle"}, set()),
        ({"status": "failed"}, set()),
        ({"block_size": 128}, set()),
        ({"semantics": "paper"}, set()),
        ({"semantics": "release-cmp_mask"}, set()),
        ({"gate_mode": "fixed"}, set()),
        ({"gate_temperature": 1.0}, set()),
        ({"branches": "slc+swa", "block_count": 16}, set()),
        ({"limit": 100}, set()),
        ({"frames": 32}, set()),
        ({"fps": 2.0}, set()),
        ({"task": "longvideobench_val_v"}, {(1, 60.0), (2, 60.0), (3, 59.4), (7, 60.2), (22, 59.4)}),
        ({"task": "mine"}, set()),
        ({"fps": None}, set()),
        ({"max_new_tokens": 5}, set()),
        ({"tokens_per_frame": 128}, {(22, 58.7)}),
        ({"tokens_per_frame": 128, "block_count": 36, "window": 32}, set()),
        (LONGTIMESCOPE | {"gate_mode": "static"}, {(34, 41.5)}),
        (LONGTIMESCOPE | {"block_count": 4, "window": 1900}, set()),  # a failed run
        ({"suite": "lsdbench", "max_new_tokens": 2048}, set()),
        (TIMESCOPE | {"frames": 512}, {(21, 78.5), (27, 78.5)}),
        (TIMESCOPE | {"frames": 512, "weights": QWEN, "attention": "dense"}, {(26, 80.33)}),
        # Of the other benchmarks tables 26 and 27 do not say how they split a context.
        ({"frames": 512, "tokens_per_frame": 64}, {(22, 57.7)}),
    ],
)
def test_only_the_same_question_is_matched(changes: dict, expected: set) -> None:
    pairs, reasons = compared(pd.DataFrame([cell(**changes)]))
    assert {(pair.table, pair.published) for pair in pairs.itertuples()} == expected
    silent = changes.get("suite") == "synth_needle" or changes.get("status") == "failed"
    assert len(reasons) == (0 if expected or silent else 1)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"frames": 32}, "asked 32 frames; the paper 256 frames"),
        ({"task": "mine"}, "asked the task mine; the paper the task longvideobench_val_v"),
        ({"limit": 4}, "asked the first 4 questions; the paper all questions"),
        ({"semantics": "paper"}, "asked semantics paper; the paper semantics release"),
        ({"fps": None}, "asked no number of frames a second; the paper 4 frames a second"),
        ({"weights": None}, f"asked weights of no known name; the paper {VIDEONSA}"),
        ({"suite": "lsdbench"}, "the paper does not say how it samples this benchmark's videos"),
        (
            TIMESCOPE | {"frames": 64, "limit": 4},
            "asked 64 frames, the first 4 questions; the paper 2,048 frames, all questions",
        ),
    ],
)
def test_a_cell_beside_no_number_says_why_not(changes: dict, reason: str) -> None:
    (told,) = compared(pd.DataFrame([cell(**changes)]))[1]["reason"]
    assert told == reason


def test_what_to_know_of_a_pair_stands_beside_it() -> None:
    note = beside(pd.DataFrame([cell(weights=OWN_VIDEONSA, errors=3)]))["note"][0]
    assert note == (
        "trained here, by the paper's recipe; 3 of our questions ended in an error; "
        "the paper disagrees with itself: 59.4 to 60.2"
    )


@pytest.mark.parametrize(
    ("train", "name"),
    [
        ({"checkpoint": VIDEONSA}, VIDEONSA),  # of an older record
        ({"checkpoint": "/data/copy", "name": VIDEONSA, "nsa": {}}, VIDEONSA),
        ({"checkpoint": "/data/copy", "name": None, "nsa": {}}, None),
        (to_dict(TrainSettings(steps=3)), OTHER),
        (RECIPE, OTHER),  # the paper's semantics: not what the published numbers were made with
        (RECIPE | {"nsa": {"attention": "dense"}}, TWIN),
        (RECIPE | {"nsa": {"semantics": "release"}, "micro_batch_size": 4}, OWN_VIDEONSA),
        (RECIPE | {"nsa": {"attention": "dense"}, "max_tokens": 19_024}, TWIN),
        (RECIPE | {"nsa": {"attention": "dense"}, "max_tokens": 8_000}, OTHER),
        (RECIPE | {"nsa": {"attention": "dense"}, "steps": 100}, OTHER),
        (RECIPE | {"nsa": {"attention": "dense"}, "model": "Qwen/Qwen2.5-VL-3B-Instruct"}, OTHER),
    ],
)
def test_weights_have_the_name_of_what_they_are(train: dict, name: str | None) -> None:
    assert weights_name(train) == name


def test_they_are_labelled_as_published(tmp_path) -> None:
    rows = pd.DataFrame([cell()])
    text = to_markdown(beside(rows))
    assert SOURCE in text
    assert "| published |" in text
    assert len(write_beside(rows, tmp_path)) == 2
    assert write_beside(pd.DataFrame([cell(suite="synth_order")]), tmp_path) == []
    assert not list(tmp_path.iterdir())  # none of another time stays
    write_beside(pd.DataFrame([cell(limit=4)]), tmp_path)
    assert (
        "- x, longvideobench_val_v: asked the first 4 questions; the paper all"
        in (tmp_path / "published.md").read_text()
    )
    assert len((tmp_path / "published.csv").read_text().splitlines()) == 1
