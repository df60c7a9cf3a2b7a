"""The method that CONTRIBUTING shows, as a package of its own: found, planned, run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import invalidate_caches
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
from videonsa.methods.settings import ENTRIES
from videonsa.values import means_text, read_yaml

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
    written = code.read_text()
    first = planned("axes: {method: [paper, dense, strided]}")
    code.write_text(written.replace("% self", "%  self").replace("Chooses", "# a comment\n    # Chooses"))
    assert planned("axes: {method: [paper, dense, strided]}") == first
    code.write_text(written.replace("== 0", "== 1"))
    second = planned("axes: {method: [paper, dense, strided]}")
    code.write_text(written)
    assert before["nsa"] == first["paper"] == second["paper"]
    assert before["dense"] == first["dense"] == second["dense"]
    assert json.dumps(first["strided"]) != json.dumps(second["strided"])
    assert {"kernels", "sparse", "method strided"} <= set(first["strided"]["code"])  # what it imports of ours, too
    assert first["strided"]["method"] == {
        "name": "strided", "block_size": 64, "latest": 2, "stride": 4, "backend": "auto"
    }  # fmt: skip


@contextmanager
def installed(place: Path, points: dict[str, str], **files: str) -> Iterator[None]:
    """A package `other` of these files, as pip would install it; points: entry points by name.

    No bytecode is written: a file that is as long as the one of a second before would pass for that.
    """
    (place / "other").mkdir(exist_ok=True)
    for name, text in {"__init__": "", **files}.items():
        (place / "other" / f"{name}.py").write_text(text)
    about = place / "other-1.dist-info"
    about.mkdir(exist_ok=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1\n")
    lines = [f"{name} = {value}" for name, value in points.items()]
    (about / "entry_points.txt").write_text("\n".join(["[videonsa.methods]", *lines]))
    sys.path.insert(0, str(place))
    invalidate_caches()
    registry._found.cache_clear()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "dont_write_bytecode", True)
            yield
    finally:
        sys.path.remove(str(place))
        registry._found.cache_clear()
        for name in [name for name in sys.modules if name.partition(".")[0] == "other"]:
            del sys.modules[name]


HEAD = """
from dataclasses import dataclass, field
from videonsa.methods.entries import MethodSettings, choice, method, number, share, whole
"""
MADE = "@dataclass(frozen=True)\nclass S(MethodSettings):\n    "
RUNS = "from videonsa.methods.contract import Method\nclass Run(Method):\n    pass\n"


@pytest.mark.parametrize(
    ("point", "text", "message"),
    [
        ("mine = nowhere.to:Be", "", "ModuleNotFoundError: No module named 'nowhere'"),
        ("mine = other.settings:S", "class S: pass", "it is no class made by @method"),
        ("mine", '@method("yours", runs="other.run:Run")\n' + MADE + "pass", "its name='yours' is not valid: the ent"),
        ("train", '@method("train", runs="other.run:Run")\n' + MADE + "pass", "its name='train' is not valid: a free"),
        ("dense", '@method("dense", runs="other.run:Run")\n' + MADE + "pass", None),
        ("a-b", '@method("a-b", runs="other.run:Run")\n' + MADE + "pass", "its name='a-b' is not valid: a free one of"),
        ("mine", '@method("mine", runs="other.gone:Run")\n' + MADE + "pass", "there is no module other.gone"),
        ("mine", '@method("mine", runs="other.run")\n' + MADE + "pass", "runs='other.run' is not valid: package.mod"),
        ("mine", '@method("mine", runs="other.run:Run", parts=("sprase",))\n' + MADE + "pass", "some of settings, mod"),
        ("mine", '@method("mine", runs="other.run:Run", kind="a")\n' + MADE + "pass", "kind='a' is not valid: choose"),
        ("mine", '@method("mine", runs="other.run:Run")\nclass S(MethodSettings): pass', r"S is no @dataclass\(frozen"),
        ("mine", '@method("mine", runs="other.run:Run")\n' + MADE + "name: str = ''", "field='name' is not valid: ano"),
        ("mine", '@method("mine", runs="other.run:Run")\n' + MADE + "size: int", "size='no default' is not valid"),
        ("mine", '@method("mine", runs="other.run:Run")\n' + MADE + "a: int = whole(0)", "mine.a=0 is not valid: a wh"),
    ],
    ids=map(str, range(14)),
)  # fmt: skip
def test_what_cannot_be_asked_is_one_line_and_costs_no_other_method(
    point: str, text: str, message: str | None, tmp_path: Path
) -> None:
    name, _, value = point.partition(" = ")
    with installed(tmp_path, {name: value or "other.settings:S"}, settings=HEAD + text, run=RUNS):
        assert [entry.name for entry in ENTRIES] == [other for other in registry.names() if other != "strided"]
        if message is None:
            assert registry.entries()["dense"] in ENTRIES
            return
        with pytest.raises(SettingsError, match=message) as raised:
            registry.make(name, {})
        assert "\n" not in str(raised.value)
        assert str(raised.value).startswith(f"method={name!r} is not valid: ")


def test_a_class_that_is_no_method_is_one_line_when_it_is_to_run(tmp_path: Path) -> None:
    text = '@method("mine", runs="other.run:{}")\n' + MADE + "pass"
    for name, message in (("Gone", "has no attribute 'Gone'"), ("Path", "is no subclass of contract.Method")):
        files = {"settings": HEAD + text.format(name), "run": RUNS + "from pathlib import Path\n"}
        raises = pytest.raises(SettingsError, match=f"method='mine' cannot run: other.run:{name}.* {message}")
        with installed(tmp_path, {"mine": "other.settings:S"}, **files), raises:
            registry.load(registry.entries()["mine"])


@pytest.mark.parametrize("name", [["dense"], 3, None, "streaming"], ids=str)
def test_a_name_that_is_none_is_one_line_and_says_where_others_come_from(name: object) -> None:
    with pytest.raises(
        SettingsError,
        match=r"choose one of paper, .*, oracle.*; (another package.s must be installed|did you mean dense.)$",
    ):
        registry.from_record({"name": name})


def test_its_fields_are_read_as_it_states_them_and_those_of_others_as_they_do(tmp_path: Path) -> None:
    text = '@method("mine", runs="other.run:Run")\n' + MADE
    text += "threshold: str = field(default='a')\n    backend: int = whole(1)\n    heat: float = number(1.0)\n"
    with installed(tmp_path, {"mine": "other.settings:S"}, settings=HEAD + text, run=RUNS):
        texts = registry.texts() | {"backend"}
        names = ("mine.threshold", "mine.backend", "mine.heat", "xattention.threshold", "tri_shape.backend", "backend")
        assert [means_text(name, texts) for name in names] == [True, False, False, False, True, True]
        grid = "base: {mine: {threshold: 0.5, backend: 2}, xattention.threshold: 0.5}"
        assert read_yaml(grid, "here", texts) == {
            "base": {"mine": {"threshold": "0.5", "backend": 2}, "xattention.threshold": 0.5}
        }
        with pytest.raises(
            SettingsError, match=r"unknown setting 'mine.heet'; known: mine.threshold, .*mean mine.heat"
        ):
            registry.make("mine", {"heet": 1})


def test_what_it_imports_counts_and_a_later_field_with_its_before_does_not(tmp_path: Path) -> None:
    text = '@method("mine", runs="other.run:Run")\n' + MADE + "size: int = whole(1)\n"
    later = text + "    later: int = field(default=3, metadata={'before': 3})\n"
    run, near = (
        RUNS + "from .near import two\nfrom videonsa.methods.tower import watching\n",
        "def two():\n    return 2\n",
    )

    def inputs(settings: str, run: str, near: str, alone: str = "") -> dict[str, object]:
        files = {"settings": HEAD + settings, "run": run, "near": near, "alone": alone}
        with installed(tmp_path, {"mine": "other.settings:S"}, **files):
            made = registry.make("mine", {})
            return {**made.inputs(), **registry.code_of(made, lambda part, find: find())}

    usual = inputs(text, run, near)
    assert {"modeling", "dropping", "method mine"} <= set(usual)
    assert inputs(later, run + "# a comment\n", '"""Prose."""\n' + near, "x = 1\n") == usual
    assert inputs(later.replace("default=3", "default=4"), run, near) == usual | {"later": 4}
    assert inputs(text, run, near.replace("return 2", "return 3"))["method mine"] != usual["method mine"]
    shares = text + "\n    def sampling(self):\n        return {'frame_share': 0.5}\n"
    assert inputs(shares, run, near)["method mine"] != usual["method mine"]
