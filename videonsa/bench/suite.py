"""What the benchmarks of evaluation share: files made here, questions about them, and a model of full size to ask."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from evals.asking import Asked
from evals.checkpoint import Checkpoint, from_memory
from evals.run import SuiteRun
from evals.suites import suite_settings
from videonsa.bench import command, shapes
from videonsa.bench.check import CheckFailed
from videonsa.bench.reading import SIZES, write_clip, write_repeated
from videonsa.config import NSASettings, SuiteSettings
from videonsa.options import positive
from videonsa.tiny import build_processor

QUESTION = "What happens in this video? Answer in one sentence."
TASK, SPLIT = "files", "test"
SUITE = "timescope"  # whose row of evals/suites.py is changed to what is asked here


@dataclass
class Files:
    """A task about some files, as far as asking needs one; nothing scores it."""

    eval_docs: list[dict[str, str]]
    config: Any = field(default_factory=lambda: SimpleNamespace(task=TASK))

    def doc_to_messages(self, doc: dict[str, str]) -> list[dict[str, Any]]:
        content = [{"type": "video", "url": doc["video"]}, {"type": "text", "text": QUESTION}]
        return [{"role": "user", "content": content}]


def write_files(folder: Path, count: int, size: str, seconds: int) -> Files:
    """So many videos, alike but for their titles, which make them different files."""
    folder.mkdir(parents=True, exist_ok=True)
    clip, paths = folder / "clip.mp4", [folder / f"{number}.mp4" for number in range(count)]
    write_clip(clip, size)
    for number, path in enumerate(paths):
        write_repeated(path, size, seconds, "x" * (1 + number), clip)
    return Files([{"video": str(path)} for path in paths])


def settings(frames: int, tokens_per_frame: int, answer: int) -> SuiteSettings:
    return suite_settings(SUITE, frames=frames, fps=None, tokens_per_frame=tokens_per_frame, max_new_tokens=answer)


def checkpoint(name: str, layers: int | None, vision_layers: int | None) -> Checkpoint:
    """A model of a shape with random weights, as it is evaluated: bfloat16 on a GPU, float32 on a CPU."""
    cuda = torch.cuda.is_available()
    device, dtype = torch.device("cuda" if cuda else "cpu"), torch.bfloat16 if cuda else torch.float32
    nsa = shapes.TINY if name == "tiny" else NSASettings()
    model, processor = shapes.build(name, nsa, dtype, device, layers, vision_layers)
    return from_memory(model.requires_grad_(False), processor)


def answers(run: SuiteRun, asked: list[Asked]) -> list[dict[str, Any]]:
    """The rows of all answers; raises CheckFailed where one is missing or is an error."""
    for one in asked:
        if one.error is not None:
            raise CheckFailed(f"{one.nsa}: {one.error}")
    rows = [run.answers.rows[one.key, content.question] for one in asked for content in run.contents]
    for row in rows:
        if row["error"]:
            raise CheckFailed(row["error"])
    return rows


def processor(least: int, most: int) -> Any:
    """A processor whose videos have frames of so many pixels, as one that was loaded for that."""
    made = build_processor()
    for part in (made.video_processor, made.image_processor):
        part.size = type(part.size)(shortest_edge=least, longest_edge=most)
    return made


def add_videos(parser: argparse.ArgumentParser, videos: int, seconds: int) -> None:
    """The options that both commands have."""
    parser.add_argument("--model", choices=shapes.NAMES, default="7b")
    parser.add_argument("--videos", type=positive, default=videos)
    parser.add_argument("--seconds", type=positive, default=seconds, help="of a video; a multiple of 10")
    parser.add_argument("--size", choices=tuple(SIZES), default="720p")
    parser.add_argument("--frames", type=positive, default=1024, help="that are asked of a video")
    parser.add_argument("--tokens-per-frame", type=positive, default=64, help="of two frames, at most")
    parser.add_argument("--answer", type=positive, default=16, help="tokens")
    parser.add_argument("--layers", type=positive, help="of the decoder; fewer are for a try")
    parser.add_argument("--vision-layers", type=positive, help="of the tower")


def about(options: argparse.Namespace, loaded: Checkpoint) -> dict[str, Any]:
    """The columns that say what was asked."""
    asked = {name: getattr(options, name) for name in ("model", "videos", "size", "seconds", "frames", "answer")}
    return {**asked, "layers": loaded.model.config.text_config.num_hidden_layers}


def measured(
    name: str, columns: tuple[str, ...], options: argparse.Namespace, row: Callable[..., dict[str, Any]]
) -> int:
    """A command that makes one row, row(options, folder); the tiny model's try needs no device. Returns its code."""
    if options.model != "tiny" and not command.has_device(name):
        return 2
    software = command.software(options.commit, "transformers")
    table = command.table(columns, options.out, software)
    if table is None:
        return 2
    with tempfile.TemporaryDirectory() as place:
        try:
            made = row(options, Path(place))
        except CheckFailed as error:
            print(error, file=sys.stderr)
            return 1
    print(", ".join(f"{name} {made[name]}" for name in columns if name in made), flush=True)
    table.add(made)
    return 0
