"""The paper's tables and figures by name: what the file declares, and what is said where there is nothing yet."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from ablations.grid import grid_names
from analysis.items import catalog
from analysis.items.printed import BROWSERS, NotPrinted, print_page
from analysis.items.published import numbers
from analysis.paper import load_reference
from analysis.paper.questions import VIDEONSA
from analysis.run import main
from evals.suites import SUITES
from tests.analysis import synthetic
from tests.analysis.paper_records import finished, write
from videonsa.arrays import ARRAYS
from videonsa.config import NSASettings, to_dict
from videonsa.record import SCHEMA


def test_every_table_and_figure_of_the_paper_is_declared_once_in_its_order() -> None:
    items = catalog().items
    assert list(items) == [f"table{n}" for n in range(1, 38)] + [f"fig{n}" for n in range(1, 30)]
    known = [name for name, item in items.items() if item.kind != "unknown"]
    assert sum(name.startswith("table") for name in known) == 30
    assert all(items[name].shows for name in known)
    made = {item.number for name, item in items.items() if name.startswith("table") and item.kind != "unknown"}
    assert set(load_reference()["table"]) <= made
    assert {grid for item in items.values() for grid in item.grids} <= set(grid_names("paper"))


def test_what_the_paper_leaves_open_is_asked_as_the_suites_do() -> None:
    for name in ("lsdbench", "videoevalpro"):
        asked = SUITES[name].settings
        assert catalog().sampling[name] == {field: getattr(asked, field) for field in catalog().sampling[name]}


def test_each_contradiction_stands_at_a_number_of_each_of_its_tables() -> None:
    for said in catalog().contradictions:
        for table in said.tables:
            assert any(said.says in number.marks for number in numbers([table])), (said.says, table)


@pytest.mark.parametrize(
    ("table", "where", "mark"),
    [
        (7, {"method": "videonsa", "metric": "overall"}, "60.0 in tables 1, 2; 59.4 in tables 3, 22; 60.2 in table 7"),
        (11, {"method": "xattention", "metric": "overall"}, "36.6 in table 1; 35.0 in table 11"),
        (28, {"block_count": 4}, "a failed run in the paper"),
        (12, {"method": "videonsa"}, "the paper does not say how it samples this benchmark"),
        (27, {"benchmark": "vsibench", "context": "64k"}, "ours has 1,024 frames of 64 tokens"),
    ],
)
def test_what_to_know_of_a_number_stands_at_it(table: int, where: dict, mark: str) -> None:
    of = [
        number for number in numbers([table]) if all(getattr(number.row, key) == value for key, value in where.items())
    ]
    assert of
    assert all(any(mark in text for text in number.marks) for number in of)
    agreed = next(number for number in numbers([1]) if number.row.method == "qwen2_5_vl_7b")
    assert agreed.marks == ()


def evaluation(suite: str, **changes: object) -> dict:
    """A record of VideoNSA's weights under static gates."""
    asked = to_dict(SUITES[suite].settings) | {name: value for name, value in changes.items() if name == "limit"}
    made = to_dict(NSASettings(semantics="release"))
    settings = {"train": {"checkpoint": VIDEONSA, "name": VIDEONSA, "nsa": made}, "suite": asked, "seed": 0}
    settings |= {"nsa": made | {"gate_mode": "static"}}
    questions = [{"doc_id": n, "score": float(n % 2), "error": None} for n in range(8)]
    scores = {"accuracy": 0.5, "questions": 8, "errors": 0}
    done = {"schema": SCHEMA, "kind": "evaluation", "status": "done", "id": suite, "label": "dense"}
    error = {"type": "OutOfMemoryError", "message": "no"} if changes.get("status") == "failed" else None
    record = done | {"settings": settings, "scores": scores, "questions": questions, "summary": {}, "error": error}
    return record | {name: value for name, value in changes.items() if name in record}


def test_a_cell_is_found_by_what_it_was_asked_and_a_failed_one_is_no_number(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    several = [evaluation("longtimescope"), evaluation("tomato", status="failed"), evaluation("vsibench", limit=4)]
    for record in several:
        write(tmp_path / "cells" / record["id"], record)
    (tmp_path / "cells" / "half").mkdir()
    (tmp_path / "cells" / "half" / "record.json").write_text("{")
    assert main(["table34", "--out", str(tmp_path)]) == 0
    shown, problems = capsys.readouterr()
    assert "| qwen2_5_vl_7b | ours | - | - | - |" in shown, "its label says dense; it is not"
    assert "| videonsa_static_gate | ours | 50.0 [21.5–78.5] | failed | - |" in shown, "four questions are not all"
    assert "partly: 1 of 9 cells, 1 failed" in shown
    command = "python ablations/run.py --grid gates --profile paper --out OUT"
    assert f"    {command}\n" in shown
    assert f"    {command} --retry-failed\n" in shown
    assert "half/record.json: not a whole record, left out" in problems


def test_an_empty_folder_lists_every_item_with_the_command_that_fills_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "none").mkdir()
    assert main(["--list", "--measured", "none"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = {line.split()[0]: place for place, line in enumerate(lines) if line.startswith("  ") and line.strip()}
    for name, item in catalog().items.items():
        line = lines[at[name]]
        if item.kind in ("no_data", "unknown"):
            assert ("not known to us" in line) == (item.kind == "unknown")
        else:
            assert "nothing yet: 0 of" in line
            assert lines[at[name] + 1].startswith("           python ")
    assert lines[at["table2"] + 1].strip() == "python ablations/run.py --grid branches --profile paper"
    assert (
        lines[at["table37"] + 1]
        .strip()
        .endswith("--providers flash_nsa fla_nsa triton --lengths 8192 --out none/h100.csv")
    )


def test_without_a_browser_the_page_is_there_and_a_line_says_why_no_pdf_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "appendix.html"
    page.write_text("<p>ours")
    page.with_suffix(".pdf").write_bytes(b"of other records")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        NotPrinted, match=r"^no appendix\.pdf: it wants Chromium or Chrome \(chromium, .*\); any browser"
    ):
        print_page(page)
    assert [path.name for path in tmp_path.iterdir()] == ["appendix.html"]


@pytest.mark.long
@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="no Chromium or Chrome")
def test_a_page_is_printed(tmp_path: Path) -> None:
    page = tmp_path / "a page.html"
    page.write_text("<h1>Table 1</h1>" + "<p style='break-after: page'>one</p>" * 2)
    written = print_page(page).read_bytes()
    assert written.startswith(b"%PDF")
    assert written.count(b"/Type /Page\n") == 2


def test_an_item_of_an_empty_folder_shows_what_is_published_and_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["Table34", "FIG4", "fig5", "table4", "--out", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "| videonsa_static_gate | ours | - | - | - |" in shown
    assert "|  | published | 41.5 | 23.7 | 31.8 |" in shown
    assert "    python ablations/run.py --grid gates --profile paper --out OUT\n" in shown
    assert "What is missing is filled by (OUT: the folder of these records):" in shown
    observers = "probe.observers=gates+gate_similarity+gate_vectors+gate_content"
    assert f"    python ablations/run.py --grid transfer --profile paper --set {observers} --out OUT\n" in shown
    assert "its contents are not known to us" in shown
    assert set(pd.read_csv(tmp_path / "paper" / "table34.csv")["state"]) == {"missing"}
    assert not (tmp_path / "paper" / "fig4.pdf").exists()


def test_what_is_written_names_no_folder_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out, measured = tmp_path / "runs", tmp_path / "measured"
    synthetic.pair_sweep(out)
    measured.mkdir()
    (measured / "methods.csv").write_text("method,data,length,density,heads,head_dim,total_ms\n")
    damaged = next((out / "cells").iterdir()) / "record.json"
    damaged.write_text("{")
    monkeypatch.setattr(shutil, "which", lambda browser: None)
    asked = ["--out", str(out), "--measured", str(measured)]
    assert main(["appendix", *asked]) == 0
    assert main(["table", "index", *asked]) == 0
    capsys.readouterr()
    texts = {path: path.read_text() for path in out.rglob("*") if path.suffix in (".html", ".md", ".csv", ".txt")}
    assert len(texts) > 80
    assert [path for path, text in texts.items() if str(tmp_path) in text] == []
    appendix = texts[out / "paper" / "appendix.html"]
    problem = f"cells/{damaged.parent.name}/record.json: not a whole record, left out"
    assert problem in appendix
    assert problem in texts[out / "sweeps" / "tiny-pair" / "table.md"]
    assert "(MEASURED: the folder of measurements):" in appendix
    assert "--out MEASURED/methods.csv" in appendix
    monkeypatch.chdir(tmp_path)
    assert main(["--list", *asked]) == 0
    listed = capsys.readouterr().out
    assert "python ablations/run.py --grid branches --profile paper\n" in listed, "runs is the default"
    assert "--out measured/methods.csv\n" in listed


def test_a_figure_whose_arrays_are_gone_is_missing_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("ablations.facts.part_version", lambda part: "code")
    (probe,) = finished("transfer", tmp_path, suites=["timescope"]).probes.values()
    assert main(["fig25", "--out", str(tmp_path)]) == 1
    assert "fig25 is not drawn: fewer than three videos" in capsys.readouterr().err
    arrays = tmp_path / "probes" / probe.id / ARRAYS
    arrays.write_bytes(arrays.read_bytes()[:-9])
    assert main(["fig20", "--out", str(tmp_path)]) == 1
    assert "not the file that the record was written with" in capsys.readouterr().err
    arrays.unlink()
    assert main(["fig20", "--out", str(tmp_path)]) == 1
    shown, problems = capsys.readouterr()
    assert f"{ARRAYS}: not there, though the record names it" in problems
    assert "    python ablations/run.py --grid transfer --profile paper --set probe.observers=gates+" in shown
