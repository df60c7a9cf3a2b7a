"""What Slurm's clients print, read."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from ablations.jobs import Job
from ablations.slurm_jobs import Submitted, error_of, latest, state_of
from ablations.slurm_submit import batches
from slurm import queue
from slurm.queue import JobState, QueueAway, expand, job_states, kilobytes, parse_sacct

PLAIN = SimpleNamespace(gates=None)  # as much of a training as the order of jobs asks for
SACCT = """\
12_0|COMPLETED|n1||8G|None|0:0
12_0.batch|COMPLETED|n1|900K||
12_0.0|COMPLETED|n1|2.5G||
12_[1-3,7%4]|PENDING|None assigned||8G|Resources
13|CANCELLED by 1000|n2||8G|None
14|OUT_OF_MEMORY|n2||8G|None
14.0|OUT_OF_MEMORY|n2|8388608K||
"""


def test_sacct_is_read():
    states = parse_sacct(SACCT)
    assert set(states) == {"12_0", "12_1", "12_2", "12_3", "12_7", "13", "14"}
    assert states["12_0"] == JobState("COMPLETED", "n1", "2.5G", "8G", "None", "0:0")
    assert states["12_7"].active
    assert states["12_7"].reason == "Resources"
    assert states["13"].state == "CANCELLED"
    assert states["14"].out_of_memory
    assert not states["12_0"].out_of_memory


@pytest.mark.parametrize(
    ("text", "ids"), [("7", ["7"]), ("7_3", ["7_3"]), ("7_[0-1,4]", ["7_0", "7_1", "7_4"]), ("7_[2%1]", ["7_2"])]
)
def test_array_ids_are_expanded(text: str, ids: list[str]):
    assert expand(text) == ids


def test_sizes_compare():
    assert kilobytes("2.5G") > kilobytes("900M") > kilobytes("512000K") > kilobytes("") == 0


def test_one_call_each_however_many_jobs(monkeypatch: pytest.MonkeyPatch):
    calls = []

    def ask(*command: str) -> str:
        calls.append(command[0])
        return "" if command[0] == "squeue" else SACCT

    monkeypatch.setattr(queue, "_ask", ask)
    monkeypatch.setattr(queue, "LAG_TRIES", 0)
    states = job_states([f"12_{number}" for number in range(1000)])
    assert calls == ["squeue", "sacct"]
    assert states["12_0"].state == "COMPLETED"
    assert "13" not in states


def test_no_answer_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(queue, "_ask", lambda *_: None)
    with pytest.raises(QueueAway):
        job_states(["12"])
    assert job_states([]) == {}


def submitted(number: str, name: str, time: float = 0.0, cells: tuple[str, ...] = ("a",)) -> Submitted:
    return Submitted(number, name, "evaluate", "t", cells, None, time)


def test_a_job_that_slurm_forgot_is_lost():
    assert state_of(submitted("12", "x"), {}).state == "LOST"
    assert not state_of(submitted("12", "x"), {}).active


def test_only_the_last_submission_of_a_cell_counts():
    first, second = submitted("1", "x", cells=("a", "b")), submitted("2", "x", cells=("a",))
    assert [job.id for job in latest([first, second], {})] == ["2", "1"]
    assert [job.id for job in latest([first, submitted("3", "x", cells=("a", "b"))], {})] == ["3"]


def test_of_jobs_that_shared_a_cell_the_one_that_failed_says_why_it_has_no_record():
    jobs = [submitted("1", "x"), submitted("2", "y"), submitted("3", "z")]
    states = {"1": JobState("COMPLETED"), "2": JobState("NODE_FAIL"), "3": JobState("COMPLETED")}
    assert [job.id for job in latest(jobs, states)] == ["2"]


@pytest.mark.parametrize(
    ("state", "kind", "says"),
    [
        (JobState("CANCELLED"), "Cancelled", "it was cancelled"),
        (JobState("NODE_FAIL", node="n7"), "WorkerDied", "its node n7 failed"),
        (JobState("FAILED", memory="9G", asked="8G"), "OutOfMemory", "used 9G of 8G"),
        (JobState("TIMEOUT"), "WorkerDied", "time limit"),
        (JobState("FAILED", node="n7", exit="0:53"), "NotShared", "n7 does not see .*: give --out a folder on"),
        (JobState("FAILED", node="n7", exit="66:0"), "NotShared", "n7 does not see .*: give --out a folder on"),
        (JobState("LOST"), "WorkerDied", "is .* on a file system that the nodes share"),
    ],
)
def test_how_a_job_ended_is_said(state: JobState, kind: str, says: str, tmp_path: Path):
    error = error_of(submitted("12", "evaluate-1"), state, tmp_path)
    assert error["type"] == kind
    import re

    assert re.search(says, error["message"])


def jobs(kind: str, count: int, after: bool) -> list[Job]:
    return [Job(f"{kind}-{n}", kind, PLAIN, after=f"train-{n}" if after else None) for n in range(count)]  # type: ignore[arg-type]


def test_a_thousand_cells_take_few_calls():
    one = [*jobs("train", 1, False), *[Job(f"e{n}", "evaluate", PLAIN, after="train-0") for n in range(1000)]]  # type: ignore[arg-type]
    assert len(batches(one, 1000)) == 2
    many = [*jobs("train", 1000, False), *jobs("evaluate", 1000, True), *jobs("probe", 1000, True)]
    made = batches(many, 1000)
    assert [(batch[0].kind, len(batch), after) for batch, after in made] == [
        ("train", 1000, False),
        ("evaluate", 1000, True),
        ("probe", 1000, True),
    ]
    for batch, after in made[1:]:
        assert after
        assert [job.after for job in batch] == [job.name for job in made[0][0]]


def test_arrays_are_split_at_the_sites_limit():
    made = batches([*jobs("train", 150, False), *jobs("evaluate", 150, True)], 64)
    assert [len(batch) for batch, _ in made] == [64, 64, 22, 64, 64, 22]
    assert [job.after for job in made[4][0]] == [job.name for job in made[1][0]]
