"""report.html and index.html as text: what they hold, and that all of it stays text. test_browser.py looks at them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analysis.load import Results
from analysis.page import data as page_data
from analysis.page import media as page_media
from analysis.page.index import write_index
from analysis.page.sweep import write_report
from analysis.run import main
from evals.media import Media, sheet_of
from tests.analysis import synthetic
from videonsa.video import Clip, Video

PLACE = "answers/synth-0123/media/abcd.json"
ODD = ("</script><script>alert(1)</script>", "<!--", "שלום \u202e&amp;", "🎥 \x1b", "a\u2028b", "")


def embedded(page: Path) -> dict:
    """The JSON that the page's script reads."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    return json.loads(text)


def given(data: dict, variant: str) -> dict[tuple[str, str], tuple]:
    """What the page says of a variant, by suite and question: answer, prediction, score, error."""
    number, text = data["variants"].index(variant), lambda at: None if at < 0 else data["texts"][at]
    found = {}
    for suite in data["questions"]:
        own, name = suite["given"].get(str(number)), data["suites"][suite["s"]]
        for at, doc in enumerate(suite["doc"] if own else ()):
            error = own.get("error", [-1] * len(suite["doc"]))[at]
            found[name, doc] = (text(suite["answer"][at]), text(own["text"][at]), own["score"][at], text(error))
    return found


@pytest.fixture(scope="module")
def few(rows: pd.DataFrame) -> pd.DataFrame:
    """Two variants."""
    return rows[rows["label"].isin([synthetic.REFERENCE, "b=1 w=24"])]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return tmp_path / "sweeps" / "tiny-budget"


def keep(out: Path, docs: int) -> None:
    """Prompts of a suite's questions, and a sheet of frames of each, as evaluation keeps them."""
    media, questions = Media(out / PLACE).folder.parent, {}
    media.mkdir(parents=True)
    frames = np.zeros((12, 30, 40, 3), np.uint8)
    for number in range(docs):
        frames[:] = number % 256
        (media / f"{number:08x}.jpg").write_bytes(sheet_of(Video.of(frames, 2.0)))
        if number:  # one is not known
            questions[str(number)] = {"prompt": f"What is {number}?\nA. red", "sheets": [f"{number:08x}"]}
    (out / PLACE).write_text(json.dumps(questions))


def test_the_page_holds_the_records(results: Results, rows: pd.DataFrame, plan: dict, sweep: Path) -> None:
    page = write_report(plan, results, rows, sweep)
    data = embedded(page)
    for label, asked in results.questions.groupby("label"):
        found = given(data, str(label))
        assert len(found) == len(asked)
        for row in asked.itertuples():
            answer, prediction, score, error = found[row.suite, row.doc_id]
            said = [None if pd.isna(value) else value for value in (row.prediction, row.error)]
            assert [answer, prediction, error] == [row.answer, *said]
            assert score == row.score or (score is None and np.isnan(row.score))
    done = rows[rows["status"] == "done"]
    cells = [cell for cell in data["cells"] if cell["status"] == "done"]
    for name in ("accuracy", "low", "p_holm"):
        shown = pd.Series([cell[name] for cell in cells], dtype=float)
        pd.testing.assert_series_equal(
            shown, done[name].astype(float).reset_index(drop=True), check_names=False, rtol=1e-5
        )
    lines = {(one["what"], one["of"]): one["lines"] for one in data["layers"]}
    assert len(lines) == 3 * results.gates["probe"].nunique()
    gates = results.gates[(results.gates["label"] == "b=1 w=24") & (results.gates["branch"] == "slc")]
    shown = lines["gate, mean", "b=1 w=24, synth_needle"]["slc"]
    assert shown == [[row.layer, pytest.approx(row.mean, rel=1e-5)] for row in gates.itertuples()]
    text = page.read_text()
    assert "line 1" in text, "the traceback of the cell that failed"
    assert "cells/" in text


def test_nothing_but_its_own_script_runs_and_nothing_is_fetched(
    results: Results, few: pd.DataFrame, plan: dict, sweep: Path
) -> None:
    page = write_report(plan, results, few, sweep).read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    for element, rule in (("script", "script-src"), ("style", "style-src")):
        (source,) = re.findall(f"<{element}>(.*?)</{element}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert not re.search(r"\b(https?:|//)\w", re.sub(r"base64,[\w+/=]+", "", page)), "an address"
    assert not re.search(r"<[^>]* (on\w+|style)=", page), "an inline handler or style"


def test_texts_stay_texts(results: Results, few: pd.DataFrame, plan: dict, sweep: Path) -> None:
    asked = results.questions.copy()
    asked.loc[asked.index[: len(ODD)], "prediction"] = ODD
    odd = replace(results, questions=asked)
    plan = {**plan, "question": f"What {ODD[0]}?"}
    page = write_report(plan, odd, few, sweep)
    text = page.read_text()
    assert "<script>alert" not in text
    assert "<!--" not in text
    found = given(embedded(page), asked["label"].iloc[0])
    said = [found[row.suite, row.doc_id][1] for row in asked.head(len(ODD)).itertuples()]
    assert said == list(ODD)


def test_pictures_are_of_questions_that_variants_answer_differently(
    results: Results, few: pd.DataFrame, plan: dict, sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(tmp_path, synthetic.QUESTIONS)
    keeps = (few["suite"] == "synth_order") & few["is_reference"]  # the other is a record of before
    kept = few.assign(media=few["suite"].map({"synth_order": PLACE}).where(keeps))
    monkeypatch.setattr(page_data, "MOST", 10)
    page = write_report(plan, results, kept, sweep)
    data = embedded(page)
    order = next(suite for suite in data["questions"] if data["suites"][suite["s"]] == "synth_order")
    assert data["texts"][order["prompt"][7]] == "What is 7?\nA. red"
    assert set(order["seconds"]) == {6.0, None}
    assert len(data["sheets"]) == 10
    for name, sheet in data["sheets"].items():
        scores = [own["score"][order["doc"].index(str(int(name, 16)))] for own in order["given"].values()]
        assert len(set(scores)) > 1, "there are as many of them"
        assert base64.b64decode(sheet["jpg"]) == (tmp_path / PLACE).with_name(f"{name}.jpg").read_bytes()
        assert sheet["seen"] == 12
    lost = list(data["sheets"])[:4]
    for name in lost:
        (tmp_path / PLACE).with_name(f"{name}.jpg").unlink()
    data = embedded(write_report(plan, results, kept, sweep))
    order = next(suite for suite in data["questions"] if data["suites"][suite["s"]] == "synth_order")
    assert not {name for of in order["shown"] for sheets in of["sheets"] for name in sheets} & set(lost), "dead links"
    assert len(data["sheets"]) == 10, "of those that are there"
    shared = write_report(plan, results, kept, sweep, pictures=False)
    assert shared.name == "report-no-media.html"
    assert embedded(shared)["sheets"] == {}
    assert "answers/synth" not in shared.read_text()
    assert "href=" in shared.read_text()
    assert not re.search('href="[^#]', shared.read_text()), "it links to files that do not go along"
    for picture in (tmp_path / PLACE).parent.glob("*.jpg"):
        picture.unlink()
    assert embedded(write_report(plan, results, kept, sweep))["sheets"] == {}, "a resumed sweep may lack them"


def test_a_page_is_never_larger_than_its_limit(
    results: Results, few: pd.DataFrame, plan: dict, sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = results.questions.copy()
    asked["prediction"] = [f"{number} " + "視" * 1500 for number in range(len(asked))]  # three bytes each
    long = replace(results, questions=asked)
    empty = len(write_report(plan, replace(results, questions=asked[:0]), few, sweep).read_bytes())
    for limit, letters in ((empty + 1_500_000, 200), (empty + 20_000, 0)):
        monkeypatch.setattr("analysis.page.sweep.LIMIT", limit)
        page = write_report(plan, long, few, sweep)
        assert len(page.read_bytes()) <= limit
        assert embedded(page)["cut"] == letters


@pytest.mark.parametrize("place", ["../../etc/passwd", "answers/a/media/../../x.json", "/answers/a/media/00.json", 7])
def test_a_record_cannot_name_other_files(tmp_path: Path, place: object) -> None:
    assert page_media.Media(tmp_path).question(place, "0") == page_media.Seen()


SAID = {"seconds": 6.0, "seen": 2, "times": [0.0, 3.0], "columns": 2}
NESTED = "[" * 30_000


@pytest.mark.parametrize(
    "change", [{"seconds": float("nan")}, {"times": None}, {"times": [0, "1"]}, {"seen": 10**400}, NESTED, "7", ""]
)
def test_a_sheet_that_says_something_else_is_none(tmp_path: Path, change: object) -> None:
    def about(comment: str) -> dict:
        Image.new("RGB", (8, 8)).save(tmp_path / "0123abcd.jpg", comment=comment)
        return page_media.Media(tmp_path).about("", "0123abcd")

    assert about(json.dumps(SAID | {"more": float("inf")})) == SAID | {"size": (8, 8)}
    assert about(change if isinstance(change, str) else json.dumps(SAID | change)) == {}


def test_the_index_counts_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert "no sweep here yet" in write_index(tmp_path).read_text()
    sweep = synthetic.branch_sweep(tmp_path)
    (tmp_path / "sweeps" / "damaged").mkdir()
    (tmp_path / "sweeps" / "damaged" / "plan.json").write_text("{")
    assert main(["table", "--sweep", sweep.name, "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    assert main(["index", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "index.html")
    text = (tmp_path / "index.html").read_text()
    assert "plan.json cannot be read" in text
    assert '<td class="n" data-sort="21">21</td>' in text, "cells done"
    assert "cmp+slc+swa: synth_needle" in text
    for number, path in enumerate(sorted((tmp_path / "cells").glob("*/record.json"))[:2]):
        record = path.read_text()
        path.write_text(record.replace('"schema": 1', '"schema": 99') if number else record[: len(record) // 2])
    text = write_index(tmp_path).read_text()
    assert '<td class="n" data-sort="19">19</td>' in text, "half a record is none, nor is one of another version"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["table", "--no-media"], "say `report --no-media`"),
        (["report", "--no-questions"], "say `wandb --no-questions`"),
        (["--list", "table1"], "--list tells all names, and makes nothing: say it without any"),
        (["table1", "index", "--sweep", "tiny-smoke"], "of all records is table1, index"),
        (["table", "--out", "nowhere"], "--out nowhere: there is no such folder"),
        (["table36", "--measured", "nowhere"], "--measured nowhere: there is no such folder"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(words)
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_sheets_are_small_and_say_what_they_show(tmp_path: Path) -> None:
    film, clip = np.random.default_rng(0).integers(0, 255, (64, 90, 160, 3), np.uint8), (Path("film.mp4"), Clip(64))
    media = Media(tmp_path / "media")
    media.sheets[clip] = {"0123abcd"}
    media.keep_clip(*clip, Video.of(film, 4.0))
    about = page_media.Media(tmp_path).about("media", "0123abcd")
    times = [0.0, 2.25, 4.5, 6.75, 9.0, 11.25, 13.5, 15.75]
    assert about == {"seconds": 16.0, "seen": 64, "times": times, "columns": 4, "size": (512, 144)}
    media.sheets[clip].add("4567cdef")
    media.keep_clip(*clip, None)  # type: ignore[arg-type]  what cannot be kept costs no question
    assert [path.name for path in (tmp_path / "media").iterdir()] == ["0123abcd.jpg"]


def test_a_disk_that_hangs_holds_nobody_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, answers, clip = [], threading.Event(), (Path("film.mp4"), Clip(64))
    monkeypatch.setattr("evals.media.write_bytes", lambda place, _: begun.append(place) or answers.wait())
    media = Media(tmp_path, stalled=0.2)
    media.sheets[clip] = {"0123abcd"}
    for _ in range(3):
        media.keep_clip(*clip, Video.of(np.zeros((2, 30, 40, 3), np.uint8), 2.0))
    answers.set()
    assert media.hangs
    assert len(begun) <= 1, "what hangs is asked once; a machine may be too slow to come there"
