"""Local stand-ins for the eight benchmarks: documents of the real schema, several kinds, uneven counts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import lmms_eval
import numpy as np

from evals.data import write_video

Doc = dict[str, Any]


@dataclass(frozen=True)
class StandIn:
    """A benchmark's documents, and answers of which some are right."""

    file: str  # of the shipped task, below lmms_eval/tasks
    docs: list[Doc]
    videos: str  # where the shipped task looks for them, below $HF_HOME
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
        docs.append({**doc, **options, **more})
    return docs


def _timescope() -> list[Doc]:
    kinds = ["QA", "QA", "QA", "OCR", "temporal", "temporal"]
    return [
        {"id": n, "video": f"v{n % 2}.mp4", "length": (60, 300)[n % 2], "type": kind, "answer": "AaBC"[n % 4]}
        | {"input": "What is seen?\nA. x\nB. y\nC. z\nD. w\nE. v\nF. u"}
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
        | {"video_path": f"videos/v{n % 3}.mp4", "reason_type": ("direction", "count", "direction")[n % 3]}
        | {"demonstration_type": ("human", "object")[n % 2]}
        for n in range(7)
    ]


def _lsdbench() -> list[Doc]:
    options = {"A": "one", "B": "two", "C": "three", "D": "four"}
    return [
        {"question_id": n, "video_id": f"v{n % 2}", "question": "How many?", "options": options}
        | {"correct_answer": "ABCA"[n % 4]}
        for n in range(6)
    ]


def _videoevalpro() -> list[Doc]:
    kinds = ["Local Perception", "Local Perception", "Local Reasoning", "Holistic Perception", "Holistic Reasoning"]
    return [
        {"video": f"v{n % 2}.mp4", "question": f"What is it, {n}?", "options": ["A. x", "B. y"], "answer": "A"}
        | {"answer_text": ("A", "a dog")[n % 2], "qa_type": kind, "qa_subtype": "x", "source": "s", "meta": "m"}
        for n, kind in enumerate(kinds)
    ]


LVB_VIDEOS = "datasets/longvideobench/videos"
STANDINS = {
    "longvideobench_val_v": StandIn(
        "longvideobench/longvideobench_val_v.yaml",
        _longvideobench(),
        "datasets/longvideobench/videos",
        split="validation",
    ),
    "longtimescope": StandIn("longtimescope/longtimescope.yaml", _timescope(), "longtimescope"),
    "timescope": StandIn("timescope/timescope.yaml", _timescope(), "timescope"),
    "mlvu_test": StandIn("mlvu/mlvu_test.yaml", _mlvu(), "mlvu_test"),
    "tomato": StandIn("tomato/tomato.yaml", _tomato(), "TOMATO"),
    "vsibench": StandIn("vsibench/vsibench.yaml", _vsibench(), "vsibench", ("A", "A 3", "3", "five things", "B.")),
    "lsdbench": StandIn("lsdbench/lsdbench.yaml", _lsdbench(), "lsdbench"),
    "videoevalpro": StandIn("videoevalpro/videoevalpro.yaml", _videoevalpro(), "videoevalpro/videos_filtered"),
}


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
    frames = np.random.default_rng(0).integers(0, 255, (4, 56, 56, 3), dtype=np.uint8)
    for stand_in in [STANDINS[name] for name in names or STANDINS]:
        for name in {_video(doc) for doc in stand_in.docs}:
            path = home / stand_in.videos / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, frames, Fraction(1))


def _video(doc: Doc) -> str:
    if "scene_name" in doc:
        return f"{doc['dataset']}/{doc['scene_name']}.mp4"
    names = ("video_path", "video_name", "video")
    return next((doc[name] for name in names if name in doc), None) or f"{doc['video_id']}.mp4"
