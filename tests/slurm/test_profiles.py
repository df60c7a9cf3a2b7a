"""Slurm profiles: each gives the sbatch script that is kept beside this file; wrong ones are one line. No Slurm needed.

To renew the scripts after a wanted change: python -m tests.slurm.test_profiles
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ablations.profile import profile_names
from ablations.run import load_profiles
from slurm.executor import Request, slurm_executor, submit_slurm
from slurm.profile import ClusterError, changed, load_slurm_profile, make_slurm_profile, slurm_profile_names

GOLDEN = Path(__file__).parent / "golden"
CASES = [(name, kind) for name in slurm_profile_names() for kind in ("train", "evaluate")]


def script(name: str, kind: str) -> str:
    """The script that sbatch would be given, with this machine's paths and the job's random id taken out."""
    folder = Path("/tmp/shared/runs/jobs")
    dependency = "afterok:42" if kind == "evaluate" else None
    profile = load_slurm_profile(name)
    request = Request(
        profile, folder, "tiny-budget", whole_node=kind == "train", dependency=dependency, code=Path("/shared/code")
    )
    executor = slurm_executor(request)
    text = executor._make_submission_file_text(executor._submitit_command_str, "id")
    return text.replace(executor.python, "PYTHON") + "\n"


@pytest.fixture
def login_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on whose PATH Slurm's commands are."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("sbatch", "srun", "sinfo", "squeue", "sacct"):
        (commands / name).write_text("#!/bin/sh\nexit 0\n")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return commands


def answer(commands: Path, name: str, shell: str) -> None:
    (commands / name).write_text(f"#!/bin/sh\n{shell}\n")


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_script_of_a_profile_is_the_kept_one(name: str, kind: str, login_node: Path):
    assert script(name, kind) == (GOLDEN / f"{name}-{kind}.sh").read_text()


def test_profiles_of_scale_and_of_slurm_have_names_apart():
    assert not set(profile_names()) & set(slurm_profile_names())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"partitions": "gpu"}, "unknown key 'partitions'; known keys: partition, account, qos, constraint, nodes"),
        ({"gpus_per_node": "8"}, "gpus_per_node='8' is not valid: a whole number of at least 0"),
        ({"minutes": 0}, "minutes=0 is not valid: a whole number of at least 1"),
        ({"memory": "much"}, "memory='much' is not valid: GB, a number above 0"),
        ({"partition": 3}, "partition=3 is not valid: a name"),
        ({"environment": "A=1"}, "environment: expected a mapping of variables to values"),
        ({"environment": {"A": None}}, "environment: A=None is not valid: a variable and its text"),
        ({"environment": {"A B": "1"}}, "environment: A B=.1. is not valid: a variable and its text"),
        ({"setup": [["a"]]}, "setup=.* is not valid: a line of shell, or a list of lines"),
        ({"modules": {"a": 1}}, "modules=.* is not valid: a name, or a list of names"),
        ({"modules": "cuda/13.0 gcc"}, "modules=.* is not valid: a name, or a list of names"),
        ({"partition": ""}, "partition='' is not valid: a name"),
        ({"memory": 1e-9}, "memory=1e-09 is not valid: GB"),  # 0 MB is all there is
        ({"memory": True}, "memory=True is not valid: GB"),
        ({"minutes": 1.5}, "minutes=1.5 is not valid: a whole number of at least 1, or a time as sbatch takes it"),
        ({"minutes": "12h"}, "minutes='12h' is not valid"),
        ({"minutes": "1:2:3:4"}, "minutes='1:2:3:4' is not valid"),
        ({"minutes": "0:00"}, "minutes=0 is not valid"),
        ({"mem": 4}, r"unknown key 'mem'; .*; did you mean memory\?"),
        (["partition"], "expected a mapping with some of partition"),
    ],
)
def test_a_wrong_profile_is_one_line(content: object, message: str):
    with pytest.raises(ClusterError, match=message) as caught:
        make_slurm_profile("mine", content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("written", "minutes"),
    [
        *[("90", 90), ("090", 90), ("'90'", 90), ("90.0", 90), ("90:00", 90), ("90:01", 91), ("0:30", 1)],
        *[("12:00:00", 720), ("02:00:00", 120), ("0:90:00", 90), ("1-0", 1440), ("1-12", 2160), ("1-12:30", 2190)],
        *[("2-00:00:01", 2881), ("0-0:0:1", 1)],
    ],
)
def test_a_time_is_read_as_sbatch_reads_it(written: str, minutes: int, tmp_path: Path):
    (tmp_path / "site.yaml").write_text(f"minutes: {written}\n")
    assert load_slurm_profile(str(tmp_path / "site.yaml")).minutes == minutes


def test_what_a_profile_means_as_text_is_as_it_was_written(tmp_path: Path):
    text = "account: 007\nqos: 99999999999999999999\npartition: 1e3\nmodules: [3.10, cuda/13.0]\nsetup: true\n"
    (tmp_path / "site.yaml").write_text(text + "environment: {PORT: 010, RATE: 1.10, FLAG: yes, ON: true, NONE: ''}\n")
    profile = load_profiles([str(tmp_path / "site.yaml")])[1]
    assert profile is not None
    assert profile.qos == "99999999999999999999"
    assert (profile.account, profile.partition, profile.setup) == ("007", "1e3", ("true",))
    assert profile.modules == ("3.10", "cuda/13.0")
    assert profile.environment == {"PORT": "010", "RATE": "1.10", "FLAG": "yes", "ON": "true", "NONE": ""}
    (tmp_path / "site.yaml").write_text("cpus: 1\ncpus: 2\n")
    with pytest.raises(ClusterError, match=r"site.yaml: line 2: cpus stands twice, first in line 1"):
        load_slurm_profile(str(tmp_path / "site.yaml"))


def test_a_profile_can_be_changed_for_once():
    profile = load_slurm_profile("h100x1")
    assert changed(profile, {"memory": "512M", "minutes": 5}).memory == 0.5
    assert changed(profile, {"memory": "64g"}).memory == 64  # as sbatch takes it
    assert changed(profile, {"memory": 240}).environment == profile.environment
    with pytest.raises(ClusterError, match=r"--set slurm\.memroy: there is no such setting; known: slurm\.partition, "):
        changed(profile, {"memroy": 3})
    with pytest.raises(ClusterError, match="minutes='long' is not valid"):
        changed(profile, {"minutes": "long"})


def request(tmp_path: Path) -> Request:
    return Request(make_slurm_profile("mine", {"partition": "gpu", "account": "x"}), tmp_path / "jobs", "sweep")


def test_a_busy_controller_is_asked_again(login_node: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("slurm.executor.RETRY_SECONDS", (0, 0, 0))
    flag = tmp_path / "asked"
    busy = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
    answer(
        login_node,
        "sbatch",
        f'if [ -e {flag}2 ]; then echo "Submitted batch job 7"; elif [ -e {flag} ]; then touch {flag}2; '
        f'echo "{busy}" >&2; exit 1; else touch {flag}; echo "{busy}" >&2; exit 1; fi',
    )
    assert submit_slurm([print], request(tmp_path)) == ["7"]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("invalid partition specified: gpu", "there is no partition 'gpu'; partitions: debug, gpu"),
        ("Invalid account or account/partition combination specified", "Slurm refuses account 'x'"),
        ("Requested node configuration is not available", "no node of partition gpu with 0 GPUs"),
        ("Batch job submission failed: Job violates accounting/QOS policy", "Job violates accounting/QOS policy"),
    ],
)
def test_what_sbatch_refuses_is_one_line_that_says_what_to_do(
    said: str, message: str, login_node: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    answer(login_node, "sbatch", f'echo "sbatch: error: {said}" >&2; exit 1')
    answer(login_node, "sinfo", 'printf "debug\\ngpu\\n"')
    with pytest.raises(ClusterError, match=message) as caught:
        submit_slurm([print], request(tmp_path))
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().err == ""


if __name__ == "__main__":
    os.environ.pop("PYTHONPATH", None)
    for name, kind in CASES:
        (GOLDEN / f"{name}-{kind}.sh").write_text(script(name, kind))
    sys.exit(0)
