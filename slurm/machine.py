"""What this machine gives to the process: GPUs by whatever name, CPU cores by affinity and quota. Imports no torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from videonsa.commands import in_checkout, to_install

PREFIXES = ("GPU-", "MIG-")  # of names that are no index
NO_GPU = ("", "-1", "none", "void", "nodevfiles", "cpu")  # by which people say that none is wanted, in any letters
DEVICES = Path("/dev")
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
SMI_SECONDS = 30


def local_gpus() -> tuple[str, ...]:
    """The NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them: 0, GPU-8932f937-..., MIG-..."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return _listed_gpus()[0] if visible is None else named_gpus(visible)


def named_gpus(visible: str) -> tuple[str, ...]:
    """The devices that CUDA takes from a value of CUDA_VISIBLE_DEVICES.

    Names of one kind, up to the first that is none; of a list with one named twice, none (CUDA programming guide).
    """
    names: list[str] = []
    first = visible.strip()
    prefix = next((known for known in PREFIXES if first.startswith(known)), "")
    for part in (part.strip() for part in visible.split(",")):
        if not (part.startswith(prefix) if prefix else part.isdecimal()):
            break
        names.append(part if prefix else str(int(part)))
    return tuple(names) if len(set(names)) == len(names) else ()


def local_device() -> str:
    """What models run on in this process: cuda where torch is built for it and a GPU may be used, else cpu."""
    return "cuda" if torch_knows_gpus() and local_gpus() else "cpu"


def unused_gpus() -> str:
    """One line on GPUs of this machine that nothing will use, and why; '' where there are none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus, trouble = _listed_gpus() if visible is None else (named_gpus(visible), "")
    if visible is not None and not gpus and visible.strip().lower() not in NO_GPU and _listed_gpus()[0]:
        return f"no GPU is used, as CUDA_VISIBLE_DEVICES={visible!r:.60} names none: give indices or UUIDs, as in 0,1"
    if trouble:
        return f"no GPU is used, as nvidia-smi fails: {trouble}"
    if not gpus or torch_knows_gpus():
        return ""
    then = f"rm -r .venv; {to_install()}" if in_checkout() else "install one that is built for CUDA"
    return f"GPU {', '.join(gpus)} not used, as this torch is built for CPUs alone: {then}"


def torch_knows_gpus() -> bool:
    """The installed torch is no build for CPUs alone."""
    try:
        return not metadata.version("torch").endswith("+cpu")
    except metadata.PackageNotFoundError:
        return False


@lru_cache
def _listed_gpus() -> tuple[tuple[str, ...], str]:
    """What `nvidia-smi` lists, and why it could not: indices, or the slices of GPUs that are divided (MIG).

    A container may have the devices and not the program; CUDA counts those that it sees from 0 on.
    """
    if shutil.which("nvidia-smi") is None:
        return tuple(map(str, range(len(list(DEVICES.glob("nvidia[0-9]*")))))), ""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, errors="replace", timeout=SMI_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return (), type(error).__name__
    if done.returncode:
        return (), " ".join((done.stdout or done.stderr).split())[:200]
    return parse_gpus(done.stdout), ""


def parse_gpus(text: str) -> tuple[str, ...]:
    """Names from `nvidia-smi --list-gpus`: indices; of a divided GPU CUDA sees slices alone, by their UUIDs."""
    names: list[str] = []
    for part in re.split(r"^(?=GPU \d+:)", text, flags=re.MULTILINE)[1:]:
        names += re.findall(r"^\s+MIG .*\(UUID: (MIG-[^)\s]+)\)", part, re.MULTILINE) or [part[4 : part.index(":")]]
    return tuple(names)


def local_cores() -> int:
    """CPU cores that this process may use: those it may run on, and no more than the quota of its container lets run.

    Of a quota of 2.5 cores it is 2: more workers would be held up now and then, and measure that as the model's time.
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, int(min([float(cores), *cpu_quotas()])))


def cpu_quotas(own: Path = OWN_CGROUP, root: Path = CGROUPS) -> list[float]:
    """The limits in cores of the control groups that hold this process, of either version; none without a limit."""
    return [quota for folder in _cpu_folders(own, root) if (quota := _quota(folder)) is not None]


def _quota(folder: Path) -> float | None:
    """Microseconds of work over those of the clock, in version 2's one file or version 1's two."""
    words = _words(folder / "cpu.max") or _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
    limited = len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]) > 0  # else max, or -1
    return int(words[0]) / int(words[1]) if limited else None


def _cpu_folders(own: Path, root: Path) -> Iterator[Path]:
    """The process's control groups and all above them; in a container the mount itself is often its group."""
    for line in filter(None, _text(own).splitlines()):
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounts = [root / controllers, root / "cpu"] if controllers else [root, root / "unified"]
        group = Path(path.lstrip("/"))
        for mount in mounts:
            yield from (mount / above for above in (group, *group.parents))


def _words(file: Path) -> tuple[str, ...]:
    return tuple(_text(file).split())


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
