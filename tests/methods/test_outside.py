"""The method that CONTRIBUTING shows, as a package of its own: found, planned, run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ablations.cell import make_cells
from ablations.grid import load_grid
from ablations.profile import load_profile
from evals.checkpoint import Checkpoint
from evals.run import evaluate
from evals.suites import suite_settings
from tests.evals.conftest import data, folder, loaded  # noqa: F401
from tests.test_layers import ROOT
from videonsa.config import SettingsError
from videonsa.methods import registry

NEEDLE = suite_settings("synth_needle", limit=2, frames=8)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on the path with the files of the listing, as pip would install them."""
    place = tmp_path_factory.mktemp("site")
    listings = re.findall(r"```(python|toml)\n# (\S+?):? .*?\n(.*?)```", _section(), re.S)
    listings += re.findall(r"```(toml)\n# (\S+)\n(.*?)```", _section(), re.S)
    files = {name.rstrip(":"): text for _, name, text in listings}
    assert {"strided/settings.py", "strided/attention.py", "pyproject.toml"} <= set(files)
    assert sum(text.count("\n") for text in files.values()) <= 50
    (place / "strided").mkdir()
    (place / "strided" / "__init__.py").touch()
    for name in ("settings", "attention"):
        (place / "strided" / f"{name}.py").write_text(files[f"strided/{name}.py"])
    about = place / "strided-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: strided\nVersion: 1\n")
    points = files["pyproject.toml"].split("entry-points.")[1]
    (about / "entry_points.txt").write_text(
        points.replace('"videonsa.methods"]', "[videonsa.methods]").replace('"', "")
    )
    sys.path.insert(0, str(place))
    registry._found.cache_clear()
    yield place
    sys.path.remove(str(place))
    registry._found.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "strided"]:
        del sys.modules[name]


def _section() -> str:
    return (ROOT / "CONTRIBUTING.md").read_text().split("## Add a method\n")[1].split("\n## ")[0]


def test_it_is_planned_by_the_command_without_torch(package: Path, tmp_path: Path) -> None:
    grid = tmp_path / "mine.yaml"
    grid.write_text(re.findall(r"```yaml\n(.*?)```", _section(), re.S)[0])
    code = (
        "import sys; from ablations import run; code = run.main(sys.argv[1:]); assert 'torch' not in sys.modules; "
        "sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "--grid", str(grid), "--dry-run", "--out", str(tmp_path / "runs")]
    env = {"PYTHONPATH": f"{ROOT}:{package}", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "strided" in done.stdout


def test_it_answers_and_says_what_it_computed(package: Path, loaded: Checkpoint, data: Path, tmp_path: Path) -> None:  # noqa: F811
    settings = registry.make("strided", {"block_size": 4, "latest": 1, "stride": 2})
    result = evaluate(loaded, {}, NEEDLE, tmp_path, data=data, method=settings)
    spent = result["questions"][0]["spent"]
    length = result["questions"][0]["prefill_tokens"]
    seen = torch.ones(length, length).tril()
    block = torch.arange(length) // 4
    seen *= (block % 2 == 0) | (block[:, None] == block)
    density = float(seen.sum()) / (length * (length + 1) / 2)
    assert spent["method"] == "strided"
    assert spent["density"] == pytest.approx([density] * len(spent["density"]), abs=1e-6)
    assert spent["tokens"] == [length] * len(spent["density"])
    assert result["summary"]["attention_fraction"] == pytest.approx(density, abs=1e-6)
    whole = registry.make("strided", {"block_size": 4, "stride": 1})
    full = evaluate(loaded, {}, NEEDLE, tmp_path / "whole", data=data, method=whole)
    dense = evaluate(loaded, {"attention": "dense"}, NEEDLE, tmp_path / "dense", data=data)
    assert full["questions"][0]["spent"]["density"] == dense["questions"][0]["spent"]["density"]
    assert [row["prediction"] for row in full["questions"]] == [row["prediction"] for row in dense["questions"]]


def test_its_code_and_settings_count_where_it_is_asked_alone(package: Path, tmp_path: Path) -> None:
    def planned(text: str) -> dict[str, dict]:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        cells = make_cells(load_grid(str(path), "tiny"), load_profile("tiny"))
        return {cell.label: cell.inputs for cell in cells if cell.suite.name == cells[0].suite.name and not cell.seed}

    before = planned("axes: {nsa.attention: [nsa, dense]}")
    code = package / "strided" / "attention.py"
    first = planned("axes: {method: [paper, dense, strided]}")
    code.write_text(code.read_text().replace("% self", "%  self"))
    second = planned("axes: {method: [paper, dense, strided]}")
    assert before["nsa"] == first["paper"] == second["paper"]
    assert before["dense"] == first["dense"] == second["dense"]
    assert json.dumps(first["strided"]) != json.dumps(second["strided"])
    assert first["strided"]["method"] == {
        "name": "strided", "block_size": 64, "latest": 2, "stride": 4, "backend": "auto"
    }  # fmt: skip


def test_a_package_that_is_broken_costs_only_its_own_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = tmp_path / "broken-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[videonsa.methods]\nbroken = nowhere.to:Be\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry._found.cache_clear()
    try:
        assert "dense" in registry.names()
        with pytest.raises(SettingsError, match=r"method=.broken. is not valid: nowhere\.to:Be is no class"):
            registry.make("broken", {})
    finally:
        monkeypatch.undo()
        registry._found.cache_clear()
