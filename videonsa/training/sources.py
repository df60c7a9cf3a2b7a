"""Where training samples come from. A source gives sample number i of a run: always the same one, in any order."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from videonsa.config import SettingsError, TrainSettings, require
from videonsa.synth import FAMILIES, Scene, check_asked, make_sample, prompt_text
from videonsa.training.conversations import ROLES, read_conversations
from videonsa.training.curriculum import Curriculum
from videonsa.training.skipped import SampleError, Skipped
from videonsa.video import Clip, Fit, Readers, Video, VideoError

log = logging.getLogger(__name__)

TEXT_TOKENS = 1024  # of max_tokens, kept free for the conversation; a longer one takes more
TURN_TOKENS = 32  # of the chat template, for each turn, its system prompt and the marks of a video included
CONTROLS = tuple(
    f"<|{name}|>" for name in ("im_start", "im_end", "vision_start", "vision_end", "video_pad", "image_pad")
)
TOKEN, SHORT_SIDE = 28, 56  # px of a vision token's side, and of a frame's of short synthetic videos
SUBSTITUTES = 20  # samples that are tried in place of one whose video cannot be read


@dataclass(frozen=True)
class Conversation:
    """Questions and answers about at most one video."""

    turns: tuple[tuple[str, str], ...]  # (role, text), role user or assistant; the video belongs to the first turn
    video: Video | Scene | None = None  # a scene is drawn where the model is


class Source(Protocol):
    """Samples by number."""

    steps: int  # optimizer steps of the run
    samples: int  # different ones that these show
    readers: int  # threads that may read samples at once

    def __getitem__(self, index: int) -> Conversation: ...

    def batch(self, step: int) -> range:
        """The numbers of a step's samples; steps count from 0."""
        ...

    def step_of(self, index: int) -> int:
        """The step that shows the sample of this number."""
        ...

    def take_skipped(self, indices: Iterable[int]) -> list[Skipped]:
        """What was passed over for the samples of these numbers, once they were asked for."""
        ...

    def name(self, index: int) -> str:
        """What people look for when the sample makes trouble."""
        ...


class EvenSteps:
    """A source whose steps show equally many samples."""

    batch_size: int

    def batch(self, step: int) -> range:
        """The numbers of a step's samples."""
        return range(step * self.batch_size, (step + 1) * self.batch_size)

    def step_of(self, index: int) -> int:
        """The step that shows a sample."""
        return index // self.batch_size


class SyntheticSource:
    """Synthetic questions, whose videos grow from stage to stage."""

    readers = 1  # numpy on small arrays: a second thread would only wait for Python's lock

    def __init__(self, settings: TrainSettings) -> None:
        assert settings.steps is not None
        self.settings, self.steps = settings, settings.steps
        check_asked(settings.families, settings.frames)
        self.curriculum = Curriculum(settings)
        self.batch, self.step_of = self.curriculum.batch, self.curriculum.step_of
        self.samples = self.batch(self.steps - 1).stop
        side = math.isqrt(settings.pixels_per_frame)
        self.size = {True: side - side % TOKEN, False: SHORT_SIDE}  # px, of long families' frames and of short ones'

    def __getitem__(self, index: int) -> Conversation:
        """Families take turns; one whose questions need longer videos waits for its stage."""
        frames = self.curriculum.frames(self.step_of(index))
        families = [name for name in self.settings.families if FAMILIES[name].min_frames <= frames]
        turn, place = divmod(index, len(families))
        # Count each family's own samples: its kinds of question take turns by this number.
        number = turn * families.count(families[place]) + families[:place].count(families[place])
        family, seed = FAMILIES[families[place]], self.settings.seed
        size = self.size[family.is_long]
        sample = make_sample(family.name, split="train", seed=seed, index=number, frames=frames, size=size)
        turns = (("user", prompt_text(sample)), ("assistant", sample.answer))
        if isinstance(sample.video, Scene):
            return Conversation(turns, sample.video)
        return Conversation(turns, Video.of(sample.video, float(family.rate(frames))))

    def take_skipped(self, indices: Iterable[int]) -> list[Skipped]:
        """None: all can be made."""
        return []

    def name(self, index: int) -> str:
        """'sample 7'."""
        return f"sample {index}"


class VideoSource(EvenSteps):
    """Conversations about video files, as in LLaVA-Video-178K: JSON or JSONL of {"video", "conversations"}.

    Raises SettingsError when the file cannot be used.
    """

    def __init__(self, settings: TrainSettings, processor: Any) -> None:
        self.settings = settings
        self.entries = read_conversations(Path(settings.data))
        self.batch_size = settings.batch_size
        self.steps = settings.steps or max(1, len(self.entries) // settings.batch_size)
        self.samples = min(len(self.entries), self.steps * settings.batch_size)
        self.skipped: dict[int, list[Skipped]] = {}  # by the number of the sample that was asked for
        self.processor = processor
        limits, video = video_size(processor, settings.pixels_per_frame), processor.video_processor
        fit = Fit(video.patch_size * video.merge_size, limits["shortest_edge"], limits["longest_edge"])
        self.clip = Clip(fps=settings.fps, fit=fit)
        self.patch = limits["longest_edge"] // fit.token**2  # tokens of two frames, at most
        self.workers = Readers()
        self.readers = self.workers.count  # each thread waits for one of them
        self.folder = Path(settings.video_folder or "")
        require(self.folder.is_dir(), "video_folder", str(self.folder), "an existing folder")

    def __getitem__(self, index: int) -> Conversation:
        """Each epoch has its own order. A sample whose video cannot be read is replaced by the next one that can."""
        skipped = self.skipped[index] = []
        for attempt in range(SUBSTITUTES):
            place = self._place(index + attempt)
            entry = self.entries[place]
            name = ", ".join(str(entry[key]) for key in ("id", "video") if entry.get(key)) or f"entry {place + 1}"
            try:
                return self._load(entry)
            except (VideoError, SampleError) as error:
                why = str(error)[:200].removeprefix(f"video {Path(str(entry.get('video'))).name}: ")
                log.warning("sample %s skipped: %s", name, why)
                skipped.append(Skipped(place + 1, name, why))
        raise SettingsError(
            f"video_folder={str(self.folder)!r}: {SUBSTITUTES} samples in a row cannot be shown; "
            f"the last: {name}: {why}"
        )

    def take_skipped(self, indices: Iterable[int]) -> list[Skipped]:
        """And forget it."""
        return [each for index in indices for each in self.skipped.pop(index, ())]

    def name(self, index: int) -> str:
        """'sample 7 (a/b.mp4)': the file that is read first for it."""
        return f"sample {index} ({self.entries[self._place(index)].get('video') or 'text'})"

    def _place(self, index: int) -> int:
        epoch, within = divmod(index, len(self.entries))
        return int(_epoch_order(self.settings.seed, epoch, len(self.entries))[within])

    def _load(self, entry: dict[str, Any]) -> Conversation:
        turns = tuple(_turn(part) for part in entry["conversations"])
        conversation = Conversation(turns)
        text, shown = self._text_tokens(conversation), bool(entry.get("video"))
        most = self.settings.max_tokens
        if text > (room := most - self.patch * shown):
            raise SampleError(f"a text of {text} tokens, where max_tokens={most} has room for {room}")
        if not shown and "decoder" in self.settings.freeze:
            raise SampleError("text alone, of which nothing learns where the decoder stays as it is (freeze)")
        if not shown:
            return conversation
        # Evenly fewer frames where there were more tokens.
        clip = replace(self.clip, tokens=max(1, most - max(TEXT_TOKENS, text)))
        return Conversation(turns, self.workers.read(self.folder / entry["video"], clip).result())

    def _text_tokens(self, conversation: Conversation) -> int:
        """Tokens of its turns, as far as they are more than are kept free anyway: a token is a byte or more.

        Raises SampleError for a text that would be taken for the turns, or the video, of the chat template.
        """
        texts = [text for _, text in conversation.turns]
        if control := next((control for control in CONTROLS for text in texts if control in text), None):
            raise SampleError(f"its text holds {control}")
        if sum(len(text.encode()) + TURN_TOKENS for text in texts) <= TEXT_TOKENS:
            return 0
        return sum(len(self._tokenizer.encode(text)) + TURN_TOKENS for text in texts)

    @cached_property
    def _tokenizer(self) -> Any:
        """Of its own: one serves one at a time for what pads, but counts for several threads at once."""
        return copy.deepcopy(self.processor.tokenizer.backend_tokenizer)


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)


def video_size(processor: Any, pixels_per_frame: int) -> dict[str, int]:
    """Least and most pixels of a frame, as the video processor takes them."""
    least = processor.video_processor.size["shortest_edge"]
    return {"shortest_edge": min(least, pixels_per_frame), "longest_edge": pixels_per_frame}


def _turn(part: dict[str, str]) -> tuple[str, str]:
    """One turn; the placeholders that say where the video goes are dropped: it goes first."""
    return ROLES[part["from"]], part["value"].replace("<image>", "").replace("<video>", "").strip()
