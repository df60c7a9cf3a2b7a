"""One cell through lmms-eval: what is recorded, what is resumed, what an error costs."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from evals.answers import Answers
from evals.checkpoint import Checkpoint
from evals.data.synthetic import make_data
from evals.run import NothingAnswered, evaluate, synthetic_data
from evals.suites import suite_settings
from videonsa.config import SettingsError, SuiteSettings

NEEDLE = suite_settings("synth_needle", limit=6, frames=8)
MEASURED = ("latency_ms", "prefill_ms", "tower_ms", "decoder_ms", "decode_ms", "peak_memory_mib", "spent", "read_ms")


@pytest.fixture(scope="module")
def straight(loaded: Checkpoint, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The result of an evaluation that nothing disturbed."""
    return evaluate(loaded, {}, NEEDLE, tmp_path_factory.mktemp("cell"), data=data)


def lines(folder: Path) -> list[dict]:
    texts = [path.read_text().splitlines()[1:] for path in sorted(folder.glob("*.jsonl"))]  # below what tells of it
    return [json.loads(line) for text in texts for line in text]


def unmeasured(result: dict) -> list[dict]:
    return [{name: value for name, value in row.items() if name not in MEASURED} for row in result["questions"]]


def test_what_is_recorded(straight: dict, data: Path) -> None:
    first = straight["questions"][0]
    names = ("doc_id", "video", "kind", "parts", "prompt_hash", "answer", "prediction", "score", "latency_ms")
    more = ("prefill_ms", "tower_ms", "decoder_ms", "decode_ms", "prefill_tokens", "vision_tokens", "peak_memory_mib")
    reading = ("read_ms", "frames_decoded", "frames_skipped")
    assert tuple(first) == (*names, *more, "spent", "error", *reading)
    assert [row["doc_id"] for row in straight["questions"]] == list(range(6))
    assert first["vision_tokens"] == 4 * 4
    assert first["error"] is None
    assert 0 < first["prefill_ms"] <= first["latency_ms"]
    assert first["prefill_ms"] == pytest.approx(first["tower_ms"] + first["decoder_ms"], abs=0.002)
    assert first["latency_ms"] == pytest.approx(first["prefill_ms"] + first["decode_ms"], abs=0.002)
    assert 0 < straight["summary"]["tower_ms_p50"] < straight["summary"]["prefill_ms_p50"]
    assert first["frames_decoded"] + first["frames_skipped"] >= 8
    assert straight["summary"]["model_waited_s"] > 0
    assert [writer["questions"] for writer in straight["answered_by"]] == [6]
    assert straight["scores"]["questions"] == 6
    assert straight["scores"]["metric"] == "exact_match"
    assert straight["scores"]["lmms_eval"] == straight["scores"]["accuracy"]
    assert (straight["scores"]["shares"], straight["scores"]["notes"]) == (None, [])
    parts = straight["scores"]["parts"]
    assert {row["kind"] for row in straight["questions"]} == set(parts)
    assert sum(part["questions"] for part in parts.values()) == 6
    assert [row["video"] for row in straight["questions"]] == [f"{number:04d}" for number in range(6)]
    assert straight["summary"]["attention_fraction"] == 1.0  # 16 vision tokens, K_vis = 4 * 4 + 8
    assert str(data) not in json.dumps(straight), "a record must not name this machine's folders"


def test_scores_are_lmms_evals(straight: dict) -> None:
    for row in straight["questions"]:
        assert row["score"] == float(row["prediction"].strip().lower() == row["answer"])


def test_a_path_gives_what_a_loaded_checkpoint_gives(straight: dict, folder: Path, data: Path, tmp_path: Path) -> None:
    assert unmeasured(evaluate(folder, {}, NEEDLE, tmp_path, data=data)) == unmeasured(straight)


def test_a_killed_evaluation_goes_on(straight: dict, loaded: Checkpoint, data: Path, tmp_path: Path) -> None:
    def kill(done: int, total: int) -> None:
        assert total == 6
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(loaded, {}, NEEDLE, tmp_path, kill, data=data)
    assert len(lines(tmp_path)) == 3
    (path,) = tmp_path.glob("*.jsonl")
    with open(path, "a") as file:
        file.write(json.dumps(lines(tmp_path)[0])[:40])  # the kill came while a line was written
    steps = []
    result = evaluate(loaded, {}, NEEDLE, tmp_path, lambda done, total: steps.append(done), data=data)
    assert steps == [3, 4, 5, 6]
    assert len(Answers(tmp_path).rows) == 6
    assert unmeasured(result) == unmeasured(straight)


def test_other_settings_are_asked_anew(loaded: Checkpoint, data: Path, tmp_path: Path) -> None:
    evaluate(loaded, {}, NEEDLE, tmp_path, data=data)
    steps = []
    evaluate(loaded, {"block_count": 1}, NEEDLE, tmp_path, lambda done, total: steps.append(done), data=data)
    assert steps[0] == 0
    assert sorted(Counter(line["key"] for line in lines(tmp_path)).values()) == [6, 6]
    evaluate(loaded, {"block_count": 1}, NEEDLE, tmp_path, lambda done, total: steps.append(-done), data=data)
    assert steps[-1] == -6, "the same settings were asked again"


def test_attention_settings_change_the_answer_path(
    straight: dict, loaded: Checkpoint, data: Path, tmp_path: Path
) -> None:
    sparse = evaluate(loaded, {"block_count": 1, "window": 2}, NEEDLE, tmp_path / "sparse", data=data)
    dense = evaluate(loaded, {"attention": "dense"}, NEEDLE, tmp_path / "dense", data=data)
    assert sparse["summary"]["attention_fraction"] == pytest.approx(2 * 6 / 15)
    assert dense["summary"]["attention_fraction"] == 1.0
    hashes = [[row["prompt_hash"] for row in result["questions"]] for result in (straight, sparse, dense)]
    assert hashes[0] == hashes[1] == hashes[2]


@pytest.fixture
def damaged(data: Path, tmp_path: Path) -> Path:
    """A data folder in which the second video is empty, the fourth garbage, the fifth a pipe that nobody fills."""
    identity = make_data(synthetic_data(NEEDLE), data).name
    shutil.copytree(data / identity, tmp_path / "damaged" / identity)
    (tmp_path / "damaged" / identity / "0001.mp4").write_bytes(b"")
    (tmp_path / "damaged" / identity / "0003.mp4").write_bytes(b"garbage" * 50)
    (tmp_path / "damaged" / identity / "0004.mp4").unlink()
    os.mkfifo(tmp_path / "damaged" / identity / "0004.mp4")
    return tmp_path / "damaged"


def test_damaged_videos_are_errors_not_wrong_answers(
    straight: dict, folder: Path, damaged: Path, data: Path, tmp_path: Path
) -> None:
    result = evaluate(folder, {}, NEEDLE, tmp_path / "cell", data=damaged)
    errors = {row["doc_id"]: row["error"] for row in result["questions"] if row["error"]}
    assert list(errors) == [1, 3, 4]
    assert errors[1].startswith("VideoError: video 0001.mp4: ")
    assert errors[4] == "VideoError: video 0004.mp4: it is no file"
    assert all(result["questions"][number]["score"] is None for number in (1, 3, 4))
    assert (result["scores"]["errors"], result["scores"]["answered"], result["scores"]["questions"]) == (3, 3, 6)
    whole = [row for row in unmeasured(straight) if row["doc_id"] not in (1, 3, 4)]
    assert [row for row in unmeasured(result) if not row["error"]] == whole
    repaired = evaluate(folder, {}, NEEDLE, tmp_path / "cell", data=data)
    assert unmeasured(repaired) == unmeasured(straight), "errors are not asked again"


def test_nothing_answered(folder: Path, data: Path, tmp_path: Path) -> None:
    suite = suite_settings("synth_needle", limit=1, frames=8, seed=3)
    place = make_data(synthetic_data(suite), data)
    (place / "0000.mp4").write_bytes(b"")
    with pytest.raises(NothingAnswered, match=r"none of the 1 questions could be answered; the first: .*0000\.mp4"):
        evaluate(folder, {}, suite, tmp_path, data=data)


def test_bad_input(loaded: Checkpoint, folder: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="unknown suite 'smell'"):
        evaluate(loaded, {}, SuiteSettings(name="smell", frames=8), tmp_path, data=data)
    with pytest.raises(SettingsError, match="unknown NSA setting 'widow'"):
        evaluate(loaded, {"widow": 1}, NEEDLE, tmp_path, data=data)
    with pytest.raises(SettingsError, match="order videos need at least"):
        evaluate(loaded, {}, suite_settings("synth_order", limit=4, frames=2), tmp_path, data=data)
    with pytest.raises(SettingsError, match="no such folder"):
        evaluate(tmp_path / "nowhere", {}, NEEDLE, tmp_path, data=data)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        evaluate(loaded, {}, NEEDLE, tmp_path / "file" / "cell", data=data)


def test_block_count_above_the_number_of_blocks_chooses_all(loaded: Checkpoint, data: Path, tmp_path: Path) -> None:
    result = evaluate(loaded, {"block_count": 1000}, NEEDLE, tmp_path, data=data)
    assert result["scores"]["errors"] == 0
