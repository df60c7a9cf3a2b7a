"""A benchmark that lmms-eval ships: its own prompt and metric, with our model, on local files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import lmms_eval
import pytest

from evals.checkpoint import Checkpoint
from evals.data.synthetic import make_data
from evals.run import evaluate, synthetic_data
from evals.suites import suite_settings
from videonsa.config import SettingsError

SHIPPED = Path(lmms_eval.__file__).parent / "tasks" / "tomato" / "tomato.yaml"
QUESTION = "Which way does the person turn?"


@pytest.fixture
def tomato(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """TOMATO's task with its data set replaced: four questions, of which the last one's video is missing."""
    videos = make_data(synthetic_data(suite_settings("synth_needle", limit=4, frames=16)), data)
    shutil.copytree(videos, tmp_path / "hub" / "TOMATO" / "videos")
    (tmp_path / "hub" / "TOMATO" / "videos" / "0003.mp4").unlink()
    docs = [
        {
            "id": str(number),
            "question": QUESTION,
            "options": ["left", "right", "not at all"],
            "answer": number % 3,
            "video_path": f"videos/{number:04d}.mp4",
            "reason_type": "direction",
            "demonstration_type": "human",
        }
        for number in range(4)
    ]
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    (tasks / "tomato_local.yaml").write_text(
        f"include: {SHIPPED}\ntask: tomato_local\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: docs.jsonl}}, cache_dir: {tmp_path / 'cache'}}}\n"
    )
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))  # where TOMATO looks for its videos
    monkeypatch.setenv("VIDEONSA_TASKS", str(tasks))
    return tasks


def test_tomatos_prompt_and_metric(
    tomato: Path, loaded: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    template = loaded.processor.apply_chat_template

    def spy(conversation: list[dict], **options: object) -> str:
        asked.append(conversation)
        return template(conversation, **options)

    monkeypatch.setattr(loaded.processor, "apply_chat_template", spy)
    suite = suite_settings("tomato", task="tomato_local", fps=1.0, frames=16, tokens_per_frame=4, max_new_tokens=2)
    result = evaluate(loaded, {}, suite, tmp_path / "cell")
    assert [part["type"] for part in asked[0][0]["content"]] == ["video", "text"]
    text = asked[0][0]["content"][1]["text"]
    assert text.startswith("You will be provided with frames uniformly sampled from a video")
    assert f"<question> \n{QUESTION} \n</question>" in text
    assert "{'A': 'left', 'B': 'right', 'C': 'not at all'}" in text
    rows = result["questions"]
    assert [row["vision_tokens"] for row in rows[:3]] == [16, 16, 16]  # 8 s at a frame a second
    # TOMATO takes an answer without a letter for A.
    assert [row["score"] for row in rows[:3]] == [1.0, 0.0, 0.0]
    assert rows[3]["error"] == "VideoError: the task gives no video for this question"
    scores = result["scores"]
    assert (scores["metric"], scores["accuracy"], scores["errors"]) == ("tomato_score", 1 / 3, 1)
    assert scores["chance"] == pytest.approx(1 / 3), "three options each"


def test_unknown_tasks_are_refused(loaded: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIDEONSA_TASKS", raising=False)
    suite = suite_settings("tomato", task="tomatoes")
    with pytest.raises(SettingsError, match="lmms-eval has no task 'tomatoes'"):
        evaluate(loaded, {}, suite, tmp_path)
