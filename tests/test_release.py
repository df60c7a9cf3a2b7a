"""What is cited and released: one version everywhere, a citation that tools can read, a wheel that works elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import videonsa

ROOT = Path(__file__).parent.parent


def test_the_version_stands_in_one_place_and_what_repeats_it_agrees() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert "version" not in project["project"]
    assert project["tool"]["hatch"]["version"]["path"] == "videonsa/__init__.py"
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == videonsa.__version__
    changes = (ROOT / "CHANGELOG.md").read_text()
    released = re.findall(r"^## \[(\d[^\]]*)\] - \d{4}-\d\d-\d\d$", changes, re.MULTILINE)
    assert "## [Unreleased]" in changes
    assert released[:1] == [videonsa.__version__] if released else f"What will be {videonsa.__version__}," in changes


def test_the_citation_names_this_software_and_the_paper() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(cited)  # what the format asks for
    assert cited["license"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"]
    paper = cited["preferred-citation"]
    assert {"type", "title", "authors"} <= set(paper)
    assert paper["url"] == "https://arxiv.org/abs/2510.02295"
    assert all({"given-names", "family-names"} == set(author) for author in paper["authors"])


@pytest.mark.long
def test_a_wheel_works_from_another_folder(tmp_path: Path) -> None:
    """Installed beside the libraries of this environment, without the repository on any path."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    quiet = ("--quiet", "--disable-pip-version-check", "--no-deps")
    wheels, site, elsewhere = tmp_path / "wheels", tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", *quiet, "-w", str(wheels), str(ROOT)], env=environment, check=True)
    (wheel,) = wheels.iterdir()
    assert wheel.name.startswith(f"videonsa_bench-{videonsa.__version__}-")
    subprocess.run([*pip, "install", *quiet, "--target", str(site), str(wheel)], env=environment, check=True)

    def said(*command: str) -> str:
        own = environment | {"PYTHONPATH": str(site)}
        done = subprocess.run([sys.executable, *command], cwd=elsewhere, env=own, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    place = said("-c", "import videonsa, analysis; print(videonsa.__file__, analysis.__file__)")
    assert [Path(name).parent.parent for name in place.split()] == [site, site]
    assert "baselines" in said("-m", "ablations.run", "--list")
    assert "b=4 w=8" in said("-m", "ablations.run", "--grid", "budget", "--dry-run")
    listed = said("-m", "analysis.run", "--list")
    assert "table1" in listed
    assert "/run.py" not in listed
    _, *named = next(line for line in listed.splitlines() if "--grid branches " in line).split()
    assert "branches" in said(*named, "--dry-run"), "the command that fills an item works as it is named"
