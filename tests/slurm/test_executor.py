"""What a job does when Slurm interrupts it, without Slurm: the handler that submitit sets is played."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
