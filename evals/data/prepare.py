"""Make a benchmark of the paper ready to be asked: its questions and videos fetched, or found on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from evals import content, needs
from evals.data import hub
from evals.data.catalog import CATALOG, Task, question_files, question_names, shipped_task
from evals.data.unpack import unpack
from evals.data.videos import Found, find_videos, place_videos
from evals.suites import suite_settings
from evals.task import bare_task, why
from videonsa.config import SettingsError
from videonsa.disk import DiskError, existing, size, space, write_bytes
from videonsa.lock import Lock

SHOWN = 10  # missing videos that are named, where not all are asked for


def needed(name: str, local: Path | None = None) -> Iterator[str]:
    """Lines on what the benchmark needs: sizes, licence, whether it is gated, where it lies."""
    task, known = shipped_task(name), CATALOG[name]
    said, away = _asked(task) if local is None else (None, None)
    yield f"{name}: {task.repo}" + (f" (the hub does not say: {away})" if away else "")
    if said is not None:
        yield f"  licence: {said.licence or 'none stated'}; gated: {'yes' if said.gated else 'no'} (the hub)"
        yield f"  download: {size(said.size)} in {said.files} files, {size(said.here)} of them here (the hub)"
    else:
        gated = {True: "yes", False: "no", None: "not known"}[known.gated]
        amount = f"{known.gigabytes:g} GB" if known.gigabytes else "size not known"
        yield f"  licence: {known.licence or 'not known'}; gated: {gated}; download: {amount} ({known.source})"
    if said.gated if said else known.gated:
        yield f"  to fetch it accept its terms on https://huggingface.co/datasets/{task.repo}, then: hf auth login"
    if known.note:
        yield f"  note: {known.note}"
    place = hub.cache_of(task.repo) if local is None else local
    yield f"  files: {place}; videos, as much again once unpacked: {task.folder}; {_free(task.folder)}"


def prepare(name: str, local: Path | None = None) -> tuple[Found, list[str]]:
    """Fetch the data set, or take it from the folder `local`; unpack it; look for every question's video.

    Returns what was found, and lines on what was done. Raises SettingsError, one line: what cannot be had and why;
    DiskError: no room; LockHeld: another process is at it.
    """
    task = shipped_task(name)
    if local is None and (found := _is_ready(name, task)):
        return found, ["  nothing to do"]
    task.folder.parent.mkdir(parents=True, exist_ok=True)
    with Lock(task.folder.with_name(f".{task.folder.name}.lock")):
        source, done = _source(name, task, local)
        if local is None and not task.folder.exists():  # lmms-eval's own task would fetch and unpack in its own way
            done += _unpacked(unpack(source, task.folder), task)
            task.folder.mkdir(exist_ok=True)
        asked, lines = _questions(name, task, source)
        done += lines
        found, links = _look(name, asked, task, source)
        if found.without and (again := unpack(source, task.folder)):
            done += _unpacked(again, task)
            found, more = _look(name, asked, task, source)
            links += more
        done += [f"  linked: {links} videos that lie elsewhere below {source}"] * bool(links)
        return found, done


def report(name: str, found: Found, everything: bool = False) -> list[str]:
    """Lines on what the questions find, and what they do not."""
    lines = [
        f"  {found.questions - found.without} of {found.questions} questions find their video ({found.videos} videos)"
    ]
    shown = None if everything else SHOWN
    for what, videos in (("missing", found.missing), ("damaged", found.damaged)):
        lines += [f"  {what}: {video}" for video in videos[:shown]]
        lines += [f"  {what}: {len(videos) - SHOWN} more (--all names them)"] * (not everything and len(videos) > SHOWN)
    if lack := needs.judge_lack(name):
        lines.append(f"  still to do before it is asked: {lack}")
    return lines


def _asked(task: Task) -> tuple[hub.Listing | None, str | None]:
    try:
        return hub.listing(task.repo), None
    except Exception as error:
        return None, type(error).__name__


def _is_ready(name: str, task: Task) -> Found | None:
    """What is found where nothing is missing, so that nothing is written: such a folder may be others' to keep."""
    if not task.folder.is_dir():
        return None
    try:
        found = find_videos(name, bare_task(suite_settings(name)))
    except SettingsError:
        return None
    return None if found.without else found


def _source(name: str, task: Task, local: Path | None) -> tuple[Path, list[str]]:
    """The folder with the data set's files, and lines to say."""
    if local is not None:
        return _folder_in(local, name, task), []
    try:
        return hub.fetch(task.repo), []
    except DiskError:
        raise
    except Exception as error:
        here = hub.fetched(task.repo)
        if here is None:
            raise SettingsError(f"suite {name}: {why(error, task.repo)}") from None
        return here, [f"  fetched: nothing new ({type(error).__name__}); what is here is used"]


def _folder_in(local: Path, name: str, task: Task) -> Path:
    """The benchmark's own folder in one that may hold several."""
    if not local.is_dir():
        raise SettingsError(f"--local {str(local)!r}: there is no such folder")
    names = (task.repo, task.repo.rpartition("/")[2], name, task.folder.name)
    return next((local / own for own in names if (local / own).is_dir()), local)


def _questions(name: str, task: Task, source: Path) -> tuple[Any, list[str]]:
    """The task, loaded with the questions in `source`, or, where these are none, as lmms-eval loads it from the hub."""
    lines = _write_task(name, task, source)
    try:
        return bare_task(suite_settings(name)), lines
    except SettingsError as error:
        if lines:
            raise SettingsError(f"{error}; {lines[0].strip()}, in {source}") from error
        names = ", ".join(pattern for _, pattern in question_names(name))
        raise SettingsError(f"suite {name}: no file of questions in {source} ({names}); without it: {error}") from None


def _write_task(name: str, task: Task, source: Path) -> list[str]:
    """Write a task of the shipped one's name for the questions in `source`; lines on it, none where there are none.

    It counts in the shipped one's place, which asks the hub, or a table that lmms-eval may keep on another node.
    """
    builder, files = question_files(name, source)
    if not files:
        return []
    file = (content.local_folder() or content.prepared_folder()) / f"{task.name}.yaml"
    config: dict[str, Any] = {"include": str(task.file), "task": task.name}
    config |= {"dataset_path": builder, "dataset_name": None}
    config["dataset_kwargs"] = {"data_files": {task.split: [str(path.absolute()) for path in files]}}
    write_bytes(file, yaml.safe_dump(config, sort_keys=False).encode())
    return [f"  questions: {', '.join(path.name for path in files)}, asked by {file}"]


def _look(name: str, asked: Any, task: Task, source: Path) -> tuple[Found, int]:
    links = place_videos(name, asked.eval_docs, task.folder, (task.folder, source))
    return find_videos(name, asked), links


def _unpacked(written: int, task: Task) -> list[str]:
    return [f"  unpacked: {written} files into {task.folder}"] * bool(written)


def _free(folder: Path) -> str:
    return f"{size(space(existing(folder))[0])} free there"
