"""Sweeps on a real Slurm of one node: submission, faults of jobs and daemons, and what is left when it is over."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ablations import fakes
from tests.ablations.conftest import records
from tests.slurm.conftest import ALL_DONE, SCRIPT, SlurmSweep, begun, metrics, state, wait_until

pytestmark = pytest.mark.slurm


def test_submitting_returns_at_once_and_nothing_is_submitted_twice(slurm: SlurmSweep):
    slurm.faults(train=6)
    first = slurm.run()
    assert first.returncode == 0, first.stderr
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
    (snapshot / "ablations" / "worker.py").write_text("raise RuntimeError('the snapshot was run')")
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


@pytest.mark.long
def test_two_hundred_cells_as_arrays(slurm: SlurmSweep):
    slurm.grid.write_text(f"axes: {{nsa.window: {list(range(1, 101))}}}\nsuites: [synth_needle, synth_order]\n")
    slurm.profile.write_text(slurm.profile.read_text().replace("max_parallel: 4", "max_parallel: 100"))
    submitted = slurm.run()
    assert "100 evaluate" in submitted.stdout, submitted.stderr
    calls = int(submitted.stdout.split(" sbatch calls")[0].split()[-1])
    assert calls == 4  # a training, 100 tasks in two arrays of at most 64 (MaxArraySize), a probe
    assert "Slurm: " in slurm.run("--status").stdout
    assert slurm.run("--cancel").returncode == 0


def test_cancel_stops_this_sweep_and_nothing_else(slurm: SlurmSweep, tmp_path: Path):
    other = SlurmSweep(tmp_path / "other" / "runs", slurm.grid, slurm.profile)
    other.out.parent.mkdir()
    for sweep in (slurm, other):
        sweep.faults(train=300)
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


@pytest.mark.long
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


@pytest.mark.long
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


@pytest.mark.long
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
        (
            "partition: debug\ngpus_per_node: 6\nplacement: {micro_batch_size: 3}",
            "no node of partition debug with 6 GPUs, 1 cores, 4 GB a node",
        ),
        ("partition: debug\naccount: nobody", "Slurm refuses account 'nobody'; yours: `sacctmgr show assoc"),
        pytest.param("partition: debug\nmemory: 90000", "90000 GB a node", marks=pytest.mark.long),
        pytest.param("partition: debug\nconstraint: h100", "no node has the constraint 'h100'", marks=pytest.mark.long),
    ],
)
def test_a_profile_that_the_site_refuses_is_one_line(slurm: SlurmSweep, line: str, message: str):
    slurm.profile.write_text(line + "\n")
    done = slurm.run()
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert message in done.stderr
    assert str(slurm.profile) in done.stderr
    assert slurm.submitted() == []


def test_a_job_that_will_never_start_is_named(slurm: SlurmSweep):
    """Many sites let sbatch accept what no partition can give."""
    slurm.profile.write_text("partition: debug\nnodes: 3\nplacement: {micro_batch_size: 6}\n")
    assert slurm.run().returncode == 0
    (training,) = slurm.submitted("train")
    wait_until(lambda: "PartitionNodeLimit" in state(training.id))
    status = slurm.run("--status").stdout
    assert f"Slurm will not start {training.id} (PartitionNodeLimit): the profile asks for more than" in status
    assert slurm.run("--cancel").returncode == 0
