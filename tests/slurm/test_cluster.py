"""Sweeps on a real Slurm of one node: submission, faults of jobs and daemons, and what is left when it is over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ablations.cell import Code, Training
from ablations.plan import Job
from ablations.profile import load_profile
from ablations.snapshot import take_snapshot
from ablations.stages import Stages, Work
from slurm.executor import Request, slurm_executor
from slurm.profile import make_slurm_profile
from tests.ablations import fakes
from tests.ablations.conftest import records, results
from tests.slurm.conftest import SCRIPT, SlurmSweep, hurrying, state, wait_until
from videonsa.config import TrainSettings, from_dict

pytestmark = pytest.mark.slurm
ALL_DONE = dict.fromkeys(("b=1 synth_needle", "b=1 synth_order", "b=2 synth_needle", "b=2 synth_order"), "done")


def metrics(out: Path) -> list[dict]:
    lines = [line for path in out.glob("trainings/*/metrics.jsonl") for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def begun(out: Path, name: str) -> bool:
    return name in fakes.calls(out)


def test_submitting_returns_at_once_and_nothing_is_submitted_twice(slurm: SlurmSweep):
    slurm.faults(train=6)
    started = time.monotonic()
    first = slurm.run()
    assert first.returncode == 0, first.stderr
    assert time.monotonic() - started < 6
    assert "submitted 6 jobs (1 train, 4 evaluate, 1 probe) by 3 sbatch calls" in first.stdout
    again = slurm.run()
    assert "nothing to submit; 6 jobs of this sweep are queued or running" in again.stdout
    assert "4 waiting" in (status := slurm.run("--status").stdout)
    assert "Slurm: " in status
    done = slurm.finish()
    assert done.returncode == 0, done.stderr
    assert slurm.statuses() == ALL_DONE
    assert sorted(fakes.calls(slurm.out)) == sorted(["train", "probe", *["synth_needle", "synth_order"] * 2])
    assert "Slurm: no job of this sweep is queued or running" in slurm.run("--status").stdout
    shown = slurm.run()
    assert shown.returncode == 0
    assert "b=2 · synth_order: done" in shown.stdout


def test_jobs_run_the_code_of_their_submission(slurm: SlurmSweep, monkeypatch: pytest.MonkeyPatch):
    command = ["sbatch", "--parsable", "-c", "4", "--mem=100", "-o", "/dev/null", "--wrap", "sleep 600"]
    hold = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert slurm.run().returncode == 0
    (snapshot,) = (slurm.out / "sweeps" / "tiny-pair" / "code").iterdir()
    assert (snapshot / "COMMIT").is_file()
    (snapshot / "ablations" / "stages.py").write_text("raise RuntimeError('the snapshot was run')")
    monkeypatch.setenv("FAKE_CODE", "changed")
    refused = slurm.run()
    assert refused.returncode == 2
    assert "is in the queue with the code of then" in refused.stderr
    assert "4 cells: 4 waiting" in slurm.run("--status").stdout
    subprocess.run(["scancel", hold], check=True)
    logs = slurm.out / "sweeps" / "tiny-pair" / "jobs"
    wait_until(lambda: any("the snapshot was run" in path.read_text() for path in logs.glob("slurm-train-*/*_log.err")))


def test_a_failing_training_fails_what_needs_it_and_leaves_nothing_pending(slurm: SlurmSweep):
    slurm.faults(train="raise")
    done = slurm.run("--wait")
    assert done.returncode == 1
    assert {record["error"]["type"] for record in records(slurm.out).values()} == {"TrainingFailed"}
    assert not any(state(job.id) for job in slurm.submitted())
    slurm.faults()
    assert slurm.run("--wait", "--retry-failed").returncode == 0
    assert slurm.statuses() == ALL_DONE


def test_a_failing_suite_among_good_ones(slurm: SlurmSweep):
    slurm.faults(synth_order="raise")
    done = slurm.run("--wait")
    assert done.returncode == 1
    assert "synth_order is broken" in done.stdout
    assert sorted(slurm.statuses().values()) == ["done", "done", "failed", "failed"]


@pytest.mark.parametrize(
    ("grid", "submitted", "trainings", "cells"),
    [  # evaluations in step with an array of trainings (aftercorr), and an array for each of few trainings (afterok)
        (
            "axes: {nsa.block_count: [1, 2, 3]}\nsuites: [synth_needle]",
            "9 jobs (3 train, 3 evaluate, 3 probe) by 3",
            3,
            3,
        ),
        (
            "axes: {nsa.block_count: [1, 2]}\nsuites: [synth_needle, synth_order]",
            "8 jobs (2 train, 4 evaluate, 2 probe) by 4",
            2,
            4,
        ),
    ],
    ids=["in-step", "each-its-own"],
)
def test_evaluations_wait_for_their_trainings(slurm: SlurmSweep, grid: str, submitted: str, trainings: int, cells: int):
    slurm.grid.write_text(f"asks: train\n{grid}\n")
    slurm.faults(train=2)
    done = slurm.run("--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"submitted {submitted} sbatch calls" in done.stdout
    assert len(records(slurm.out)) == cells
    assert fakes.calls(slurm.out).count("train") == trainings


def test_two_hundred_cells_as_arrays(slurm: SlurmSweep):
    slurm.grid.write_text(f"axes: {{nsa.window: {list(range(1, 101))}}}\nsuites: [synth_needle, synth_order]\n")
    slurm.profile.write_text(slurm.profile.read_text().replace("max_parallel: 4", "max_parallel: 100"))
    submitted = slurm.run()
    assert "100 evaluate" in submitted.stdout, submitted.stderr
    calls = int(submitted.stdout.split(" sbatch calls")[0].split()[-1])
    assert calls == 4  # a training, 100 tasks in two arrays of at most 64 (MaxArraySize), a probe
    started = time.monotonic()
    assert "Slurm: " in slurm.run("--status").stdout
    assert time.monotonic() - started < 4
    assert slurm.run("--cancel").returncode == 0


def test_cancel_stops_this_sweep_and_nothing_else(slurm: SlurmSweep, tmp_path: Path):
    other = SlurmSweep(tmp_path / "other" / "runs", slurm.grid, slurm.profile)
    other.out.parent.mkdir()
    for sweep in (slurm, other):
        sweep.faults(train=30)
        assert sweep.run().returncode == 0
    wait_until(lambda: begun(slurm.out, "train"))
    assert "cancelled 6 jobs" in slurm.run("--cancel").stdout
    wait_until(lambda: not any(state(job.id) for job in slurm.submitted()))
    assert all(state(job.id) for job in other.submitted("train"))
    slurm.faults()
    assert slurm.finish().returncode == 0  # cancelled is nobody's fault: submitted again
    assert slurm.statuses() == ALL_DONE
    assert "cancelled 6 jobs" in other.run("--cancel").stdout


def test_scancel_of_one_job_is_recorded_and_tried_again(slurm: SlurmSweep):
    slurm.faults(synth_order=30)
    slurm.run()
    wait_until(lambda: begun(slurm.out, "synth_order"))
    victims = [job.id for job in slurm.submitted("evaluate") if state(job.id)]
    subprocess.run(["scancel", *victims], check=True)
    slurm.faults()
    wait_until(lambda: not any(state(job) for job in victims))
    time.sleep(2)  # accounting lags
    status = slurm.run("--status").stdout
    assert "Cancelled" in status, status
    assert slurm.finish().returncode == 0
    assert slurm.statuses() == ALL_DONE


QUICK = ("train.steps=24", "train.save_every=4", "suite.limit=2")
SETTINGS = [word for setting in QUICK for word in ("--set", setting)]


@pytest.fixture(scope="module")
def budget(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.Popen[bytes]]:
    """Start the command that a user types, with little to train and to ask: budget("--out", ...).

    From a snapshot, with each output in <out>.log: whoever edits the checkout meanwhile changes nothing.
    """
    code = take_snapshot(tmp_path_factory.mktemp("code"))

    def start(out: Path, *more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "ablations/run.py", "--grid", "budget", "--out", str(out), *SETTINGS, *more]
        with open(out.with_suffix(".log"), "a") as log:
            return subprocess.Popen(
                command, cwd=code, env=os.environ | {"WANDB_MODE": "disabled"}, stdout=log, stderr=log
            )

    return start


@pytest.fixture(scope="module")
def calm(budget: Callable[..., subprocess.Popen[bytes]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the budget grid finds on this machine, without Slurm."""
    out = tmp_path_factory.mktemp("calm") / "runs"
    assert budget(out, "--cluster", "local").wait() == 0
    return results(out)


def test_the_budget_grid_preempted_and_requeued_finds_what_a_calm_run_does(
    slurm: SlurmSweep, budget: Callable[..., subprocess.Popen[bytes]], calm: dict[str, Any]
):
    """27 cells of a real training: preempted by a higher partition; then an evaluation is requeued without a word."""
    user = budget(slurm.out, "--cluster", "slurm", "--profile", "cpu-test", "--wait")
    wait_until(lambda: len(metrics(slurm.out)) > 6)
    (training,) = slurm.submitted("train")
    command = ["sbatch", "--parsable", "-p", "urgent", "-n", "1", "-c", "4", "--mem=100", "-o", "/dev/null"]
    urgent = subprocess.run([*command, "--wrap", "sleep 1"], capture_output=True, text=True, check=True).stdout.strip()
    with hurrying(training.id):
        wait_until(lambda: not state(urgent))
        wait_until(lambda: any(slurm.out.glob("cells/*/questions.jsonl")))
    first = slurm.submitted("evaluate")[0].id
    subprocess.run(["scontrol", "requeue", first], check=True)
    with hurrying(first):
        assert user.wait() == 0, slurm.out.with_suffix(".log").read_text()
    (log,) = slurm.out.glob("trainings/*/log.txt")
    starts = [line.partition("INFO ")[2] for line in log.read_text().splitlines()]
    assert starts[0] == "steps 1 to 24 on 1 x cpu"
    assert len(starts) == 2
    assert starts[1] != starts[0]  # it went on from a checkpoint
    jobs = slurm.out / "sweeps"
    assert any("Requeued job" in path.read_text() for path in jobs.glob(f"*/jobs/slurm-*/{training.id}_0_log.out"))
    assert sum(name.endswith("record.json") for name in calm) == 28  # 27 cells and a probe
    assert results(slurm.out) == calm


def test_a_time_limit_requeues_and_the_losses_are_those_of_one_run(
    slurm: SlurmSweep, calm: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    """A real training. Slurm signals 15 s before the end of the minute, or, as its manual says, earlier."""
    monkeypatch.setenv("REAL_TRAINING", "1")
    slurm.profile.write_text(slurm.profile.read_text().replace("minutes: 5", "minutes: 1").replace("0.5", "2"))
    slurm.faults(pace=2.5)
    slurm.run(*SETTINGS)
    (training,) = slurm.submitted("train")
    with hurrying(training.id):
        wait_until(lambda: state(training.id).startswith("PENDING BeginTime"))
        slurm.faults()
        assert slurm.run("--wait", *SETTINGS).returncode == 0
    assert fakes.calls(slurm.out).count("train") == 2
    (losses,) = (value for name, value in calm.items() if name.endswith("metrics.jsonl"))
    assert [(row["step"], row["loss"], row["tokens"]) for row in metrics(slurm.out)] == losses
    assert slurm.statuses() == ALL_DONE


def test_a_job_that_runs_out_of_memory_says_how_much_it_used(slurm: SlurmSweep):
    slurm.faults(synth_order="hog")
    done = slurm.run("--wait")
    assert done.returncode == 1
    errors = [record["error"] for record in records(slurm.out).values() if record["status"] == "failed"]
    assert {error["type"] for error in errors} == {"OutOfMemory"}
    assert "ran out of memory: used " in errors[0]["message"]
    assert "of 512M" in errors[0]["message"]
    calls = len(fakes.calls(slurm.out))
    assert slurm.run("--wait", "--retry-failed", "--set", "slurm.memory=3G").returncode == 0
    assert slurm.statuses() == ALL_DONE
    assert fakes.calls(slurm.out)[calls:] == ["synth_order", "synth_order"]  # the others were not run again


def test_a_node_that_dies_and_returns(slurm: SlurmSweep, cluster: Path):
    slurm.faults(train_steps=16)
    slurm.run()
    wait_until(lambda: begun(slurm.out, "train") and len(metrics(slurm.out)) > 2)
    os.kill(int((cluster / "pid" / "slurmd").read_text()), signal.SIGKILL)
    for worker in fakes.pids(slurm.out):  # with the node its processes go
        os.kill(worker, signal.SIGKILL)
    time.sleep(2)
    subprocess.run([SCRIPT, "start", "slurmd"], check=True, capture_output=True)
    done = slurm.finish()
    if done.returncode:  # the job ended without a word: found, and tried again by the same command
        assert "WorkerDied" in done.stdout
        assert slurm.finish().returncode == 0
    assert [line["step"] for line in metrics(slurm.out)] == list(range(1, 17))
    assert slurm.statuses() == ALL_DONE


@pytest.fixture
def blind_node(slurm: SlurmSweep, cluster: Path) -> Iterator[None]:
    """The node sees an empty folder in the place of the sweep's."""
    slurm.out.mkdir()
    subprocess.run([SCRIPT, "stop", "slurmd"], check=True, capture_output=True)
    hide = f"mount -t tmpfs none {slurm.out} && exec slurmd -D"
    log = cluster / "log" / "slurmd.out"
    with open(log, "a") as file:
        node = subprocess.Popen(["unshare", "-m", "sh", "-c", hide], stdout=file, stderr=file, start_new_session=True)
    (cluster / "pid" / "slurmd").write_text(str(node.pid))
    try:
        time.sleep(1)
        if node.poll() is not None:
            pytest.skip("a folder can be hidden from a node only where mounting is allowed")
        yield
    finally:
        subprocess.run([SCRIPT, "stop", "slurmd"], check=True, capture_output=True)
        node.wait()
        subprocess.run([SCRIPT, "start", "slurmd"], check=True, capture_output=True)


def test_a_node_that_does_not_see_the_folder_is_named(slurm: SlurmSweep, blind_node: None):
    done = slurm.run("--wait")
    assert done.returncode == 1
    assert "does not see" in done.stdout, done.stdout
    assert "give --out a folder on a file system that the nodes share" in done.stdout
    errors = records(slurm.out, "trainings").values()
    assert [record["error"]["type"] for record in errors] == ["NotShared"]


def test_status_without_the_controller_answers_from_the_records(slurm: SlurmSweep, cluster: Path):
    assert slurm.run("--wait").returncode == 0
    subprocess.run([SCRIPT, "stop", "slurmctld", "slurmdbd"], check=True, capture_output=True)
    try:
        (slurm.out / "sweeps" / "tiny-pair" / "jobs" / "states.json").unlink(missing_ok=True)
        status = slurm.run("--status")
        assert status.returncode == 0
        assert "4 cells: 4 done" in status.stdout
        assert "Slurm does not answer" in status.stdout
    finally:
        subprocess.run([SCRIPT, "start"], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("partition: nowhere", "there is no partition 'nowhere'; partitions: debug, urgent"),
        ("partition: debug\ngpus_per_node: 8", "has|have 8 GPUs, 1 cores, 4 GB a node"),
        ("partition: debug\nmemory: 90000", "90000 GB a node"),
    ],
)
def test_a_profile_that_the_site_refuses_is_one_line(slurm: SlurmSweep, line: str, message: str):
    slurm.profile.write_text(line + "\n")
    done = slurm.run()
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert message.split("|")[-1] in done.stderr
    assert slurm.submitted() == []


def _where() -> tuple[int, int, dict[str, str]]:
    from slurm.executor import distributed_environment

    rank, processes = distributed_environment()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    return rank, processes, {name: os.environ[name] for name in names}


def test_every_process_of_a_training_finds_the_others(cluster: Path, tmp_path: Path):
    profile = make_slurm_profile("two", {"partition": "debug", "cpus": 1, "memory": 1, "minutes": 2})
    executor = slurm_executor(Request(profile, tmp_path, "two", whole_node=True))
    executor.update_parameters(ntasks_per_node=2, cpus_per_task=1)
    found = executor.submit(_where).results()
    assert [(rank, processes) for rank, processes, _ in found] == [(0, 2), (1, 2)]
    variables = [variables for *_, variables in found]
    assert [variable["RANK"] for variable in variables] == ["0", "1"]
    assert {variable["WORLD_SIZE"] for variable in variables} == {"2"}
    assert len({(variable["MASTER_ADDR"], variable["MASTER_PORT"]) for variable in variables}) == 1


def two_processes(work: Work, folder: Path) -> None:
    """Run a training in two processes of one job, as on a node of two GPUs."""
    profile = make_slurm_profile("two", {"partition": "debug", "cpus": 1, "memory": 2, "minutes": 5})
    executor = slurm_executor(Request(profile, folder, "two", whole_node=True))
    executor.update_parameters(ntasks_per_node=2, cpus_per_task=1)
    job = executor.submit(work)
    wait_until(lambda: not state(job.job_id))


def real_training(out: Path, **changes: Any) -> Work:
    profile = load_profile("tiny")
    settings = from_dict(TrainSettings, {**profile.train, "steps": 24, "save_every": 4, **changes})
    training = Training(settings, None, settings.nsa, Code("code", "code"))
    out.mkdir()
    return Work(Job("train", "train", training), out, out, "two")


def test_a_training_in_two_processes_has_the_losses_of_one(cluster: Path, tmp_path: Path, calm: dict[str, Any]):
    two_processes(real_training(tmp_path / "out", micro_batch_size=9), tmp_path)
    (record,) = records(tmp_path / "out", "trainings").values()
    assert record["status"] == "done", record["error"]
    (log,) = (tmp_path / "out").glob("trainings/*/log.txt")
    assert "steps 1 to 24 on 2 x cpu" in log.read_text()
    (one,) = (value for name, value in calm.items() if name.endswith("metrics.jsonl"))
    two = [(row["step"], row["loss"], row["tokens"]) for row in metrics(tmp_path / "out")]
    assert [(step, tokens) for step, _, tokens in two] == [(step, tokens) for step, _, tokens in one]
    assert [loss for _, loss, _ in two] == pytest.approx([loss for _, loss, _ in one], rel=1e-3)


def test_a_failure_in_any_process_of_a_training_is_recorded(cluster: Path, tmp_path: Path):
    stages = Stages(train="tests.ablations.fakes:train_or_fail_second")
    two_processes(replace(real_training(tmp_path / "out"), stages=stages), tmp_path)
    (record,) = records(tmp_path / "out", "trainings").values()
    assert record["status"] == "failed"
    assert record["error"]["message"] == "the second process failed"
