"""What a job does when Slurm interrupts it, and what sbatch hears; without Slurm, whose part is played."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from slurm import executor
from slurm.executor import Request, submit_slurm
from slurm.profile import ClusterError, SlurmProfile

CODE = """
import os, signal, sys
from slurm.executor import leave_when_told

def requeue(signum, frame):
    {answer}

signal.signal(signal.SIGUSR2, requeue)
leave_when_told()
try:
    os.kill(os.getpid(), signal.SIGUSR2)
except BaseException:
    print("caught")
print("went on")
"""


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        ("sys.exit(-1)", 255, ""),  # requeued: whatever catches SystemExit, nothing goes on
        ("raise OSError('no controller')", 0, "went on\n"),  # not requeued: Slurm decides when it ends
        ("return", 0, "went on\n"),  # a process beside the first one
    ],
)
def test_an_interrupted_job_ends_at_once_and_catches_nothing(answer: str, code: int, words: str):
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(answer=answer)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (code, words), done.stderr


SAVES = """
import os, signal, time
from slurm.executor import leave, leave_when_told

def requeue(signum, frame):
    print("requeued", flush=True)
    raise SystemExit(-1)

signal.signal(signal.SIGUSR2, requeue)
leave_when_told(saves_within={seconds})
heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append("told"))
os.kill(os.getpid(), signal.SIG{number})
print(*heard, flush=True)
time.sleep({busy})
print("saved", flush=True)
leave(on_slurm=False)
"""


@pytest.mark.parametrize(
    ("number", "seconds", "busy", "words"),
    [
        ("USR2", 60, 0, ["told", "saved", "requeued"]),  # once it has saved
        ("USR2", 0.2, 60, ["told", "requeued"]),  # or when there is no more time
        ("TERM", 60, 0, ["told", "saved"]),  # by whom it was told, he has it started again
    ],
)
def test_a_training_that_is_told_saves_before_it_goes(number: str, seconds: float, busy: float, words: list[str]):
    code = SAVES.format(number=number, seconds=seconds, busy=busy)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (255, words), done.stderr


@pytest.mark.parametrize(("seen", "place"), [("0,1", "1"), ("GPU-8932f937", "0")])
def test_tasks_on_several_nodes_meet_at_the_first(seen: str, place: str, monkeypatch: pytest.MonkeyPatch):
    """Whatever the shell of the user had set; a site may show each task its own GPU alone."""
    theirs = {"MASTER_ADDR": "elsewhere", "MASTER_PORT": "1", "RANK": "0", "WORLD_SIZE": "1"}
    theirs |= {"LOCAL_RANK": "7", "LOCAL_WORLD_SIZE": "8"}
    job = {"ID": "42", "NUM_NODES": "2", "NODELIST": "gpu[07-08]"}
    task = {"NTASKS": "4", "NODEID": "1", "PROCID": "3", "LOCALID": "1"}
    found = []
    for rank in ("3", "0"):
        told = {f"SLURM_{name}": value for name, value in (task | {"PROCID": rank}).items()}
        told |= {f"SLURM_JOB_{name}": value for name, value in job.items()}
        for name, value in (theirs | told | {"SUBMITIT_EXECUTOR": "slurm", "CUDA_VISIBLE_DEVICES": seen}).items():
            monkeypatch.setenv(name, value)
        assert executor.distributed_environment() == (int(rank), 4)
        assert executor.distributed_environment() == (int(rank), 4)  # asked twice
        found.append({name: os.environ[name] for name in theirs})
    last, first = found
    assert last == first | {"RANK": "3"}
    assert (last["MASTER_ADDR"], last["WORLD_SIZE"], last["LOCAL_RANK"]) == ("gpu07", "4", place)
    assert last["LOCAL_WORLD_SIZE"] == "2"
    assert last["MASTER_PORT"] != "1"


def test_sbatch_hears_the_profile_and_not_the_users_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, does in (("srun", "exit 0"), ("sbatch", f"env > {tmp_path}/heard; echo Submitted batch job 12")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    told = {"SBATCH_PARTITION": "theirs", "SBATCH_ACCOUNT": "usual", "SBATCH_TIMELIMIT": "1", "SLURM_CPU_BIND": "quiet"}
    told |= {
        "SLURM_JOB_ID": "7",
        "SLURM_CONF": "/etc/slurm.conf",
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    request = Request(SlurmProfile("site", partition="debug"), tmp_path / "jobs", "name")
    assert submit_slurm([print], request) == ["12"]
    heard = dict(line.partition("=")[::2] for line in (tmp_path / "heard").read_text().splitlines())
    kept = {"SBATCH_ACCOUNT", "SLURM_CONF"}  # the profile names no account
    assert {name for name in heard if name.startswith(("SBATCH_", "SLURM"))} == kept
    assert os.environ["SBATCH_PARTITION"] == "theirs"


def test_a_path_that_slurm_would_read_as_a_pattern_is_refused(tmp_path: Path):
    with pytest.raises(ClusterError, match="Slurm reads a % in a path as a pattern"):
        submit_slurm([print], Request(SlurmProfile("site"), tmp_path / "50%" / "jobs", "name"))
