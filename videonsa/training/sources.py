"""Where training samples come from. A source gives sample number i of a run: always the same one, in any order."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from videonsa.config import SettingsError, TrainSettings, require
from videonsa.synth import FAMILIES, SECONDS, check_asked, make_sample, prompt_text
from videonsa.training.conversations import ROLES, read_conversations
from videonsa.video import Clip, Fit, Readers, Video, VideoError

log = logging.getLogger(__name__)

TEXT_TOKENS = 1024  # of max_tokens, kept free for the conversation
SUBSTITUTES = 20  # samples that are tried in place of one whose video cannot be read


@dataclass(frozen=True)
class Conversation:
    """Questions and answers about at most one video."""

    turns: tuple[tuple[str, str], ...]  # (role, text), role user or assistant; the video belongs to the first turn
    video: Video | None = None


class Source(Protocol):
    """Samples by number."""

    steps: int  # optimizer steps of the run
    readers: int  # threads that may read samples at once

    def __getitem__(self, index: int) -> Conversation: ...


class SyntheticSource:
    """Synthetic questions. The run has as many stages as `frames` has lengths, shortest first, equally long."""

    readers = 1  # numpy on small arrays: a second thread would only wait for Python's lock

    def __init__(self, settings: TrainSettings) -> None:
        assert settings.steps is not None
        self.settings, self.steps = settings, settings.steps
        self.lengths = sorted(settings.frames)
        check_asked(settings.families, settings.frames)

    def __getitem__(self, index: int) -> Conversation:
        """Families take turns; one whose questions need longer videos waits for its stage."""
        stage = index * len(self.lengths) // (self.steps * self.settings.batch_size)
        frames = self.lengths[min(stage, len(self.lengths) - 1)]
        families = [name for name in self.settings.families if FAMILIES[name].min_frames <= frames]
        turn, place = divmod(index, len(families))
        # Count each family's own samples: its kinds of question take turns by this number.
        number = turn * families.count(families[place]) + families[:place].count(families[place])
        sample = make_sample(families[place], split="train", seed=self.settings.seed, index=number, frames=frames)
        turns = (("user", prompt_text(sample)), ("assistant", sample.answer))
        return Conversation(turns, Video.of(sample.frames, frames / SECONDS))


class VideoSource:
    """Conversations about video files, as in LLaVA-Video-178K: JSON or JSONL of {"video", "conversations"}.

    Raises SettingsError when the file cannot be used.
    """

    def __init__(self, settings: TrainSettings, processor: Any) -> None:
        self.settings = settings
        self.entries = read_conversations(Path(settings.data))
        self.steps = settings.steps or max(1, len(self.entries) // settings.batch_size)
        limits, video = video_size(processor, settings.pixels_per_frame), processor.video_processor
        fit = Fit(video.patch_size * video.merge_size, limits["shortest_edge"], limits["longest_edge"])
        tokens = max(1, settings.max_tokens - TEXT_TOKENS)
        self.clip = Clip(fps=settings.fps, fit=fit, tokens=tokens)  # evenly fewer frames where there were more tokens
        self.workers = Readers()
        self.readers = self.workers.count  # each thread waits for one of them
        self.folder = Path(settings.video_folder or "")
        require(self.folder.is_dir(), "video_folder", str(self.folder), "an existing folder")

    def __getitem__(self, index: int) -> Conversation:
        """Each epoch has its own order. A sample whose video cannot be read is replaced by the next one that can."""
        for attempt in range(SUBSTITUTES):
            entry = self.entries[self._place(index + attempt)]
            try:
                return self._load(entry)
            except VideoError as error:
                problem = f"{str(error)[:200]} ({entry['video']})"
                log.warning("sample %s skipped: %s", entry.get("id"), problem)
        raise SettingsError(
            f"video_folder={str(self.folder)!r}: {SUBSTITUTES} samples in a row cannot be read; the last: {problem}"
        )

    def _place(self, index: int) -> int:
        epoch, within = divmod(index, len(self.entries))
        return int(_epoch_order(self.settings.seed, epoch, len(self.entries))[within])

    def _load(self, entry: dict[str, Any]) -> Conversation:
        turns = tuple(_turn(part) for part in entry["conversations"])
        if not entry.get("video"):
            return Conversation(turns)
        return Conversation(turns, self.workers.read(self.folder / entry["video"], self.clip).result())


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
