"""What a local task asks: by content, wherever its files lie."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from evals.content import task_content
from evals.suites import suite_settings


def task(folder: Path, question: str = "Which way?", code: str = "", kept: str = "", more: str = "") -> Path:
    """A task as docs/evaluation.md says, over a shipped one; returns the folder for $VIDEONSA_TASKS."""
    spec = find_spec("lmms_eval")
    assert spec is not None
    shipped = Path(str(spec.origin)).parent / "tasks" / "tomato" / "tomato.yaml"
    folder.mkdir()
    (folder / "docs.jsonl").write_text(json.dumps({"question": question}) + "\n")
    (folder / "local.yaml").write_text(
        f"include: {shipped}\ntask: tomato_local\ndataset_path: json\n{kept}"
        f"dataset_kwargs: {{data_files: {{test: {folder}/docs.jsonl}}, cache_dir: {folder}/cache}}\n"
    )
    for name, text in (("utils", code), ("more", more)):
        if text:
            (folder / f"{name}.py").write_text(text)
    return folder


@pytest.fixture
def content(monkeypatch: pytest.MonkeyPatch):
    def of(folder: Path) -> str | None:
        monkeypatch.setenv("VIDEONSA_TASKS", str(folder))
        return task_content(suite_settings("tomato", task="tomato_local"))

    return of


def test_a_local_task_is_its_content_not_its_place(content, tmp_path: Path):
    usual = content(task(tmp_path / "a"))
    assert usual == content(task(tmp_path / "b"))
    named, code = "process_docs: !function utils.process\n", "from . import more\n\ndef process(doc):\n    return 1\n"
    others = [
        content(task(tmp_path / "c", question="Which way does it turn?")),
        content(task(tmp_path / "d", code=code, kept=named)),
        content(task(tmp_path / "e", code=code.replace("1", "2"), kept=named)),
        content(task(tmp_path / "f", code=code, kept=named, more="N = 1\n")),
    ]
    assert len({usual, *others}) == 5
    assert usual == content(task(tmp_path / "g", code=code))  # which nothing names


def test_ours_count_each_for_itself_and_shipped_ones_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    needle, order = (task_content(suite_settings(f"synth_{name}")) for name in ("needle", "order"))
    assert needle is not None
    assert needle != order
    assert task_content(suite_settings("tomato")) is None
