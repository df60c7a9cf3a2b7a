"""A data file that is none is refused in one line: when it is planned, and when it is trained on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import pytest

from tests.training.conftest import quick
from videonsa.config import SettingsError
from videonsa.training.conversations import read_conversations, read_head
from videonsa.training.run import train
from videonsa.training.sources import VideoSource

TURNS = [{"from": "human", "value": "<video>\nhow many"}, {"from": "gpt", "value": "one"}]
GOOD = {"id": "a", "video": "a.mp4", "conversations": TURNS}


def lines(*entries: Any) -> bytes:
    return "".join(json.dumps(entry) + "\n" for entry in entries).encode()


def turns(**changes: Any) -> dict[str, Any]:
    return GOOD | {"conversations": [TURNS[0], TURNS[1] | changes]}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "it holds no entry"),
        (b" \n\n", "it holds no entry"),
        (b"[]", "it holds no entry"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "it is no text: invalid start byte at byte 0"),
        (b"video,question\na.mp4,what\n", "line 1: no JSON, or only the begin of it: Expecting value at column 1"),
        (lines(GOOD) + lines(GOOD)[:40], "line 2: no JSON, or only the begin of it"),
        (json.dumps([GOOD, GOOD]).encode()[:-30], "no JSON, or only the begin of it"),
        (b"[" * 100_000, "no conversations"),
        (b'{"data":' * 100_000, "line 1: no conversations"),
        (b"7\n", "entry 1: 7 is no entry"),
        (b'["a.mp4"]', "entry 1: 'a.mp4' is no entry"),
        (lines({"data": [GOOD]}), "entry 1: conversations=None is no list of turns"),
        (lines(GOOD, {"id": "b", "video": "b.mp4"}), "entry 2 (id 'b'): conversations=None is no list of turns"),
        (
            lines(GOOD | {"conversations": "how many? one"}),
            "conversations='how many? one' is no list",
        ),
        (lines(GOOD | {"conversations": ["how many", "one"]}), "'how many' is no turn"),
        (lines(turns(value=None)), "{'from': 'gpt', 'value': None} is no turn"),
        (lines(turns(**{"from": "assistant"})), "from='assistant' is not valid: choose from human, gpt"),
        (lines(turns(**{"from": ["gpt"]})), "from=['gpt'] is not valid: choose from human, gpt"),
        (lines(turns(**{"from": "human"})), "nobody answers"),
        (lines(GOOD | {"video": ["a.mp4"]}), "video=['a.mp4'] is no path"),
        (lines(GOOD, {"video_path": "a.mp4", "conversations": TURNS}), "entry 2: 'video_path' is not read; a video's"),
        (lines(GOOD, GOOD | {"id": 7, "image": "a.jpg"}), "entry 2 (id '7'): it is about an image"),
    ],
)
def test_a_file_that_is_no_data_is_refused_in_one_line(content, problem, tmp_path):
    file = tmp_path / "data.json"
    file.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        read_conversations(file)
    message = str(caught.value)
    assert message.removeprefix(f"data={str(file)!r}: ").removeprefix("entry 1 (id 'a'): ").startswith(problem)
    assert message.endswith('"value": text}, ...]}')
    assert "\n" not in message
    assert len(message) < 500


def test_a_folder_a_pipe_and_an_absent_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # nobody writes to it
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(SettingsError, match="it is no file; give a JSON"):
            read_conversations(path)
    with pytest.raises(SettingsError, match="No such file or directory; give a JSON"):
        read_conversations(tmp_path / "none.json")


def test_text_alone_is_data_too(tmp_path):
    (tmp_path / "text.jsonl").write_bytes(lines({"conversations": TURNS}))
    assert read_conversations(tmp_path / "text.jsonl") == [{"conversations": TURNS}]


@pytest.mark.parametrize("indent", [None, 1])
def test_files_as_they_are_found_in_life(indent, tmp_path):
    """A byte order mark, Windows' ends of lines, other ends of lines within a text, an entry of text alone."""
    odd = GOOD | {"conversations": [TURNS[0], {"from": "gpt", "value": "one\u2028two\x85three"}]}
    for name, text in {
        "list.json": json.dumps([odd, {"conversations": TURNS}], ensure_ascii=False, indent=indent),
        "lines.jsonl": "\r\n".join(json.dumps(entry, ensure_ascii=False) for entry in (odd, {"conversations": TURNS})),
    }.items():
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\n\n")
        assert read_conversations(tmp_path / name) == [odd, {"conversations": TURNS}]


def test_of_a_large_file_the_first_entries_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("videonsa.training.conversations.WHOLE", 100)
    monkeypatch.setattr("videonsa.training.conversations.HEAD", 1001)
    entries = [GOOD | {"id": str(index), "note": "ä" * 20} for index in range(100)]
    for text in (
        json.dumps(entries, indent=1, ensure_ascii=False),
        "\r\n".join(json.dumps(each, ensure_ascii=False) for each in entries),
    ):
        file = tmp_path / "data.json"
        file.write_bytes(b"\xef\xbb\xbf" + text.encode())
        head = read_head(file)
        assert 3 < len(head.entries) < 10
        assert head.entries == entries[: len(head.entries)]
        assert not head.whole
        assert 95 < head.samples < 105
    file.write_bytes(lines(GOOD, GOOD | {"image": "a.jpg"}) * 20)
    with pytest.raises(SettingsError, match=r"entry 2 .*it is about an image"):
        read_head(file)
    monkeypatch.setattr("videonsa.training.conversations.LONGEST", 500)
    file.write_bytes(lines(GOOD) + b"[broken" + lines(GOOD) * 20)
    with pytest.raises(SettingsError, match="no JSON of an entry behind the first 1"):
        read_head(file)
    file.write_bytes(lines(GOOD) + '["ä"]'.encode("latin-1") * 1000)
    with pytest.raises(SettingsError, match="it is no text: invalid continuation byte"):
        read_head(file)


def test_planning_reads_them_without_torch():
    code = "import sys, ablations.facts, videonsa.training.conversations; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("kind", ["absent", "empty", "cut off", "no frames", "text"])
def test_a_source_that_yields_nothing_ends_the_training_and_says_why(kind, video_data, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    if kind != "absent":
        whole = (video_data / "0.mp4").read_bytes()
        content = {
            "empty": b"",
            "cut off": whole[: len(whole) // 2],
            "no frames": without_frames(tmp_path),
            "text": b"a video",
        }
        (videos / "a.mp4").write_bytes(content[kind])
    (tmp_path / "data.jsonl").write_bytes(lines(GOOD))
    settings = quick(data=str(tmp_path / "data.jsonl"), video_folder=str(videos))
    with pytest.raises(
        SettingsError, match=r"^video_folder='.*': 20 samples in a row cannot be shown; the last: a, a.mp4: ."
    ):
        train(settings, tmp_path / "run", lambda done, total: None)
    assert "sample a, a.mp4 skipped: " in (tmp_path / "run" / "log.txt").read_text()


def without_frames(folder: Path) -> bytes:
    """A whole file with a video stream in which there is no frame."""
    with av.open(str(folder / "none.mkv"), "w") as container:
        container.add_stream("libx264", rate=10).height = 56
        container.start_encoding()
    return (folder / "none.mkv").read_bytes()


def test_a_video_that_ends_too_early_is_not_shown_as_if_it_were_whole(video_data, processor, tmp_path, caplog):
    """A stream, unlike an mp4, can be read up to where it was cut; its header still promises all frames."""
    whole, cut = tmp_path / "whole.avi", tmp_path / "cut.avi"
    with av.open(str(video_data / "0.mp4")) as source, av.open(str(whole), "w") as target:
        stream = target.add_stream("mjpeg", rate=12)
        stream.height, stream.width, stream.pix_fmt = 56, 56, "yuvj420p"
        for frame in source.decode(video=0):
            target.mux(stream.encode(frame.reformat(format="yuvj420p")))
        target.mux(stream.encode())
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (tmp_path / "data.jsonl").write_bytes(lines(GOOD | {"video": "cut.avi"}, GOOD | {"video": "whole.avi"}))
    settings = quick(data=str(tmp_path / "data.jsonl"), video_folder=str(tmp_path), batch_size=1, micro_batch_size=1)
    shown = [VideoSource(settings, processor)[index].video for index in range(4)]
    assert {len(video.frames) for video in shown if video is not None} == {8}
    assert "cut.avi skipped: " in caplog.text
