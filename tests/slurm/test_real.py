"""Real trainings and evaluations on a real Slurm of one node find what they find without Slurm and without faults."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ablations.cell import Training
from ablations.facts import facts_now
from ablations.jobs import Job
from ablations.profile import load_profile
from ablations.snapshot import take_snapshot
from ablations.stages import Stages
from ablations.worker import Worker
from slurm import executor
from slurm.profile import make_slurm_profile
from tests.ablations import fakes
from tests.ablations.conftest import records, results
from tests.slurm.conftest import ALL_DONE, SlurmSweep, hurrying, metrics, state, wait_until
from videonsa.config import TrainSettings, from_dict

pytestmark = [pytest.mark.slurm, pytest.mark.long]  # minutes: every worker imports torch and lmms-eval anew
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
        wait_until(lambda: any(slurm.out.glob("answers/*/*.jsonl")))
    first = slurm.submitted("evaluate")[0].id
    subprocess.run(["scontrol", "requeue", first], check=True)
    with hurrying(first):
        assert user.wait() == 0, slurm.out.with_suffix(".log").read_text()
    (log,) = slurm.out.glob("trainings/*/log.txt")
    starts = [said for line in log.read_text().splitlines() if (said := line.partition("INFO ")[2]).startswith("steps")]
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


def start_two(work: Callable[[], None], folder: Path) -> str:
    """Start a training in two processes of one job, as on a node of two GPUs; its id."""
    profile = make_slurm_profile("two", {"partition": "debug", "cpus": 1, "memory": 3, "minutes": 20})
    starter = executor.slurm_executor(executor.Request(profile, folder, "two", whole_node=True))
    starter.update_parameters(ntasks_per_node=2, cpus_per_task=1)
    return starter.submit(work).job_id


def real_settings(**changes: Any) -> TrainSettings:
    return from_dict(TrainSettings, {**load_profile("tiny").train, "steps": 24, "save_every": 4, **changes})


def real_training(out: Path, **changes: Any) -> Worker:
    training = Training(real_settings(**changes), None, facts_now())
    out.mkdir()
    return Worker(Job("train", "train", training), out, out, "two")


def curve(out: Path) -> list[tuple[int, float, int]]:
    return [(row["step"], row["loss"], row["tokens"]) for row in metrics(out)]


@pytest.mark.timeout(1500)  # on a busy machine
def test_two_processes_save_when_their_time_is_over_are_requeued_once_and_have_the_losses_of_one(
    cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """They share the weights; Slurm announces the end to both."""
    from videonsa.training.run import train

    out = tmp_path / "out"
    work = real_training(out, micro_batch_size=9, sharding="full", save_every=20)
    work = replace(work, stages=Stages(train="tests.ablations.fakes:paced_train"))
    (tmp_path / "FAULTS").write_text('{"pace": 1}')
    job = start_two(work, tmp_path)
    wait_until(lambda: len(metrics(out)) > 2, 400)
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    wait_until(lambda: state(job).startswith("PENDING"), 400)
    (done,) = {row["step"] for row in metrics(out)[-1:]}
    (tmp_path / "FAULTS").write_text("{}")
    with hurrying(job):
        wait_until(lambda: not state(job), 400)
    (record,) = records(out, "trainings").values()
    assert record["status"] == "done", record["error"]
    placement = record["provenance"]["placement"]
    assert (placement["processes"], placement["data_parallel"], placement["sharding"]) == (2, 2, "full")
    said = (tmp_path / f"{job}_0_log.err").read_text() + (tmp_path / f"{job}_0_log.out").read_text()
    assert said.count("Requeued job") == 1
    (log,) = out.glob("trainings/*/log.txt")
    starts = [line.partition("INFO ")[2] for line in log.read_text().splitlines() if "INFO steps" in line]
    assert starts == ["steps 1 to 24 on 2 x cpu:0", f"steps {done + 1} to 24 on 2 x cpu:0"]
    monkeypatch.setenv("WANDB_MODE", "disabled")
    train(real_settings(micro_batch_size=18), tmp_path / "one" / "trainings" / "x", lambda done, total: None)
    one, two = curve(tmp_path / "one"), curve(out)
    assert [(step, tokens) for step, _, tokens in two] == [(step, tokens) for step, _, tokens in one]
    assert [loss for _, loss, _ in two] == pytest.approx([loss for _, loss, _ in one], rel=1e-3)


def test_a_failure_in_any_process_of_a_training_is_recorded(cluster: Path, tmp_path: Path):
    stages = Stages(train="tests.ablations.fakes:train_or_fail_second")
    job = start_two(replace(real_training(tmp_path / "out"), stages=stages), tmp_path)
    wait_until(lambda: not state(job))
    (record,) = records(tmp_path / "out", "trainings").values()
    assert record["status"] == "failed"
    assert record["error"]["message"] == "the second process failed"
