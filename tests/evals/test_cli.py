"""`python -m lmms_eval`, typed by a user, on CPU-only torch."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.foreign import read_foreign
from evals.data.synthetic import SyntheticData, make_data
from evals.run import evaluate
from evals.suites import suite_settings

ROOT = Path(__file__).parent.parent.parent


def arguments(folder: Path, model_arguments: str, *more: str) -> list[str]:
    return [
        *("--model", "videonsa", "--model_args", f"pretrained={folder},{model_arguments}"),
        *("--include_path", "evals/tasks", "--tasks", "synth_needle", "--limit", "4", *more),
    ]


@pytest.mark.timeout(900)  # a Python of its own, with all its imports: 15 s on an idle machine
def test_the_command_line_gives_what_we_give(folder: Path, data: Path, tmp_path: Path) -> None:
    questions = SyntheticData("needle")  # as the YAML file says
    (make_data(questions, data) / "0002.mp4").write_bytes(b"")
    more = ("--output_path", str(tmp_path), "--log_samples")
    typed = arguments(folder, "block_count=2,window=4,branches=cmp+swa,max_frames=32", *more)
    environment = {**os.environ, "VIDEONSA_DATA": str(data), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "lmms_eval", *typed]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "|synth_needle|none  |     0|exact_match|" in done.stdout
    assert "question 2: VideoError: video 0002.mp4" in done.stdout + done.stderr
    samples = next(tmp_path.rglob("*samples_synth_needle.jsonl"))
    rows = sorted((json.loads(line) for line in samples.read_text().splitlines()), key=lambda row: row["doc_id"])
    nsa = {"block_count": 2, "window": 4, "branches": "cmp+swa"}
    suite = suite_settings("synth_needle", limit=4)
    ours = evaluate(folder, nsa, suite, tmp_path / "cell", data=data)["questions"]
    expected = ["" if row["doc_id"] == 2 else row["prediction"].strip() for row in ours]
    assert [row["filtered_resps"] for row in rows] == expected
    assert [row["target"] for row in rows] == [row["answer"] for row in ours]
    foreign = read_foreign(str(tmp_path)).tasks["synth_needle"]
    assert list(foreign.samples.values()) == rows
    assert foreign.about.startswith(f"videonsa pretrained={folder.name},block_count=2,window=4,branches=cmp+swa,max")
    assert re.search(r"; \d{4}-\d\d-\d\d \d\d:\d\d; lmms-eval ", foreign.about)


def test_a_bad_argument_is_one_line_and_a_failure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """lmms-eval's command line catches exceptions and exits with 0: ours must get through it."""
    from lmms_eval.cli.dispatch import main

    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("VERBOSITY", "WARNING")  # which main() changes
    monkeypatch.setattr(sys, "argv", ["lmms_eval", *arguments(folder, "block_cout=2")])
    with pytest.raises(SystemExit, match=r"^videonsa: unknown model argument 'block_cout'; known: pretrained.*$"):
        main()
