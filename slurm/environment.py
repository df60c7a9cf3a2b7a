"""What jobs find in their environment, and what of ours submitting hides from sbatch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from slurm.profile import SlurmProfile

ROOT = Path(__file__).resolve().parent.parent
CHOICES = ("partition", "account", "qos", "constraint")  # of a profile, each with a variable of sbatch's
KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT", "SBATCH_CLUSTERS", "SBATCH_RESERVATION")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def worker_environment(threads: int, code: Path = ROOT) -> dict[str, str]:
    """Environment of a job: our packages first on its path, text in UTF-8, no warning an error, its share of cores."""
    paths = [str(code), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "PYTHONSAFEPATH": "1",  # `python -m` would put the working folder, and packages there, before all others
        "PYTHONUTF8": "1",
        "PYTHONIOENCODING": "utf-8:backslashreplace",
        "PYTHONWARNINGS": "",
        "PYTHONOPTIMIZE": "",
        "TOKENIZERS_PARALLELISM": "false",
    } | dict.fromkeys(THREAD_VARIABLES, str(threads))


@contextmanager
def changed_environment(changes: Mapping[str, str]) -> Iterator[None]:
    """With these variables; all are as before when the context ends."""
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def profile_decides(profile: SlurmProfile) -> Iterator[None]:
    """sbatch hears the script alone: SBATCH_* of the user's would go before it, and the job would inherit what tells
    of an allocation that we are in (SLURM_CPU_BIND and the like). Such defaults fill what the profile leaves open."""
    left_open = [f"SBATCH_{name.upper()}" for name in CHOICES if getattr(profile, name) is None]
    before = dict(os.environ)
    for name in before:
        if name.startswith(("SBATCH_", "SLURM")) and name not in (*KEPT, *left_open):
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(before)
