"""The paper's benchmarks, made ready from a copy or the hub: what is missing is said, what was stopped goes on."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from evals import content
from evals.data import hub
from evals.data.__main__ import main
from evals.data.catalog import CATALOG, shipped_task, video_of
from evals.data.unpack import archives, unpack
from evals.suites import SUITES
from tests.disks import small_disk
from tests.evals.hub_server import Hub, etag, serving
from tests.evals.standins import STANDINS, write_repository
from videonsa.config import SettingsError
from videonsa.disk import DiskError

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty $HF_HOME, without login and, as far as anyone knows, without the hub."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("VIDEONSA_TASKS", raising=False)
    for name, value in (("HF_HUB_CACHE", str(tmp_path / "hf" / "hub")), ("HF_HUB_OFFLINE", True)):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    return tmp_path / "hf"


def test_the_papers_benchmarks_are_all_there(home: Path):
    assert set(CATALOG) == {name for name, suite in SUITES.items() if suite.family is None} == set(STANDINS)
    for name, stand_in in STANDINS.items():
        task = shipped_task(name)
        assert (task.repo, task.split) == (stand_in.repo, stand_in.split)
        assert all((task.folder / video_of(name, doc)).is_relative_to(home / stand_in.videos) for doc in stand_in.docs)


def test_what_is_needed_is_said_without_the_hub(home: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["prepare", "longvideobench_val_v", "vsibench", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "longvideobench/LongVideoBench (the hub does not say: OfflineModeIsEnabled)" in said
    assert "licence: cc-by-nc-sa-4.0; gated: yes; download: 161.6 GB (card of longvideobench/LongVideoBench" in said
    assert "accept its terms on https://huggingface.co/datasets/longvideobench/LongVideoBench" in said
    assert f"{home}/hub/datasets--nyu-visionx--VSI-Bench; videos, as much again once unpacked: {home}/vsibench" in said
    assert not home.exists()


@pytest.mark.parametrize("wrong", ["timescop", "synth_needle"])
def test_other_names_are_refused_in_one_line(wrong: str, capsys: pytest.CaptureFixture[str]):
    assert main(["prepare", wrong]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"no data to prepare for suite '{wrong}'" in said


def test_any_python_will_do():
    bare = Path("/usr/bin/python3")
    if not bare.exists() or not (ROOT / ".venv").exists():
        pytest.skip("no other Python here")
    command = [str(bare), "-m", "evals.data", "prepare", "vsi"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "no data to prepare for suite 'vsi'" in done.stderr


def test_a_copy_is_used_and_what_is_missing_named(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """TOMATO with one archive of two; later both; then one video is cut off."""
    copy = write_repository("tomato", tmp_path / "copies")
    (copy / "part_002.zip").rename(tmp_path / "part_002.zip")
    command = ["prepare", "tomato", "--local", str(copy)]
    assert main(command) == 1
    said = capsys.readouterr().out
    assert "  5 of 7 questions find their video (3 videos)" in said
    assert "  missing: videos/human/v1.mp4" in said
    (tmp_path / "part_002.zip").rename(copy / "part_002.zip")
    assert main(command) == 0
    assert "unpacked: 1 files" in capsys.readouterr().out
    assert main(command) == 0
    assert "  unpacked: " not in capsys.readouterr().out
    video = home / "TOMATO" / "videos" / "human" / "v2.mp4"
    video.write_bytes(video.read_bytes()[:100])
    assert main(command) == 0
    assert "unpacked: 1 files" in capsys.readouterr().out
    (copy / "part_001.zip").unlink()
    video.write_bytes(video.read_bytes()[:100])
    assert main(command) == 1
    assert "  damaged: videos/human/v2.mp4: video v2.mp4: " in capsys.readouterr().out


def test_videos_that_lie_elsewhere_are_linked(home: Path, tmp_path: Path):
    """Of two files of one name the one in the folder of the question's; of equals none."""
    copy = write_repository("vsibench", tmp_path / "copies")
    with zipfile.ZipFile(copy / "arkitscenes.zip") as archive:
        archive.extractall(tmp_path / "mine")
    (copy / "arkitscenes.zip").unlink()
    for other in ("other", "another"):
        shutil.copytree(tmp_path / "mine" / "arkitscenes", tmp_path / "mine" / other)
    (tmp_path / "mine" / "arkitscenes" / "s2.mp4").unlink()
    shutil.copy(copy / "test.jsonl", tmp_path / "mine")
    assert main(["prepare", "vsibench", "--local", str(tmp_path / "mine")]) == 1
    link = home / "vsibench" / "arkitscenes" / "s0.mp4"
    assert link.resolve() == tmp_path / "mine" / "arkitscenes" / "s0.mp4"
    assert not (home / "vsibench" / "arkitscenes" / "s2.mp4").exists()


def test_other_questions_are_refused(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    copy = write_repository("vsibench", tmp_path / "copies")
    doc = {name: value for name, value in STANDINS["vsibench"].docs[0].items() if name != "dataset"}
    (copy / "test.jsonl").write_text(json.dumps(doc) + "\n")
    assert main(["prepare", "vsibench", "--local", str(copy)]) == 1
    assert "its questions have no field 'dataset', but id, question, " in capsys.readouterr().err
    (copy / "test.jsonl").write_text("")
    assert main(["prepare", "vsibench", "--local", str(copy)]) == 1
    assert "; questions: test.jsonl, asked by " in capsys.readouterr().err


def test_without_hub_or_copy_it_is_said(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["prepare", "timescope"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(
        "  error: suite timescope: its data set Apollo-LMMs/TimeScope is not on this machine and the hub"
    )
    assert main(["prepare", "timescope", "--local", str(tmp_path / "nowhere")]) == 1
    assert "--local" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["prepare", "timescope", "--local", str(tmp_path / "empty")]) == 1
    assert f"no file of questions in {tmp_path}/empty (test-*.parquet, " in capsys.readouterr().err


def test_archives_are_known_by_their_names_and_begins(tmp_path: Path):
    """Two whole archives in a row are two, also where their names are those of pieces; a video is none."""
    write_repository("videoevalpro", tmp_path / "a")
    pieces = sorted((tmp_path / "a").rglob("*.tar.gz"), key=lambda path: len(path.name))
    whole = b"".join(piece.read_bytes() for piece in pieces)
    for name in ("x_9.tar.gz", "x_10.tar.gz"):
        (tmp_path / name).write_bytes(whole)
    (tmp_path / "x_11.tar.gz").write_bytes(b"more")
    for other in ("y.target.mp4", "z.tar.mp4", ".hidden.tar", "table.parquet"):
        (tmp_path / other).write_bytes(b"")
    found = [[path.name for path in pieces] for pieces in archives(tmp_path)]
    assert [names for names in found if names[0][0] == "x"] == [["x_9.tar.gz"], ["x_10.tar.gz", "x_11.tar.gz"]]
    assert len(found) == 3


@pytest.mark.parametrize("name", ["longvideobench_val_v", "videoevalpro"])
def test_an_unpacking_that_was_stopped_goes_on(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    copy, folder = write_repository(name, tmp_path / "copies"), tmp_path / "videos"
    assert [len(pieces) for pieces in archives(copy)] == [3], "one archive, of three pieces"
    copyfileobj, done = shutil.copyfileobj, []

    def stop(source, target, length):
        copyfileobj(source, target, length if not done else 100)
        if done:
            raise KeyboardInterrupt
        done.append(target.name)

    monkeypatch.setattr(shutil, "copyfileobj", stop)
    with pytest.raises(KeyboardInterrupt):
        unpack(copy, folder)
    assert not folder.exists(), "what is not whole would pass for whole"
    monkeypatch.setattr(shutil, "copyfileobj", copyfileobj)
    assert unpack(copy, folder) == 1, "the other file was there"
    whole = (tmp_path / "copies" / "one.mp4").read_bytes()
    assert [path.read_bytes() == whole for path in sorted(folder.rglob("*.mp4"))] == [True, True]
    assert not list(tmp_path.rglob("*.tmp"))
    assert unpack(copy, folder) == 0


def test_damaged_and_hostile_archives_are_refused(tmp_path: Path):
    copy = write_repository("videoevalpro", tmp_path / "copies")
    (copy / "videos" / "videos_part_11.tar.gz").unlink()
    with pytest.raises(
        SettingsError, match=r"archive videos_part_9\.tar\.gz and 1 more pieces is damaged or not whole"
    ):
        unpack(copy, tmp_path / "videos")
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../outside.mp4", b"")
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil.zip").rename(tmp_path / "evil" / "evil.zip")
    with pytest.raises(SettingsError, match=r"wants to write to '\.\./outside.mp4'"):
        unpack(tmp_path / "evil", tmp_path / "videos2")


@pytest.fixture
def repository(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """VSI-Bench's stand-in on a hub of this machine."""
    folder = write_repository("vsibench", tmp_path / "copies")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "LARGE", 10_000)  # the archive, not the questions
    with serving(Hub("nyu-visionx/VSI-Bench", folder)) as served:
        template = served.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", served.address)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield served


def test_the_hub_says_what_is_needed_and_is_asked_once(repository: Hub, home: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["prepare", "vsibench"]) == 0
    said = capsys.readouterr().out
    assert "licence: mit; gated: no (the hub)" in said
    assert "in 3 files, 0 B of them here (the hub)" in said
    assert "28 of 28 questions find their video (3 videos)" in said
    task = home / "videonsa_tasks" / "vsibench.yaml"
    assert f"  questions: test.jsonl, asked by {task}" in said
    assert content.local_file("vsibench") == task, "wherever it is asked with this $HF_HOME"
    fetched = [name for method, name, _ in repository.asked if method == "GET"]
    assert sorted(fetched) == ["README.md", "arkitscenes.zip", "test.jsonl"]
    assert main(["prepare", "vsibench"]) == 0
    said = capsys.readouterr().out
    assert "0 B of them here" not in said
    assert "nothing to do" in said
    assert [name for method, name, _ in repository.asked if method == "GET"] == fetched, "nothing is fetched twice"


def test_a_fetch_that_was_stopped_goes_on(repository: Hub, home: Path, monkeypatch: pytest.MonkeyPatch):
    """A connection that ends is taken up by the client itself; a process that ends is taken up by the next."""
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", stop)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    repository.breaks_after = 2000
    with pytest.raises(Stopped):
        hub.fetch(repository.repo)
    (begun,) = (home / "hub").rglob("*.begun")
    assert begun.stat().st_size == 2000
    repository.breaks_after, repository.asked = None, []
    copy = hub.fetch(repository.repo)
    assert next(asked for asked in repository.asked if asked[0] == "GET")[1:] == ("arkitscenes.zip", "bytes=2000-")
    assert (copy / "arkitscenes.zip").read_bytes() == (repository.folder / "arkitscenes.zip").read_bytes()
    assert not list((home / "hub").rglob("*.begun"))


@pytest.mark.parametrize("more", [-1, 0, 10], ids=["part", "all", "more"])
def test_what_was_begun_wrongly_is_fetched_anew(more: int, repository: Hub, home: Path):
    """As after a power failure: the bytes are there, and others. More than there are would be asked for for ever."""
    archive = repository.folder / "arkitscenes.zip"
    begun = hub.cache_of(repository.repo) / "blobs" / f"{etag(archive)}.begun"
    begun.parent.mkdir(parents=True)
    begun.write_bytes(bytes(archive.stat().st_size + more))
    if more <= 0:
        with pytest.raises(OSError, match=r"arkitscenes\.zip was begun with other content than the hub has"):
            hub.fetch(repository.repo)
    assert (hub.fetch(repository.repo) / "arkitscenes.zip").read_bytes() == archive.read_bytes()
    assert not list((home / "hub").rglob("*.begun"))


def test_a_disk_without_room_is_named_before_anything_is_fetched(
    repository: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with small_disk(tmp_path / "disk", "size=64k") as disk:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(disk / "hub"))
        with pytest.raises(DiskError, match=r"No space left on device; disk .*/disk: 64 KiB free, 16\d KiB needed"):
            hub.fetch(repository.repo)
    assert not [asked for asked in repository.asked if asked[0] == "GET"]


class Stopped(Exception):
    """Stands for a killed process."""


def stop(_: float) -> None:
    raise Stopped


def test_a_gated_data_set_says_what_to_do(repository: Hub, capsys: pytest.CaptureFixture[str]):
    repository.gated = True
    assert main(["prepare", "vsibench"]) == 1
    said = capsys.readouterr()
    assert "gated: yes (the hub)" in said.out
    assert "is gated: accept its terms on https://huggingface.co/datasets/nyu-visionx/VSI-Bench" in said.err
