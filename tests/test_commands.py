"""How our commands are named in what we print and write: as they work in a checkout, or from a wheel."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.page.index import write_index
from analysis.run import main
from tests.test_layers import ROOT, sources
from videonsa import commands
from videonsa.commands import as_typed, to_install

NAMES = ("ablations/run.py", "analysis/run.py")


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our folders lie among a Python's packages."""
    monkeypatch.setattr(commands, "ROOT", tmp_path)


def test_commands_are_typed_by_path_in_a_checkout_and_as_modules_from_a_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "`python ablations/run.py --grid smoke`, then python analysis/run.py table1; python -m videonsa.bench"
    assert as_typed(text) == text
    assert to_install() == "make setup"
    assert "-e '.[report]'" in to_install("report")
    monkeypatch.setattr(commands, "ROOT", tmp_path)
    modules = "`python -m ablations.run --grid smoke`, then python -m analysis.run table1; python -m videonsa.bench"
    assert as_typed(text) == modules
    assert to_install() == "python -m pip install videonsa-bench"
    assert to_install("report") == "python -m pip install 'videonsa-bench[report]'"


def test_from_a_wheel_no_script_is_named(wheel: None, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from ablations.run import parse

    assert main(["--list", "--out", str(tmp_path)]) == 0
    assert main(["table34", "budget", "--out", str(tmp_path)]) == 1
    for parser in (main, parse):
        with pytest.raises(SystemExit):
            parser(["--help"])
        with pytest.raises(SystemExit):
            parser(["--no-such"])
    said = "".join(capsys.readouterr()) + write_index(tmp_path).read_text()
    assert said.count("python -m ablations.run --grid ") > 40
    assert "python -m analysis.run: error: " in said
    assert "python -m ablations.run: error: " in said
    assert "/run.py" not in said


def test_every_text_that_names_a_script_goes_through_one_place() -> None:
    assert [line for path in sources() for line in spelt(path)] == []


def spelt(path: Path) -> Iterator[str]:
    """Texts of a file that name a script, and are neither a docstring nor handed to `as_typed`."""
    text = path.read_text(encoding="utf-8")
    if not any(name in text for name in NAMES):
        return
    tree = ast.parse(text)
    free = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    handed = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "as_typed"]
    free |= {id(node) for call in handed for node in ast.walk(call)}
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in free]
    for node in texts:
        if any(name in str(node.value) for name in NAMES):
            yield f"{path.relative_to(ROOT)}:{node.lineno}: {node.value!r}"
