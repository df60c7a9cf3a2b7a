"""What is taken over from a questions.jsonl of an earlier run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evals.journal import Journal

ROWS = [{"doc_id": number, "prediction": "red", "error": None} for number in range(3)]


def written(folder: Path, *lines: str) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("".join(lines))
    return path


def line(row: dict, key: str = "k", end: str = "\n") -> str:
    return json.dumps({"key": key, **row}) + end


@pytest.mark.parametrize(
    "last",
    [
        pytest.param(line(ROWS[2])[:20], id="cut"),
        pytest.param(line(ROWS[2], end=""), id="without-its-end"),
        pytest.param(line(ROWS[2], key="other"), id="of-other-settings"),
        pytest.param(line({**ROWS[2], "error": "VideoError"}), id="an-error"),
        pytest.param("17\n", id="no-row"),
        pytest.param("\xff\n", id="no-json"),
    ],
)
def test_lines_that_are_not_taken_over(last: str, tmp_path: Path) -> None:
    path = written(tmp_path, line(ROWS[0]), line(ROWS[1]), last)
    journal = Journal(tmp_path, "k")
    assert list(journal.rows) == [0, 1]
    journal.append(ROWS[2])
    assert path.read_text() == "".join(map(line, ROWS))
    assert Journal(tmp_path, "k").rows == dict(enumerate(ROWS))


def test_a_new_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "cells" / "id", "k")
    assert journal.rows == {}
    assert not journal.path.exists()
