"""A whole sweep in odd surroundings finds to the bit what a calm one does, and draws the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ablations.snapshot import take_snapshot
from tests.ablations.conftest import results

CALM = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/root"), "WANDB_MODE": "disabled"}
ODD = {
    **{"PATH": os.environ["PATH"], "HOME": "/proc", "TMPDIR": "/nowhere", "TZ": "Pacific/Kiritimati"},
    **{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "latin-1"},
    **{"PYTHONWARNINGS": "error", "PYTHONOPTIMIZE": "2", "PYTHONPATH": f"{os.pathsep}/nowhere"},
    **{"TERM": "dumb", "COLUMNS": "5", "NO_COLOR": "1", "FORCE_COLOR": "1", "MPLBACKEND": "nonsense"},
    **{"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4", "ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_USE_FSDP": "1"},
    **{"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "192.0.2.1", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"},
    **{"ONEDNN_DEFAULT_FPMATH_MODE": "BF16", "ATEN_CPU_CAPABILITY": "default"},
}
THEIRS = (
    "torch.py",
    "pandas.py",
    "random.py",
    "yaml.py",
    "evals/__init__.py",
    "ablations/__init__.py",
    "slurm/__init__.py",
)
ASKED = ["--grid", "smoke", "--set", "suites=synth_needle", "--set", "train.steps=3", "--set", "suite.limit=3"]


def sweep(code: Path, out: Path, here: Path, variables: dict[str, str], umask: int, shell: str) -> Path:
    """The out folder of a sweep that was run from this folder."""
    command = [sys.executable, str(code / "ablations" / "run.py"), *ASKED, "--workers", "1", "--out", str(out)]
    done = subprocess.run(
        ["bash", "-c", f'"$@" {shell}', "bash", *command], cwd=here, env=variables, umask=umask, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    return out


@pytest.mark.long
def test_a_sweep_in_odd_surroundings_is_as_ever(tmp_path: Path):
    code, here = take_snapshot(tmp_path / "code"), tmp_path / "here"
    for name in THEIRS:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text("raise ImportError('not ours')\n")
    (here / "matplotlibrc").write_text("text.usetex: True\nbackend: nonsense\n")
    calm = sweep(code, tmp_path / "calm", tmp_path, CALM, 0o022, "")
    odd = sweep(code, tmp_path / "odd", here, ODD, 0o077, "<&- >&-")
    assert results(odd) == results(calm)
    figures = "sweeps/tiny-smoke*/figures/{}.png"
    for name in ("accuracy", "gates", "sinks"):
        (plain,), (other,) = calm.glob(figures.format(name)), odd.glob(figures.format(name))
        assert plain.read_bytes() == other.read_bytes(), name
    assert all(path.stat().st_mode & 0o077 == 0 for path in odd.rglob("*") if not path.is_symlink())
