"""The command line and summarize: what is made, made once, and said when it cannot be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.run import main, summarize
from analysis.summary import fingerprint
from tests.analysis import synthetic

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return synthetic.branch_sweep(tmp_path)


def test_summarize_writes_table_figures_and_report_once(tmp_path: Path, sweep: Path) -> None:
    paths = summarize(tmp_path, sweep)
    names = [path.relative_to(sweep).as_posix() for path in paths]
    assert names[:3] == ["table.txt", "table.csv", "table.md"]
    assert "figures/branches.pdf" in names
    assert "figures/budget.pdf" not in names, "this sweep varies no budget"
    assert "figures/gates.pdf" not in names, "this sweep has no probe"
    assert names[-1] == "report.html"
    assert "sweeps/tiny-branches/report.html" in (tmp_path / "index.html").read_text()
    before = {path: path.stat().st_mtime_ns for path in paths}
    assert summarize(tmp_path, sweep) == paths
    assert {path: path.stat().st_mtime_ns for path in paths} == before


def test_summarize_follows_the_records(tmp_path: Path, sweep: Path) -> None:
    summarize(tmp_path, sweep)
    record = next((tmp_path / "cells").iterdir()) / "record.json"
    record.unlink()
    summarize(tmp_path, sweep)
    assert "1 of 21 cells have no record yet" in (sweep / "table.txt").read_text()
    (sweep / "figures" / "branches.png").unlink()
    summarize(tmp_path, sweep)
    assert (sweep / "figures" / "branches.png").is_file()


def test_another_script_makes_another_page(tmp_path: Path, sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(tmp_path, sweep)
    assert fingerprint(tmp_path, sweep) == before
    monkeypatch.setattr("analysis.summary.page_version", lambda: "another")
    assert fingerprint(tmp_path, sweep) != before


def test_a_figure_that_can_no_longer_be_drawn_is_removed(tmp_path: Path, sweep: Path) -> None:
    summarize(tmp_path, sweep)
    for records in ("cells", "trainings"):
        shutil.rmtree(tmp_path / records)
    paths = summarize(tmp_path, sweep)
    assert [path.name for path in paths] == ["table.txt", "table.csv", "table.md", "report.html"]
    assert list((sweep / "figures").iterdir()) == []


def test_a_finished_sweep_is_found_without_pandas(tmp_path: Path, sweep: Path) -> None:
    summarize(tmp_path, sweep)
    code = f"""
import sys
from pathlib import Path
from analysis.run import summarize
paths = summarize(Path({str(tmp_path)!r}), Path({str(sweep)!r}))
heavy = [name for name in ("pandas", "matplotlib", "scipy", "torch") if name in sys.modules]
sys.exit(f"imported {{heavy}}" if heavy or not paths else 0)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.long
def test_one_broken_figure_costs_no_other(tmp_path: Path, sweep: Path, monkeypatch, caplog) -> None:
    from analysis.figures import accuracy

    def broken(rows: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(accuracy, "draw_branches", broken)
    names = [path.name for path in summarize(tmp_path, sweep)]
    assert "accuracy.pdf" in names
    assert "branches.pdf" not in names
    assert "figure branches could not be drawn" in caplog.text
    monkeypatch.undo()
    assert "branches.pdf" in [path.name for path in summarize(tmp_path, sweep)], "a broken one is tried again"


def test_names_sweeps_and_refusals(out: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["--list", "--out", str(out)]) == 0
    assert "tiny-budget" in capsys.readouterr().out
    assert main(["budgte", "--out", str(out)]) == 2
    assert "unknown name 'budgte'; names: table" in capsys.readouterr().err
    assert main(["budget", "--sweep", "nope", "--out", str(out)]) == 2
    assert "no sweep 'nope'" in capsys.readouterr().err
    assert main(["budget", "--sweep", "tiny-tokens", "--out", str(out)]) == 1
    assert "varies block_count or window" in capsys.readouterr().err
    assert main(["budget", "table", "--style", "slides", "--out", str(out)]) == 2
    assert "table is no figure, --style does nothing to it; figures: accuracy, budget" in capsys.readouterr().err
    assert main(["kernels", "--benchmark", str(out / "none.csv"), "--out", str(out)]) == 2
    assert "none.csv" in capsys.readouterr().err
    assert main(["kernels", "table35", "--benchmark", str(out / "none.csv"), "--out", str(out)]) == 2
    told = capsys.readouterr()
    assert "--benchmark FILE names another table" in told.err
    assert "Table 35" in told.out, "the rest is made"


def test_figures_of_measurements_need_no_records_and_make_their_folder(tmp_path: Path) -> None:
    assert main(["prefills", "--out", str(tmp_path / "new")]) == 0
    assert (tmp_path / "new" / "figures" / "prefills.png").is_file()


def test_a_damaged_plan_is_one_line(tmp_path: Path, sweep: Path, capsys: pytest.CaptureFixture) -> None:
    (sweep / "plan.json").write_text("{")
    assert main(["table", "--out", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "plan.json" in line


@pytest.mark.parametrize("plan", ["{", '{"cells": [{"id": 5}]}', '{"cells": [{"id": "a", "method": []}]}', "[" * 10**5])
def test_a_damaged_plan_costs_no_other_sweep(
    tmp_path: Path, sweep: Path, capsys: pytest.CaptureFixture, plan: str
) -> None:
    (tmp_path / "sweeps" / "a-damaged").mkdir()
    (tmp_path / "sweeps" / "a-damaged" / "plan.json").write_text(plan)
    assert main(["table", "--out", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "a-damaged/plan.json: no plan of a sweep" in line
    assert (sweep / "table.md").is_file()


def test_all_makes_the_index_and_passes_a_damaged_plan_over(
    tmp_path: Path, sweep: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.items.make.make", lambda names, found: [])
    monkeypatch.setattr("analysis.items.appendix.write_appendix", lambda made, found: [])
    summarize(tmp_path, sweep)
    (tmp_path / "index.html").unlink()
    (tmp_path / "sweeps" / "a-damaged").mkdir()
    (tmp_path / "sweeps" / "a-damaged" / "plan.json").write_text("{")
    assert main(["--all", "--out", str(tmp_path)]) == 2
    told = capsys.readouterr()
    assert str(sweep / "table.txt") in told.out
    assert "a-damaged/plan.json" in told.err
    assert "plan.json cannot be read" in (tmp_path / "index.html").read_text()


def test_the_table_is_shown_and_written(
    tmp_path: Path, sweep: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["table", "report", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "cmp+slc+swa" in shown
    assert (sweep / "report.html").is_file()
    assert shown.count("   76.2\n") == 7, "no column is cut off in a narrow terminal"


def test_the_table_is_shown_beside_another_variant(
    tmp_path: Path, sweep: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    asked = ["table", "--out", str(tmp_path), "--sweep", sweep.name, "--reference"]
    before = sorted(sweep.rglob("*"))
    assert main([*asked, "slc+swa"]) == 0
    assert "the difference to slc+swa on the same questions" in capsys.readouterr().out
    assert sorted(sweep.rglob("*")) == before
    assert main([*asked, "slc+sw"]) == 2
    said = capsys.readouterr().err
    assert f"error: no variant 'slc+sw' in {sweep.name}; variants: " in said
    assert "did you mean slc+swa" in said
    with pytest.raises(SystemExit):
        main(["parts", *asked[1:], "slc+swa"])
    assert "say `table --reference VARIANT` alone" in capsys.readouterr().err


def test_it_works_as_typed_with_any_python(out: Path) -> None:
    environment = {**os.environ, "COLUMNS": "120"}
    command = ["python3", "analysis/run.py", "--list", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "tiny-budget" in done.stdout
