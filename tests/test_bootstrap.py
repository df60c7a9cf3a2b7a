"""Scripts find the project's environment, or say what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from videonsa import bootstrap

CODE = (
    "import sys; sys.path.insert(0, {root!r}); from videonsa.bootstrap import ensure_environment as e; e(); print('on')"
)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A checkout with nothing but this module: its .venv is where the test puts one."""
    (tmp_path / "videonsa").mkdir()
    (tmp_path / "videonsa" / "__init__.py").touch()
    (tmp_path / "videonsa" / "bootstrap.py").write_text(Path(bootstrap.__file__).read_text())
    return tmp_path


def bare(copy: Path) -> subprocess.CompletedProcess:
    """Run the check with a Python that has no packages."""
    command = [sys.executable, "-S", "-I", "-c", CODE.format(root=str(copy))]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_where_the_dependencies_are_it_returns() -> None:
    bootstrap.ensure_environment()


def test_without_an_environment_it_says_what_to_run(copy: Path) -> None:
    done = bare(copy)
    assert done.returncode == 2
    assert "run `make setup`" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_with_an_environment_it_starts_again_under_it(copy: Path) -> None:
    python = copy / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "restarted with $@"\n')
    python.chmod(0o755)
    done = bare(copy)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("restarted with")
