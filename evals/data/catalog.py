"""The data sets of the paper's eight benchmarks: what is known of them without the hub. Imports no torch.

The hub, where it answers, says more and says it now: sizes, licence, whether it is gated. None: we found no source.
Read in November 2026; a listing is the page "Files and versions" of the repository on huggingface.co.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from evals import content
from evals.data.files import files_below
from evals.shipped import hf_home
from evals.suites import SUITES, Doc
from videonsa.config import SettingsError
from videonsa.values import unknown


@dataclass(frozen=True)
class DataSet:
    """One data set; name of the repository, folder of videos and split are those of lmms-eval's task."""

    video: str  # where the task looks for a question's video below its folder, from the fields of the document
    licence: str | None
    gated: bool | None
    gigabytes: float | None  # to download, 10^9 bytes
    source: str
    questions: tuple[str, ...] = ()  # names of files of questions that do not name the split
    note: str | None = None


class Task(NamedTuple):
    """What lmms-eval's task says of its data."""

    name: str
    repo: str  # on the hub
    split: str
    folder: Path  # where it looks for videos
    file: Path  # of the task


CATALOG = {
    "longvideobench_val_v": DataSet(
        video="videos/{video_path}",
        licence="cc-by-nc-sa-4.0",
        gated=True,
        gigabytes=161.6,
        source="card of longvideobench/LongVideoBench; size: listing of the copy buckets/weathon/LongVideoBench-bucket",
    ),
    "longtimescope": DataSet(
        video="{video}",
        licence=None,
        gated=None,
        gigabytes=None,
        source="no card found; the first form's listing, Apollo-LMMs/LongTimeScope, has 8 or more parts of 32.2 GB",
    ),
    "timescope": DataSet(
        "{video}", None, None, None, "no card found; the listing of Apollo-LMMs/TimeScope is of questions"
    ),
    "mlvu_test": DataSet(
        video="{video_name}",
        licence="cc-by-nc-sa-4.0",
        gated=None,
        gigabytes=None,
        source="card of MLVU/MVLU, which is gated; lmms-eval asks the copy sy1998/MLVU_Test, of which we found none",
    ),
    "tomato": DataSet(
        video="{video_path}",
        licence="cc-by-sa-4.0",
        gated=None,
        gigabytes=None,
        source="card of yale-nlp/TOMATO; lmms-eval asks the copy lmms-eval/TOMATO, of which we found none",
    ),
    "vsibench": DataSet(
        video="{dataset}/{scene_name}.mp4",
        licence="apache-2.0",
        gated=False,
        gigabytes=5.73,
        source="listing of nyu-visionx/VSI-Bench",
    ),
    "lsdbench": DataSet(
        video="{video_id}.mp4",
        licence="apache-2.0",
        gated=False,
        gigabytes=None,
        source="listing of TainU/LSDBench",
        questions=("mc_qa_annotations_1300.json",),
        note="the videos are Ego4D's, under its own licence (https://ego4ddataset.com/ego4d-license); those that the"
        " hub has lie in downsampled_videos, where lmms-eval's task does not look: links are made",
    ),
    "videoevalpro": DataSet(
        video="videos_filtered/{video}",
        licence=None,
        gated=None,
        gigabytes=None,
        source="no card found of TIGER-Lab/VideoEval-Pro",
        note="its videos come from Video-MME, MLVU, LVBench and LongVideoBench, which have terms of their own",
    ),
}


def shipped_task(name: str) -> Task:
    """lmms-eval's task of one of the eight. Raises SettingsError that lists them."""
    if name not in CATALOG:
        ours = ": its videos are made when it is asked" if name in SUITES else unknown(name, CATALOG)
        raise SettingsError(f"no data to prepare for suite {name!r}{ours}; choose of {', '.join(CATALOG)}, or all")
    file = content.shipped_file(SUITES[name].settings.task)
    if file is None:
        raise SettingsError(f"suite {name}: lmms-eval has no task {SUITES[name].settings.task!r}: make setup")
    config = content.read_config(file)
    folder = hf_home() / config["dataset_kwargs"]["cache_dir"]
    return Task(config["task"], config["dataset_path"], config["test_split"], folder, file)


def video_of(name: str, doc: Doc) -> str:
    """Where the task looks for the question's video, below its folder. Raises SettingsError for other questions."""
    try:
        return CATALOG[name].video.format_map(doc)
    except KeyError as error:
        has = ", ".join(doc)
        raise SettingsError(f"suite {name}: its questions have no field {error.args[0]!r}, but {has}") from None


def question_names(name: str) -> list[tuple[str, str]]:
    """(builder of datasets, name) of files of questions; the first that is there counts."""
    split = shipped_task(name).split
    names = [f"{split}.jsonl", f"{split}.json", *CATALOG[name].questions]
    return [("parquet", f"{split}-*.parquet"), ("parquet", f"{split}.parquet"), *(("json", other) for other in names)]


def question_files(name: str, folder: Path) -> tuple[str, list[Path]]:
    """(builder of datasets, files of questions in a copy of the repository), or ("", []) where it holds none."""
    files = list(files_below(folder))
    for builder, pattern in question_names(name):
        if found := [file for file in files if fnmatchcase(file.name, pattern)]:
            return builder, found
    return "", []
