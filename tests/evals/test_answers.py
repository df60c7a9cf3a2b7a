"""Every answer once, whoever gives it and whenever it is killed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from evals.answers import Answers
from videonsa.disk import DiskError

ROOT = Path(__file__).parents[2]
ROW = {"prediction": "red", "error": None}
BROKEN = {"prediction": None, "error": "VideoError: broken"}
VIDEOS, VARIANTS = 20, ("a", "b", "c")


def lines(folder: Path) -> list[dict]:
    """All whole lines of all files but their heads."""
    texts = [path.read_text().split("\n")[1:-1] for path in sorted(folder.glob("*.jsonl"))]
    return [json.loads(line) for text in texts for line in text]


def test_what_one_adds_another_reads(tmp_path: Path) -> None:
    one, other = Answers(tmp_path, {"gpu": "H100"}), Answers(tmp_path)
    one.add("k", "q0", ROW)
    assert one.settled("k", "q0")
    assert not other.settled("k", "q0")
    other.read()
    assert other.settled("k", "q0")
    assert not other.settled("k2", "q0")
    row = other.rows["k", "q0"]
    assert {name: row[name] for name in ROW} == ROW
    assert other.writers[row["by"]] == {"gpu": "H100"}
    other.add("k", "q1", ROW)
    one.read()
    assert one.settled("k", "q1")
    assert sorted(line["question"] for line in lines(tmp_path)) == ["q0", "q1"]


def test_an_error_is_asked_again_by_the_next_attempt_alone(tmp_path: Path) -> None:
    Answers(tmp_path, attempt="first").add("k", "q", BROKEN)
    assert Answers(tmp_path, attempt="first").settled("k", "q")
    second = Answers(tmp_path, attempt="second")
    assert not second.settled("k", "q")
    second.add("k", "q", ROW)
    assert Answers(tmp_path, attempt="first").rows["k", "q"]["prediction"] == "red"
    assert Answers(tmp_path, attempt="second").settled("k", "q")
    Answers(tmp_path, attempt="third").add("k", "q", BROKEN)
    assert Answers(tmp_path, attempt="third").rows["k", "q"]["prediction"] == "red", "an answer stands"


DAMAGED = (
    *('{"key": "k", "question": "q1", "pre', '{"key": "k"}\n', "17\n", "\xff\n", "\n"),
    *("\0" * 50 + "\n", "[" * 99999 + "\n"),
    *('{"key": ["k"], "question": "q1", "error": null, "prediction": "red"}\n', '{"about": 1, "error": null}\n'),
    *('{"key": "k", "question": "q1", "error": null}\n', '{"key": "k", "question": "q1", "error": "no attempt"}\n'),
)


@pytest.mark.parametrize("end", DAMAGED, ids=range(len(DAMAGED)))
def test_what_is_no_answer_is_passed_over(end: str, tmp_path: Path) -> None:
    Answers(tmp_path).add("k", "q0", ROW)
    (path,) = tmp_path.glob("*.jsonl")
    with open(path, "a") as file:
        file.write(end)
    again = Answers(tmp_path)
    assert list(again.rows) == [("k", "q0")]
    again.add("k", "q1", ROW)
    assert set(Answers(tmp_path).rows) == {("k", "q0"), ("k", "q1")}


def test_a_line_that_is_half_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    reader = Answers(tmp_path)
    line = json.dumps({"key": "k", "question": "q", **ROW}) + "\n"
    path = tmp_path / "other.jsonl"
    for part in (line[:9], line[9:-1]):
        with open(path, "a") as file:
            file.write(part)
        reader.read()
        assert not reader.rows
    with open(path, "a") as file:
        file.write("\n")
    reader.read()
    assert reader.settled("k", "q")


def test_after_a_write_that_failed_a_file_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(tmp_path)
    answers.add("k", "q0", ROW)
    (path,) = tmp_path.glob("*.jsonl")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", full)
        with pytest.raises(DiskError):
            answers.add("k", "q1", ROW)
    with open(path, "a") as file:
        file.write('{"key": "k", "qu')  # what got there
    answers.add("k", "q1", ROW)
    assert set(Answers(tmp_path).rows) == {("k", "q0"), ("k", "q1")}


def test_one_process_at_a_time_asks_about_a_video(tmp_path: Path) -> None:
    one, other = Answers(tmp_path), Answers(tmp_path)
    with one.claimed("video") as mine, other.claimed("video") as theirs, other.claimed("another") as free:
        assert mine is not None
        assert theirs is None
        assert free is not None
        one.add("k", "q", ROW)
    with other.claimed("video") as theirs:
        assert theirs is not None
        assert other.settled("k", "q"), "the claim comes with what was answered before"


WORKER = """
import sys, time
from pathlib import Path
from evals.answers import Answers
answers = Answers(Path(sys.argv[1]))
for wait in (False, True):
    for video in range(int(sys.argv[2])):
        with answers.claimed(f"v{video}", wait) as claim:
            for key in sys.argv[3:] if claim else ():
                if not answers.settled(key, f"q{video}"):
                    time.sleep(0.01)
                    claim.check()
                    answers.add(key, f"q{video}", {"prediction": key, "error": None})
"""


def test_processes_killed_at_any_time_give_every_answer_once(tmp_path: Path) -> None:
    """kill -9 at random, three at first, each succeeded by none, one or two."""
    chance = random.Random(7)

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", WORKER, str(tmp_path), str(VIDEOS), *VARIANTS]
        return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)

    running, killed = [start() for _ in range(3)], 0
    while killed < 6 and len(lines(tmp_path)) < len(VARIANTS) * VIDEOS:
        time.sleep(chance.uniform(0, 0.05))
        if any(tmp_path.glob("*.jsonl")):
            victim = running.pop(chance.randrange(len(running)))
            killed += victim.poll() is None
            victim.kill()
            victim.communicate()
            running += [start() for _ in range(chance.choice((0, 1, 2) if running else (1, 2)))]
    assert killed
    for process in running:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    wanted = {(key, f"q{video}"): 1 for key in VARIANTS for video in range(VIDEOS)}
    assert Counter((line["key"], line["question"]) for line in lines(tmp_path)) == wanted
    assert set(Answers(tmp_path).rows) == set(wanted)
