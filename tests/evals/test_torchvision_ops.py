"""torchvision imports beside CPU-only torch, in any Python of the environment, and the cure costs nothing before."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from videonsa.torchvision_ops import TorchvisionFinder, install

ROOT = Path(__file__).parent.parent.parent
HOOK = ROOT / "videonsa" / "videonsa_torchvision.pth"


def test_a_bare_python_imports_torchvision() -> None:
    code = "import torchvision.transforms.v2; from transformers import Qwen2VLVideoProcessor; print('imported')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert done.stdout == "imported\n", done.stderr


def test_a_bare_python_imports_no_torch() -> None:
    code = (
        "import sys; print('torch' in sys.modules, any(type(f).__name__ == 'TorchvisionFinder' for f in sys.meta_path))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert done.stdout == "False True\n", done.stderr


def test_a_clone_first_on_the_path_is_what_runs(tmp_path: Path) -> None:
    """The hook has imported the installed package; it must not stay."""
    (tmp_path / "videonsa").mkdir()
    (tmp_path / "videonsa" / "__init__.py").write_text("print('the clone')")
    done = subprocess.run([sys.executable, "-c", "import videonsa"], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "the clone\n", done.stderr


def test_the_hook_goes_into_every_install() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included == {HOOK.relative_to(ROOT).as_posix(): HOOK.name}


def test_another_package_of_our_name_first_on_the_path_is_passed_over(tmp_path: Path) -> None:
    """Such as the folder of the published code in PYTHONPATH: torchvision imports there too, and the package stays."""
    (tmp_path / "videonsa").mkdir()
    (tmp_path / "videonsa" / "__init__.py").write_text("print('another')")
    code = (
        f"import site, sys; site.addpackage({str(HOOK.parent)!r}, {HOOK.name!r}, None);"
        "print([type(f).__name__ for f in sys.meta_path].count('TorchvisionFinder')); import videonsa"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-S", "-c", code]  # without what is installed
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", env=environment)
    assert done.stdout == "1\nanother\n", done.stderr


def test_the_hook_is_one_line_that_does_nothing_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = HOOK.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("import "), "Python runs only the lines of a .pth file that begin with import"
    monkeypatch.setattr("sys.path", [])
    exec(lines[0], {})


def test_installing_twice_puts_one_finder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.meta_path", list(sys.meta_path))
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    install()
    install()
    assert sum(type(each).__name__ == TorchvisionFinder.__name__ for each in sys.meta_path) == 1
    assert TorchvisionFinder().find_spec("json") is None
