"""Whether every question finds its video: through lmms-eval's own task, which alone says where it looks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from evals.data.catalog import video_of
from evals.data.files import files_below
from evals.suites import MEDIA, Doc
from evals.task import videos_of
from videonsa.disk import writing
from videonsa.video import VideoError, check, in_time


@dataclass(frozen=True)
class Found:
    """What a benchmark's questions find."""

    questions: int
    videos: int  # different ones
    without: int  # questions whose video is not there, or cannot be opened
    missing: tuple[str, ...]  # videos, as the task names them below its folder
    damaged: tuple[str, ...]  # 'name: why'


def find_videos(name: str, task: Any) -> Found:
    """Look for each question's video, and open each video once."""
    state: dict[str, str | None] = {}  # by video: None where it is well, "" where it is not there, else what it has
    without = 0
    docs = task.eval_docs
    for doc in docs:
        video = video_of(name, doc)
        if video not in state:
            state[video] = _state(task, doc)
        without += state[video] is not None
    missing = tuple(video for video, why in state.items() if why == "")
    damaged = tuple(f"{video}: {why}" for video, why in state.items() if why)
    return Found(len(docs), len(state), without, missing, damaged)


def _state(task: Any, doc: Doc) -> str | None:
    paths = [path for path in videos_of(task, doc) if path.is_file()]
    if not paths:
        return ""
    try:
        for path in paths:
            in_time(check, path)
    except VideoError as error:
        return str(error)
    return None


def place_videos(name: str, docs: Iterable[Doc], folder: Path, sources: Iterable[Path]) -> int:
    """Make a link where the task looks for a video that lies elsewhere below `sources`; returns how many.

    Of several files of its name that one is taken whose folders agree most; where these are equal none is.
    """
    absent = [video for video in dict.fromkeys(video_of(name, doc) for doc in docs) if not (folder / video).is_file()]
    files = _by_name(sources) if absent else {}
    made = 0
    for video in absent:
        file = _best(PurePosixPath(video), files.get(PurePosixPath(video).name.lower(), []))
        if file is not None:
            _link(file, folder / video)
            made += 1
    return made


def _by_name(folders: Iterable[Path]) -> Mapping[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for folder in folders:
        for path in files_below(folder):
            if path.suffix.lower() in MEDIA and path.is_file():
                found.setdefault(path.name.lower(), []).append(path)
    return found


def _best(video: PurePosixPath, files: list[Path]) -> Path | None:
    ranked = sorted(((_agreement(video, file), file) for file in files), key=lambda pair: -pair[0])
    if not ranked or (len(ranked) > 1 and ranked[0][0] == ranked[1][0]):
        return None
    return ranked[0][1]


def _agreement(video: PurePosixPath, file: Path) -> int:
    """How many names the two paths share, from the end."""
    pairs = zip(reversed(video.parts), reversed(file.parts), strict=False)
    return next((count for count, (one, other) in enumerate(pairs) if one.lower() != other.lower()), len(video.parts))


def _link(file: Path, target: Path) -> None:
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_symlink():  # to what is not there any more
            target.unlink()
        os.symlink(os.path.abspath(file), target)
