"""Local stand-ins for the eight benchmarks: documents of the real schema, several kinds, uneven counts.

`write_repository` lays them out as their repositories on the hub are, by the listings that evals/data/catalog.py names
and by public scripts that unpack them (open-compass/VLMEvalKit for VideoEval-Pro). MLVU's test set is laid out as
sy1998/MLVU_dev, LongTimeScope2 as LongTimeScope; of TimeScope no listing of videos was found: a zip file stands for
whatever it has. Fields are those that the cards and public code that reads them name.
"""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import lmms_eval
import numpy as np
import pyarrow
import pyarrow.parquet

from evals.data.synthetic import write_video

Doc = dict[str, Any]
Files = Mapping[str, bytes]  # videos, by where they lie in the benchmark
Pack = Callable[[Files, Path], None]  # writes them as the repository has them


@dataclass(frozen=True)
class StandIn:
    """A benchmark's documents, and answers of which some are right."""

    file: str  # of the shipped task, below lmms_eval/tasks
    docs: list[Doc]
    videos: str  # where the shipped task looks for them, below $HF_HOME
    repo: str  # name of the repository on the hub
    questions: str  # file of questions in it
    pack: Pack
    says: tuple[str, ...] = ("A", "B.", "The answer is A", "(C)", "a", "nothing")
    split: str = "test"


def _vsibench() -> list[Doc]:
    rights = {"object_rel_direction_easy": 5, "object_rel_direction_medium": 2, "object_rel_direction_hard": 1}
    rights |= {"object_rel_distance": 4, "route_planning": 1, "obj_appearance_order": 3}
    docs: list[Doc] = []
    for kind, count in rights.items():
        docs += [
            {"question_type": kind, "ground_truth": "AB"[n % 2], "options": ["A. x", "B. y"]} for n in range(count)
        ]
    counts = {"object_abs_distance": 3, "object_counting": 6, "object_size_estimation": 2, "room_size_estimation": 1}
    for kind, count in counts.items():
        docs += [{"question_type": kind, "ground_truth": str(2 + n), "options": None} for n in range(count)]
    same = {"dataset": "arkitscenes", "question": "Which one, or how many?"}
    return [{"id": n, **same, "scene_name": f"s{n % 3}", **doc} for n, doc in enumerate(docs)]


def _mlvu() -> list[Doc]:
    counts = {"anomaly_reco": 1, "count": 5, "ego": 2, "needleQA": 1, "order": 3, "plotQA": 2, "sportsQA": 1}
    counts |= {"topic_reasoning": 4, "tutorialQA": 1}
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    return [
        {"video_name": f"v{n % 4}.mp4", "question": f"Question {n}?", "task_type": kind, "answer": "AABC"[n % 4]}
        | {"duration": 4.0, "candidates": ["x", "y", "z"], "question_id": f"Q{n}"}
        for n, kind in enumerate(kinds)
    ]


def _longvideobench() -> list[Doc]:
    kinds = ["S2E", "S2E", "S2E", "E2O", "T2A", "T2A", "SSS"]
    docs = []
    for n, kind in enumerate(kinds):
        options = {f"option{place}": f"thing {place}" if place < 2 + n % 4 else "N/A" for place in range(5)}
        doc = {"id": f"v{n % 2}_{n}", "video_id": f"v{n % 2}", "video_path": f"v{n % 2}.mp4", "question": "What?"}
        doc |= {"duration_group": (15, 60, 600)[n % 3], "question_category": kind, "correct_choice": n % 2}
        more = {"subtitle_path": "v.json", "starting_timestamp_for_subtitles": 0.0, "duration": 4.0}
        more |= {"question_wo_referring_query": "What?", "position": [1, 2], "topic_category": "NP-News-Programs"}
        more |= {"level": "L1-Perception", "view_count": 1}
        docs.append({**doc, **options, **more})
    return docs


def _timescope() -> list[Doc]:
    kinds = ["QA", "QA", "QA", "OCR", "temporal", "temporal"]
    return [
        {"id": n, "video": f"v{n % 2}.mp4", "length": (60, 300)[n % 2], "type": kind, "answer": "AaBC"[n % 4]}
        | {"input": "What is seen?\nA. x\nB. y\nC. z\nD. w\nE. v\nF. u", "replace_time": 1.5}
        for n, kind in enumerate(kinds)
    ]


def _tomato() -> list[Doc]:
    return [
        {
            "id": str(n),
            "question": "Which way?",
            "options": ["left", "right", "not at all"],
            "answer": (0, 0, 1, 2)[n % 4],
        }
        | {"video_path": f"videos/human/v{n % 3}.mp4", "reason_type": ("direction", "count", "direction")[n % 3]}
        | {"demonstration_type": ("human", "object")[n % 2], "motion_type": "translational", "note": None}
        | {"variation": {"composite": 0, "counterfactual": n % 2, "first_person": 0, "zoom": 0}, "key": f"000{n}-00"}
        for n in range(7)
    ]


def _lsdbench() -> list[Doc]:
    options = {"A": "one", "B": "two", "C": "three", "D": "four"}
    return [
        {"video_id": f"v{n % 2}", "question": f"How many, {n}?", "options": options, "correct_answer": "ABCA"[n % 4]}
        | {"original_answer": "Three.", "time_range": "[00:01, 00:03]"}
        for n in range(6)
    ]


def _videoevalpro() -> list[Doc]:
    kinds = ["Local Perception", "Local Perception", "Local Reasoning", "Holistic Perception", "Holistic Reasoning"]
    return [
        {"video": f"v{n % 2}.mp4", "question": f"What is it, {n}?", "options": ["A. x", "B. y"], "answer": "A"}
        | {"answer_text": ("A", "a dog")[n % 2], "qa_type": kind, "qa_subtype": "x", "source": "s", "meta": "m"}
        for n, kind in enumerate(kinds)
    ]


def _zips(*names: str) -> Pack:
    """Each archive has every so many-th video."""

    def pack(files: Files, folder: Path) -> None:
        for number, name in enumerate(names):
            with zipfile.ZipFile(folder / name, "w") as archive:
                for path in sorted(files)[number :: len(names)]:
                    archive.writestr(path, files[path])

    return pack


def _cut_tar(names: str, gzipped: bool = False, inside: str = "") -> Pack:
    """One tar file, cut into three pieces; `names`: with a place for the piece's letter or number."""

    def pack(files: Files, folder: Path) -> None:
        whole = io.BytesIO()
        with tarfile.open(fileobj=whole, mode="w:gz" if gzipped else "w") as archive:
            for path in sorted(files):
                member = tarfile.TarInfo(inside + path)
                member.size = len(files[path])
                archive.addfile(member, io.BytesIO(files[path]))
        content, size = whole.getvalue(), -(-len(whole.getvalue()) // 3)
        for number in range(3):
            letter, count = "abc"[number], number + (9 if gzipped else 0)  # 9, 10, 11: not in the order of letters
            file = folder / names.format(letter=letter, number=count)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content[number * size : (number + 1) * size])

    return pack


def _plain(inside: str) -> Pack:
    def pack(files: Files, folder: Path) -> None:
        for path, content in files.items():
            (folder / inside / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / inside / path).write_bytes(content)

    return pack


def _by_source(files: Files, folder: Path) -> None:
    """VSI-Bench: a zip file for each data set that its videos come from, and the card that names its configuration."""
    (folder / "README.md").write_text(
        "---\nlicense: mit\nconfigs:\n- config_name: full\n  data_files:\n  - {split: test, path: test.jsonl}\n---\n"
    )
    for source in {path.partition("/")[0] for path in files}:
        with zipfile.ZipFile(folder / f"{source}.zip", "w") as archive:
            for path in files:
                if path.startswith(f"{source}/"):
                    archive.writestr(path, files[path])


TEST = "data/test-00000-of-00001.parquet"
STANDINS = {
    "longvideobench_val_v": StandIn(
        *("longvideobench/longvideobench_val_v.yaml", _longvideobench(), "datasets/longvideobench/videos"),
        *("longvideobench/LongVideoBench", "validation-00000-of-00001.parquet"),
        _cut_tar("videos.tar.part.a{letter}", inside="videos/"),
        split="validation",
    ),
    "longtimescope": StandIn(
        *("longtimescope/longtimescope.yaml", _timescope(), "longtimescope", "Apollo-LMMs/LongTimeScope2", TEST),
        _cut_tar("compressed_archive.tar.part0{number}"),
    ),
    "timescope": StandIn(
        *("timescope/timescope.yaml", _timescope(), "timescope", "Apollo-LMMs/TimeScope", TEST), _zips("videos.zip")
    ),
    "mlvu_test": StandIn(
        *("mlvu/mlvu_test.yaml", _mlvu(), "mlvu_test", "sy1998/MLVU_Test", "mlvu/test-00000-of-00001.parquet"),
        _zips("video_part_1.zip", "video_part_2.zip"),
    ),
    "tomato": StandIn(
        *("tomato/tomato.yaml", _tomato(), "TOMATO", "lmms-eval/TOMATO", TEST), _zips("part_001.zip", "part_002.zip")
    ),
    "vsibench": StandIn(
        *("vsibench/vsibench.yaml", _vsibench(), "vsibench", "nyu-visionx/VSI-Bench", "test.jsonl", _by_source),
        ("A", "A 3", "3", "five things", "B."),
    ),
    "lsdbench": StandIn(
        *("lsdbench/lsdbench.yaml", _lsdbench(), "lsdbench", "TainU/LSDBench", "mc_qa_annotations_1300.json"),
        _plain("downsampled_videos"),
    ),
    "videoevalpro": StandIn(
        *("videoevalpro/videoevalpro.yaml", _videoevalpro(), "videoevalpro/videos_filtered"),
        *("TIGER-Lab/VideoEval-Pro", TEST),
        _cut_tar("videos/videos_part_{number}.tar.gz", gzipped=True, inside="videos_filtered/"),
    ),
}


FRAMES = np.random.default_rng(0).integers(0, 255, (4, 56, 56, 3), dtype=np.uint8)


def write_task(name: str, folder: Path, task: str | None = None, more: str = "") -> str:
    """A task file of the stand-in's documents in a folder, as docs/evaluation.md says; the task's name."""
    stand_in, task = STANDINS[name], task or f"{name}_local"
    folder.mkdir(parents=True, exist_ok=True)
    docs = folder / f"{task}.jsonl"
    docs.write_text("".join(json.dumps(doc) + "\n" for doc in stand_in.docs))
    shipped = Path(lmms_eval.__file__).parent / "tasks" / stand_in.file
    (folder / f"{task}.yaml").write_text(
        f"include: {shipped}\ntask: {task}\ndataset_path: json\ndataset_name: null\n"
        f"dataset_kwargs: {{data_files: {{{stand_in.split}: {docs}}}, cache_dir: {folder / 'cache'}}}\n{more}"
    )
    return task


def write_videos(home: Path, *names: str) -> None:
    """Short videos of these benchmarks, or of all, where the shipped tasks look for them below $HF_HOME."""
    for stand_in in [STANDINS[name] for name in names or STANDINS]:
        for name in {_video(doc) for doc in stand_in.docs}:
            path = home / stand_in.videos / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, FRAMES, Fraction(1))


def write_repository(name: str, folder: Path) -> Path:
    """The stand-in as its repository on the hub is laid out, in a folder of the repository's name; returns that."""
    stand_in, place = STANDINS[name], folder / STANDINS[name].repo.rpartition("/")[2]
    questions = place / stand_in.questions
    questions.parent.mkdir(parents=True, exist_ok=True)
    if questions.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(stand_in.docs), questions)
    elif questions.suffix == ".jsonl":
        questions.write_text("".join(json.dumps(doc) + "\n" for doc in stand_in.docs))
    else:
        questions.write_text(json.dumps(stand_in.docs))
    write_video(folder / "one.mp4", FRAMES, Fraction(1))
    content = (folder / "one.mp4").read_bytes()
    stand_in.pack({_video(doc): content for doc in stand_in.docs}, place)
    for file in [path for path in place.rglob("*") if path.is_file()]:  # as `hf download --local-dir` leaves it
        note = place / ".cache" / "huggingface" / "download" / f"{file.relative_to(place)}.metadata"
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text("a revision\nan etag\na time\n")
    return place


def _video(doc: Doc) -> str:
    if "scene_name" in doc:
        return f"{doc['dataset']}/{doc['scene_name']}.mp4"
    names = ("video_path", "video_name", "video")
    return next((doc[name] for name in names if name in doc), None) or f"{doc['video_id']}.mp4"
