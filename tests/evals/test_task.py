"""Tasks: what is drawn at random, what counts when a name is taken, what is missing, what a local one is made of."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
from lmms_eval.utils import load_yaml_config

from evals import content, shipped
from evals.checkpoint import Checkpoint
from evals.content import task_content
from evals.needs import missing
from evals.run import evaluate
from evals.scoring import draw_by_question
from evals.suites import SUITES, suite_settings
from evals.task import load_task
from tests.evals.standins import STANDINS, write_task, write_videos
from videonsa.config import SettingsError

SAMPLING = {"frames": 2, "fps": None, "tokens_per_frame": 1, "max_new_tokens": 1}


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("VIDEONSA_TASKS", str(tmp_path / "tasks"))
    return tmp_path / "tasks"


def letters(order: list[int]) -> dict[int, str]:
    """LongVideoBench's letters for answers without one, of documents scored in this order."""
    shipped.make_loadable()
    config = load_yaml_config(str(content.shipped_folder() / STANDINS["longvideobench_val_v"].file))
    task = SimpleNamespace(config=SimpleNamespace(**config))
    draw_by_question(task)
    draw_by_question(task)  # of a second evaluation in the same process
    docs = STANDINS["longvideobench_val_v"].docs
    return {n: task.config.process_results(dict(docs[n]), ["?"])["lvb_acc"]["parsed_pred"] for n in order}


def test_random_letters_are_the_questions() -> None:
    numbers = list(range(len(STANDINS["longvideobench_val_v"].docs)))
    first = letters(numbers)
    random.seed(1)
    state = random.getstate()
    assert letters(numbers[::-1]) == letters(numbers[3:]) | {n: first[n] for n in numbers[:3]} == first
    assert random.getstate() == state, "the generator that everyone shares was moved"
    assert len(set(first.values())) > 1


def test_a_local_task_of_a_shipped_name_counts(loaded: Checkpoint, tasks: Path, tmp_path: Path) -> None:
    write_videos(tmp_path / "hub", "tomato")
    write_task("tomato", tasks, task="tomato")
    result = evaluate(loaded, {}, suite_settings("tomato", limit=2, **SAMPLING), tmp_path / "cell")
    assert (result["scores"]["questions"], result["scores"]["errors"]) == (2, 0)


def test_what_is_missing_is_said_in_one_line(tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub" / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    for suite in SUITES.values():
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        offline = missing(suite.settings)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        stranger = missing(suite.settings)
        if suite.family is None:
            data = content.task_config(suite.name)["dataset_path"]
            assert f"suite {suite.name}: its data set {data} is not on this machine, and HF_HUB_OFFLINE" in offline
            assert "login: hf auth login, or HF_TOKEN" in stranger
            (tmp_path / "hub" / "hub" / f"datasets--{data.replace('/', '--')}").mkdir(parents=True)
            assert "was fetched, and its questions were not read" in (missing(suite.settings) or "")
            (tmp_path / "hub" / "datasets" / data.replace("/", "___").lower()).mkdir(parents=True)
        assert missing(suite.settings) is None


def test_a_hub_that_cannot_be_reached_is_one_line(tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The light check knew nothing: the task's own loading says it, at once."""
    tasks.mkdir()
    file = content.shipped_folder() / STANDINS["timescope"].file
    (tasks / "t.yaml").write_text(f"include: {file}\ntask: timescope_elsewhere\n")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SettingsError, match=r"task 'timescope_elsewhere': its data set Apollo-LMMs/TimeScope .*"):
        load_task(suite_settings("timescope", task="timescope_elsewhere"))


@pytest.mark.parametrize("name", sorted(STANDINS))
def test_videos_that_are_not_there(loaded: Checkpoint, tasks: Path, tmp_path: Path, name: str) -> None:
    if SUITES[name].judged:
        pytest.skip("asks for a key first")
    write_task(name, tasks)
    (tmp_path / "hub").mkdir()
    suite = suite_settings(name, task=f"{name}_local", **SAMPLING)
    with pytest.raises(SettingsError, match=f"suite {name}: none of the .* videos is there"):
        evaluate(loaded, {}, suite, tmp_path / "cell")


def test_a_task_with_another_metric_is_refused(tasks: Path) -> None:
    write_task("tomato", tasks)
    with pytest.raises(SettingsError, match="reports vsibench_overall; task 'tomato_local' has only tomato_score"):
        load_task(suite_settings("vsibench", task="tomato_local"))


def test_a_package_that_a_task_needs_is_named(tasks: Path) -> None:
    name = write_task("tomato", tasks, more="process_docs: !function mine.process\n")
    (tasks / "mine.py").write_text("import a_package_that_is_not_there\n")
    with pytest.raises(SettingsError, match="it needs the package 'a_package_that_is_not_there': pip install"):
        load_task(suite_settings("tomato", task=name))


CODE = "from other import two\n\n\ndef process(docs):\n    return docs.select(range(two))\n"


def edit(path: Path, text: str) -> None:
    """A file's text, changed for good: its time changes too."""
    path.write_text(text)
    stamp = path.stat().st_mtime_ns + 10**9
    os.utime(path, ns=(stamp, stamp))


def test_what_a_local_task_is_made_of(tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = write_task("tomato", tasks, more="process_docs: !function mine.process\n")
    (tasks / "mine.py").write_text(CODE)
    (tasks / "other.py").write_text("two = 2\n")
    suite = suite_settings("tomato", task=name)
    first = task_content(suite)
    assert task_content(suite) == first
    for path, text in (
        (tasks / f"{name}.jsonl", (tasks / f"{name}.jsonl").read_text().replace("Which way?", "Which?", 1)),
        (tasks / f"{name}.yaml", (tasks / f"{name}.yaml").read_text() + "num_fewshot: 1\n"),
        (tasks / "mine.py", CODE.replace("range(two)", "range(1, two)")),
        (tasks / "other.py", "two = 3\n"),
    ):
        before = path.read_text()
        edit(path, text)
        assert task_content(suite) != first, path.name
        edit(path, before)
        assert task_content(suite) == first
    edit(tasks / "mine.py", f'"""Prose."""\n# prose\n{CODE}')
    (tasks / "unrelated.py").write_text("x = 1\n")
    assert task_content(suite) == first, "prose and other files count"
    copy = tmp_path / "copy"
    tasks.rename(copy)
    yaml = copy / f"{name}.yaml"
    yaml.write_text(yaml.read_text().replace(str(tasks), str(copy)))
    monkeypatch.setenv("VIDEONSA_TASKS", str(copy))
    assert task_content(suite) == first, "it counts where a task lies"
    assert task_content(suite_settings("tomato")) is None


@pytest.mark.parametrize(
    "named",
    [
        pytest.param("docs.jsonl", id="beside-the-task"),
        pytest.param("[docs.jsonl]", id="a-list"),
        pytest.param("{test: docs.jsonl}", id="splits"),
        pytest.param("{test: [docs.jsonl]}", id="a-list-a-split"),
        pytest.param("{test: 'data/*.jsonl'}", id="a-pattern-from-the-working-directory"),
        pytest.param("data", id="a-folder"),
    ],
)
def test_data_files_are_found_as_datasets_finds_them(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    tasks.mkdir()
    (tasks / "t.yaml").write_text(f"task: t\ndataset_path: json\ndataset_kwargs: {{data_files: {named}}}\n")
    for file in (tasks / "docs.jsonl", tmp_path / "data" / "a.jsonl", tmp_path / "data" / "b.jsonl"):
        file.write_text(json.dumps({"question": file.name}) + "\n")
    suite = suite_settings("tomato", task="t")
    before = task_content(suite)
    for file in (tasks / "docs.jsonl", tmp_path / "data" / "b.jsonl"):
        edit(file, "{}\n")
    assert task_content(suite) != before


def test_data_in_a_folder_of_its_own(tasks: Path, tmp_path: Path) -> None:
    tasks.mkdir()
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "test.parquet").write_bytes(b"1")
    (tasks / "t.yaml").write_text(f"task: t\ndataset_path: {tmp_path / 'set'}\n")
    before = task_content(suite_settings("tomato", task="t"))
    edit(tmp_path / "set" / "test.parquet", "2")
    assert task_content(suite_settings("tomato", task="t")) != before


def test_data_that_are_not_there(tasks: Path) -> None:
    tasks.mkdir()
    (tasks / "t.yaml").write_text("task: t\ndataset_path: json\ndataset_kwargs: {data_files: {test: gone.jsonl}}\n")
    with pytest.raises(SettingsError, match=r"local task 't' \(t.yaml\): its data file 'gone.jsonl' is not there"):
        task_content(suite_settings("tomato", task="t"))
