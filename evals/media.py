"""What questions show, kept beside their answers for people to look at: their prompts, and small pictures of the frames
that were seen. It is in no identity, and costs no question its answer: what goes wrong here is left out.

In answers/<suite>-<id>/media/ lie one JPEG for each clip that was read or drawn, a sheet of frames whose comment says
when they are and how long the clip is, and for each sampling a JSON that names every question's prompt and sheets.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from videonsa.disk import write_bytes
from videonsa.identity import identity
from videonsa.video import Clip, Video, VideoError, in_time
from videonsa.video.reading import STALLED

if TYPE_CHECKING:
    from evals.asking import Asked
    from evals.checkpoint import Checkpoint
    from evals.question import Sampling
    from evals.run import SuiteRun

FRAMES = 8  # of a sheet at most, evenly from those that were seen
COLUMNS = 4
SIDE = 128  # pixels that a frame has at most, wide or high
QUALITY = 70  # of the JPEG: some kB a sheet, 70 of pure noise

log = logging.getLogger("evals")


@contextmanager
def kept(run: SuiteRun, loaded: Checkpoint, asked: Iterable[Asked]) -> Iterator[dict[str, str]]:
    """While the block asks, what is read is also kept; gives, by key of an answer, the name of the JSON in media/."""
    media = Media(run.answers.folder / "media")
    names: dict[str, str] = {}
    for one in asked:
        name = identity(one.sampling.inputs)
        with _left_out(f"the prompts of {run.suite.name}"):
            if name not in names.values():
                media.keep_questions(name, run, _clips(run, loaded, one.sampling))
            names[one.key] = f"{name}.json"
    loaded.readers.watch = media.keep_clip
    try:
        yield names
    finally:
        loaded.readers.watch = None


class Media:
    """The media/ of a folder of answers; several processes may add to it."""

    def __init__(self, folder: Path, stalled: float = STALLED) -> None:
        """stalled: seconds after which the folder's disk is taken to hang, and no more pictures are kept."""
        self.folder, self.stalled, self.hangs = folder, stalled, False
        self.sheets: dict[
            tuple[Path, Clip], set[str]
        ] = {}  # names that a clip's sheet has, of the questions that show it

    def keep_clip(self, path: Path, clip: Clip, video: Video) -> None:
        """Keep the clip's sheet, where it is not there. Raises nothing; whoever waits for the clip waits no longer for
        a disk that hangs, and once."""
        if self.hangs:
            return
        with _left_out(f"the picture of {path.name}"):
            try:
                in_time(lambda _: self._keep(path, clip, video), path, self.stalled)
            except VideoError:
                self.hangs = True
                raise

    def _keep(self, path: Path, clip: Clip, video: Video) -> None:
        places = [self.folder / f"{name}.jpg" for name in self.sheets.get((path, clip), ())]
        if new := [place for place in places if not place.is_file()]:
            sheet = sheet_of(video)
            for place in new:
                write_bytes(place, sheet)

    def keep_questions(self, name: str, run: SuiteRun, clips: Callable[[list[dict]], list[tuple[Path, Clip]]]) -> None:
        """Write the prompts and sheets of the run's questions into the JSON of this name. No video is looked at.

        A sheet is named by what its question shows, wherever that lies, and by what is taken of it.
        """
        known = read_questions(self.folder / f"{name}.json")
        found = dict(known)
        for number, content in enumerate(run.contents):
            with _left_out(f"question {number} of {run.suite.name}"):
                messages = run.task.doc_to_messages(run.task.eval_docs[number])
                sheets = []
                for place, clip in enumerate(clips(messages)):
                    sheets.append(hashlib.sha256(repr((content.shown, place, clip[1])).encode()).hexdigest()[:16])
                    self.sheets.setdefault(clip, set()).add(sheets[-1])
                found[str(number)] = {"prompt": prompt_of(messages), "sheets": sheets}
        if found != known:
            write_bytes(self.folder / f"{name}.json", json.dumps(found, ensure_ascii=False).encode())


def read_questions(path: Path) -> dict[str, dict[str, Any]]:
    """By number of a question its `prompt` and `sheets`; nothing where the file is not there or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {number: one for number, one in found.items() if isinstance(one, dict)} if isinstance(found, dict) else {}


def prompt_of(messages: Iterable[Mapping[str, Any]]) -> str:
    """The text of a question in lmms-eval's chat form, a line between its parts."""
    texts = []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        texts += [str(part["text"]).strip() for part in parts if part["type"] == "text"]
    return "\n".join(filter(None, texts))


def sheet_of(video: Video) -> bytes:
    """A JPEG of some of the frames that were seen, row by row; its comment says when they are, as JSON."""
    chosen = np.unique(np.linspace(0, len(video.frames) - 1, FRAMES).round().astype(int))
    frames = [Image.fromarray(_on_cpu(video.frames[number])) for number in chosen.tolist()]
    for frame in frames:
        frame.thumbnail((SIDE, SIDE))
    width, height = frames[0].size
    columns = min(COLUMNS, len(frames))
    sheet = Image.new("RGB", (columns * width, math.ceil(len(frames) / columns) * height))
    for place, frame in enumerate(frames):
        sheet.paste(frame, (place % columns * width, place // columns * height))
    start = video.indices[0] if len(video.indices) else 0
    times = [round(float(video.indices[number] - start) / video.rate, 2) for number in chosen]
    about = {"seconds": round(video.seconds, 2), "seen": len(video.frames), "times": times, "columns": columns}
    made = io.BytesIO()
    sheet.save(made, "JPEG", quality=QUALITY, optimize=True, comment=json.dumps(about))
    return made.getvalue()


def _on_cpu(frame: Any) -> np.ndarray:
    """A scene's frame is a tensor, where it was drawn."""
    return frame.cpu().numpy() if hasattr(frame, "cpu") else frame


def _clips(
    run: SuiteRun, loaded: Checkpoint, sampling: Sampling
) -> Callable[[list[dict[str, Any]]], list[tuple[Path, Clip]]]:
    from evals.question import clips

    return lambda messages: clips(loaded.processor, messages, sampling)


@contextmanager
def _left_out(what: str) -> Iterator[None]:
    """What the block raises is a line of the log."""
    try:
        yield
    except (Exception, SystemExit) as error:  # some tasks exit where a file is missing
        with contextlib.suppress(Exception):
            log.info("%s is not kept: %s: %s", what, type(error).__name__, error)
