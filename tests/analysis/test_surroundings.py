"""Tables and figures are the same whatever the user's matplotlib, terminal and labels are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pandas as pd
import pytest

from analysis.figures import draw, module
from analysis.load import find_reference, load, read_plan
from analysis.page.sweep import write_report
from analysis.parts import markdown_row
from analysis.summary import sweep_data, write_tables
from analysis.tables import to_text
from tests.analysis import synthetic
from tests.analysis.synthetic import BUDGETS, REFERENCE

ROOT = Path(__file__).parent.parent.parent
LONG = ["x" * 150 + middle + "y" * 150 for middle in "ab"]
LABELS = [
    "$100% vs $50%",
    "<b>a|b</b> & _x_ `c`",
    "方案一",
    "שלום",
    "=1+1\\",
    "e\u0301 🎥 a\u2028b\r\nc",
    *LONG,
    "-cmp",
]
DRAW = """
import sys
from pathlib import Path
from analysis.figures import module
style = module("style")
with style.style():
    figure = style.new_figure(2, 1)
    figure.subplots().plot([1, 3, 2], "--", label="50 %")
    style.save(figure, Path(sys.argv[1]), "drawn")
"""


def test_figures_are_matplotlibs_and_ours_whatever_the_user_has_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["-c", str(tmp_path / "plain")])
    exec(DRAW, {})
    other = tmp_path / "other"
    other.mkdir()
    settings = (
        "text.usetex: True\nlines.dashed_pattern: 9, 9\nsavefig.dpi: 30\nbackend: nonsense\n# Schriftgr\u00f6\u00dfe\n"
    )
    (other / "matplotlibrc").write_bytes(settings.encode("latin-1"))
    variables = {"PYTHONPATH": str(ROOT), "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    command = [sys.executable, "-c", DRAW, str(other)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=other, env=os.environ | variables, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for kind in ("png", "svg", "pdf"):
        assert (other / f"drawn.{kind}").read_bytes() == (tmp_path / "plain" / f"drawn.{kind}").read_bytes()


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep whose variants have such labels."""
    folder = synthetic.budget_sweep(tmp_path_factory.mktemp("labels"))
    plan = json.loads((folder / "plan.json").read_text())
    names = dict(zip([f"b={count} w={window}" for count, window in BUDGETS], LABELS, strict=True))
    for cell in plan["cells"]:
        cell["label"] = names[cell["label"]]
    plan |= {"reference": names[REFERENCE], "question": "Is $a < $b?\n_yes_"}
    (folder / "plan.json").write_text(json.dumps(plan))
    return folder


@pytest.fixture(scope="module")
def data(sweep: Path) -> dict:
    plan = read_plan(sweep)
    return sweep_data(plan, load(sweep.parent.parent, plan))


def test_tables_hold_the_labels(sweep: Path, data: dict):
    plan, results = read_plan(sweep), load(sweep.parent.parent, read_plan(sweep))
    assert find_reference(plan, results.cells) == LABELS[BUDGETS.index((5, 4))]
    write_tables(plan, data, sweep)
    assert list(dict.fromkeys(pd.read_csv(sweep / "table.csv")["label"])) == LABELS  # all of it, as it was written
    text = (sweep / "table.txt").read_text(encoding="utf-8").splitlines()
    assert max(map(len, text)) <= 140
    assert sum(line.startswith(("$100% vs $50% ", "<b>a|b</b> & _x_ `c` ", "-cmp  ")) for line in text) == 3
    marked = (sweep / "table.md").read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith("| ") for line in marked) == 2 + len(LABELS)
    assert "| \\<b>a\\|b\\</b> & \\_x\\_ \\`c\\` |" in "\n".join(marked)
    page = write_report(plan, results, data["rows"], sweep).read_text(encoding="utf-8")
    assert '<th scope="row">&lt;b&gt;a|b&lt;/b&gt; &amp; _x_ `c`</th>' in page
    assert all(f'<th scope="row">{label}</th>' in page for label in LONG)


def test_figures_show_the_labels(tmp_path: Path, data: dict):
    style = module("style")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # none of a missing letter, none of a layout that does not fit
        draw("accuracy", data, tmp_path)
    assert len(set(style.probe_titles(data["gates"]).values())) == len(LABELS)  # above panels
    shown = style.names(LABELS)
    assert len(set(shown)) == len(LABELS)
    assert style.widest(shown) <= style.NAME_WIDTH
    assert shown[0] == LABELS[0]
    assert shown[5] == "é \\U0001f3a5 a b c"


def test_a_table_as_text_does_not_hang_on_the_terminal(sweep: Path, data: dict, monkeypatch: pytest.MonkeyPatch):
    plan = read_plan(sweep)
    before = to_text(data["rows"], plan)
    for name, value in {"COLUMNS": "20", "TERM": "dumb", "FORCE_COLOR": "1", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    assert to_text(data["rows"], plan) == before


def test_a_cell_of_a_markdown_table_may_hold_a_bar():
    assert markdown_row(["a|b", "c"]) == "| a\\|b | c |"


def test_names_in_measurements_are_text(tmp_path: Path):
    table = (ROOT / "benchmarks" / "h200.csv").read_text().replace("sdpa_flash", "_$mine$").replace("H200", "$A_1$")
    (tmp_path / "own.csv").write_text(table)
    kernels, style = module("kernels"), module("style")
    with style.style():
        figure = kernels.draw(kernels.read(tmp_path / "own.csv"))
    shown = [text.get_text() for legend in figure.subfigs[0].legends for text in legend.get_texts()]
    assert "_$mine$" in shown
    assert figure.get_suptitle().endswith("NVIDIA $A_1$")
