"""What a machine gives: GPUs by every kind of name, and cores up to a container's quota."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from slurm import machine
from slurm.executor import start_local
from slurm.machine import cpu_quotas, local_cores, local_gpus, named_gpus, unused_gpus

GPU, SLICE = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f"
DIVIDED = f"""GPU 0: NVIDIA A100 (UUID: GPU-5d5ba0d6)
  MIG 1g.5gb      Device  0: (UUID: {SLICE})
  MIG 1g.5gb      Device  1: (UUID: MIG-GPU-5d5ba0d6/7/0)
GPU 1: NVIDIA A100 (UUID: GPU-6d5ba0d6)
"""


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("", ()),
        ("3", ("3",)),
        ("0, 1", ("0", "1")),
        (GPU, (GPU,)),
        (f"{SLICE},MIG-GPU-5d5ba0d6/7/0", (SLICE, "MIG-GPU-5d5ba0d6/7/0")),
        ("0,-1,1", ("0",)),  # a list ends at the first name that is none
        (f"0,{GPU}", ("0",)),
        ("-1", ()),
        ("NoDevFiles", ()),
        ("1,1", ()),
    ],
)
def test_devices_are_those_that_cuda_takes(monkeypatch: pytest.MonkeyPatch, visible: str, names: tuple[str, ...]):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert local_gpus() == named_gpus(visible) == names


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An nvidia-smi that says a text and ends with a code."""

    def put(text: str, code: int = 0) -> None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {code}\n")
        (tmp_path / "nvidia-smi").chmod(stat.S_IRWXU)
        machine._listed_gpus.cache_clear()

    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield put
    machine._listed_gpus.cache_clear()


def test_of_a_divided_gpu_each_slice_is_a_device(smi):
    smi(DIVIDED)
    assert local_gpus() == (SLICE, "MIG-GPU-5d5ba0d6/7/0", "1")


def test_devices_without_the_program_that_lists_them_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smi):
    for name in ("nvidia3", "nvidia5", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    monkeypatch.setattr(machine, "DEVICES", tmp_path)
    monkeypatch.setenv("PATH", "")
    machine._listed_gpus.cache_clear()
    assert local_gpus() == ("0", "1")


def test_gpus_that_nothing_will_use_are_told(smi, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("slurm.machine.metadata.version", lambda name: "2.13.0+cpu")
    smi("GPU 0: NVIDIA H100 (UUID: GPU-1)")
    assert unused_gpus().startswith("GPU 0 not used, as this torch is built for CPUs alone")
    smi("Failed to initialize NVML: Driver/library version mismatch", code=18)
    assert unused_gpus() == "no GPU is used, as nvidia-smi fails: " + (
        "Failed to initialize NVML: Driver/library version mismatch"
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert unused_gpus() == ""  # none is wanted


@pytest.mark.parametrize(
    ("visible", "told"), [("all", True), ("0;1", True), ("0,0", True), ("-1", False), ("CPU", False)]
)
def test_a_value_that_names_no_gpu_is_told(visible: str, told: bool, smi, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    smi("GPU 0: NVIDIA H100 (UUID: GPU-1)")
    assert (f"CUDA_VISIBLE_DEVICES={visible!r} names none" in unused_gpus()) == told
    smi("No devices found.")
    assert unused_gpus() == ""


class Seen:
    """Writes what a worker sees: its devices, and where it finds our packages."""

    def __init__(self, answer: Path) -> None:
        self.answer = answer

    def __call__(self) -> None:
        import evals

        self.answer.write_text(f"{os.environ['CUDA_VISIBLE_DEVICES']}\n{evals.__file__}")


def test_a_worker_sees_its_gpu_by_name_and_our_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("evals", "random", "yaml"):  # of the user's, in the folder that he starts a sweep from
        (tmp_path / f"{name}.py").write_text("raise ImportError('not ours')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{os.pathsep}/nowhere")  # the empty part means this folder
    worker = start_local(Seen(tmp_path / "answer"), tmp_path / "job", "seen", 1, (GPU,))
    end = time.time() + 60
    while not worker.ended() and time.time() < end:
        time.sleep(0.05)
    devices, place = (tmp_path / "answer").read_text().splitlines()
    assert (devices, Path(place)) == (GPU, Path(machine.__file__).parent.parent / "evals" / "__init__.py")


def groups(tmp_path: Path, own: str, files: dict[str, str]) -> list[float]:
    """The quotas where /proc/self/cgroup says `own`, and these files lie below /sys/fs/cgroup."""
    tmp_path.mkdir()
    (tmp_path / "self").write_text(own)
    for name, text in files.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(text)
    return cpu_quotas(tmp_path / "self", tmp_path / "root")


def test_quotas_of_both_versions_of_control_groups(tmp_path: Path):
    new = {"cpu.max": "max 100000\n", "jobs/cpu.max": "250000 100000\n", "jobs/mine/cpu.max": "max 100000\n"}
    assert groups(tmp_path / "new", "0::/jobs/mine\n", new) == [2.5]
    assert groups(tmp_path / "inside", "0::/\n", {"cpu.max": "50000 100000\n"}) == [0.5]
    old = {"cpu,cpuacct/cpu.cfs_quota_us": "300000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}
    assert groups(tmp_path / "old", "4:cpu,cpuacct:/docker/1a2b\n1:name=systemd:/\n0::/\n", old) == [3.0]
    free = {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}
    assert groups(tmp_path / "free", "4:cpu:/\n", free) == []


@pytest.mark.parametrize(("quota", "cores"), [([], 4), ([2.5, 3.0], 2), ([0.5], 1), ([64.0], 4)])
def test_cores_are_those_that_the_quota_lets_run(monkeypatch: pytest.MonkeyPatch, quota: list[float], cores: int):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2, 3})
    monkeypatch.setattr("slurm.machine.cpu_quotas", lambda: quota)
    assert local_cores() == cores
