"""What is taken over from a questions.jsonl of an earlier run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evals.journal import Journal

ROWS = [{"doc_id": number, "asked": f"q{number}", "prediction": "red", "error": None} for number in range(3)]


def journal_of(folder: Path, *shown: str) -> Journal:
    """The journal of questions that show this."""
    return Journal(folder, "k", lambda: dict(enumerate(shown or ("q0", "q1", "q2"))))


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
    journal = journal_of(tmp_path)
    assert list(journal.rows) == [0, 1]
    journal.append(ROWS[2])
    assert path.read_text() == "".join(map(line, ROWS))
    assert journal_of(tmp_path).rows == dict(enumerate(ROWS))


def test_a_new_journal(tmp_path: Path) -> None:
    journal = journal_of(tmp_path / "cells" / "id")
    assert journal.rows == {}
    assert not journal.path.exists()


def test_answers_are_those_of_the_same_question(tmp_path: Path) -> None:
    path = written(tmp_path, *map(line, ROWS))
    journal = journal_of(tmp_path, "q2", "changed", "q0", "q2")
    assert {doc: row["asked"] for doc, row in journal.rows.items()} == {0: "q2", 2: "q0", 3: "q2"}
    assert [json.loads(text)["doc_id"] for text in path.read_text().splitlines()] == [0, 2, 3]


def test_what_questions_show_is_not_looked_up_for_nothing(tmp_path: Path) -> None:
    def never() -> dict:
        raise AssertionError

    written(tmp_path, line(ROWS[0], key="other"))
    assert Journal(tmp_path, "k", never).rows == {}
