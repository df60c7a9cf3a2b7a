"""Scripts find the project's environment, or say what to do."""

from __future__ import annotations

import os
import pty
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
    """A checkout with nothing but what this module needs: its .venv is where the test puts one."""
    (tmp_path / "videonsa").mkdir()
    for name in ("videonsa/__init__.py", "pyproject.toml"):
        (tmp_path / name).touch()
    for name in ("bootstrap.py", "commands.py"):
        (tmp_path / "videonsa" / name).write_text((Path(bootstrap.__file__).parent / name).read_text())
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
    assert done.stderr == f"the dependencies are not installed: run `make setup` in {copy}\n"
    (copy / "pyproject.toml").unlink()  # as a wheel is installed
    done = bare(copy)
    assert done.returncode == 2
    assert done.stderr == "the dependencies are not installed: run `python -m pip install videonsa-bench`\n"


def test_with_an_environment_it_starts_again_under_it(copy: Path) -> None:
    python = copy / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "restarted with $@"\n')
    python.chmod(0o755)
    done = bare(copy)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("restarted with")


SAYS = "import sys; print('gr\u00f6\u00dfer \u2013 ' + repr([sys.argv[1], sys.flags.optimize]), flush=True)"
COMMAND = f"""
import sys, warnings
if __spec__ is None:  # run by its path
    sys.path[0] = {str(bootstrap.ROOT)!r}
from videonsa.bootstrap import ensure_environment
ensure_environment()
import random
warnings.warn("an old habit")
{SAYS}
print("the end")
"""


def command(
    tmp_path: Path, variables: dict[str, str], *, shell: str = "", script: str = "../script.py"
) -> subprocess.CompletedProcess:
    """Run a script that begins as ours do, in a folder with modules of the user's, with `shell` behind it."""
    here = tmp_path / "here"
    here.mkdir(exist_ok=True)
    for place in (tmp_path / "script.py", here / "module.py"):
        place.write_text(COMMAND, encoding="utf-8")
    for name in ("pandas", "submitit", "random"):
        (here / f"{name}.py").write_text("raise ImportError('not ours')\n")
    words = f"{sys.executable} {script} 'gr\u00f6\u00dfer' {shell}"
    told = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LC_", "LANG"))}
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {words}"], capture_output=True, cwd=here, env=told | variables
    )


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "gr\u00f6\u00dfer \u2013 ['gr\u00f6\u00dfer', 0]"),
        ({"LC_ALL": "C"}, "gr\u00f6\u00dfer \u2013 ['gr\u00f6\u00dfer', 0]"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "gr??er ? ['gr??er', 0]"),
        ({"PYTHONIOENCODING": "ascii"}, "gr??er ? ['gr??er', 0]"),
        ({"PYTHONWARNINGS": "error", "PYTHONOPTIMIZE": "2"}, "gr\u00f6\u00dfer \u2013 ['gr\u00f6\u00dfer', 0]"),
        ({"PYTHONPATH": f"{os.pathsep}/nowhere"}, "gr\u00f6\u00dfer \u2013 ['gr\u00f6\u00dfer', 0]"),
    ],
    ids=["plain", "C", "ascii", "ascii-output", "warnings-optimize", "path"],
)
def test_a_command_is_the_same_in_any_surroundings(tmp_path: Path, variables: dict[str, str], said: str) -> None:
    done = command(tmp_path, variables)
    assert (done.returncode, done.stdout.decode().splitlines()) == (0, [said, "the end"]), done.stderr


@pytest.mark.parametrize("shell", [">&-", "<&- >&- 2>&-", "| head -n 1"])
def test_a_command_goes_on_where_nobody_listens(tmp_path: Path, shell: str) -> None:
    done = command(tmp_path, {}, shell=shell)
    assert done.returncode == 0, done.stderr
    assert b"Error" not in done.stderr


def test_a_module_takes_nothing_from_the_current_folder(tmp_path: Path) -> None:
    variables = {"PYTHONPATH": str(bootstrap.ROOT), "PYTHONOPTIMIZE": "2"}
    done = command(tmp_path, variables, script="-m module")
    assert (done.returncode, done.stdout.decode().splitlines()[-1]) == (0, "the end"), done.stderr


HUNG_UP = f"""
import sys, time
from pathlib import Path
sys.path[0] = {str(bootstrap.ROOT)!r}
from videonsa.bootstrap import ensure_environment
ensure_environment()
print("here", flush=True)
while not Path("closed").exists():
    time.sleep(0.01)
print("still here", flush=True)
print("and here", file=sys.stderr, flush=True)
"""


def test_a_command_outlives_its_terminal(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(HUNG_UP)
    ours, its = pty.openpty()
    command = subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path, stdin=its, stdout=its, stderr=its)
    os.close(its)
    assert os.read(ours, 4) == b"here"
    os.close(ours)
    (tmp_path / "closed").touch()
    assert command.wait(30) == 0


def test_a_module_needs_no_more_than_it_imports(tmp_path: Path) -> None:
    """As kernels are measured where there is torch alone."""
    code = f"import sys; sys.path.insert(0, {str(bootstrap.ROOT)!r}); from videonsa.bootstrap import settle; settle()"
    done = subprocess.run([sys.executable, "-S", "-I", "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
