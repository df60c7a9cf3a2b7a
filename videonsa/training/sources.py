"""Where training samples come from. A source gives sample number i of a run: always the same one, in any order."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize
from transformers.video_utils import load_video

from videonsa.config import SettingsError, TrainSettings, require
from videonsa.synth import FAMILIES, SECONDS, check_asked, make_sample, prompt_text
from videonsa.training.conversations import ROLES, read_conversations

log = logging.getLogger(__name__)

TEXT_TOKENS = 1024  # of max_tokens, kept free for the conversation
SUBSTITUTES = 20  # samples that are tried in place of one whose video cannot be read
ENOUGH = 0.9  # of the wanted frames: headers often promise a frame or two more than there are


@dataclass(frozen=True)
class Conversation:
    """Questions and answers about at most one video."""

    turns: tuple[tuple[str, str], ...]  # (role, text), role user or assistant; the video belongs to the first turn
    frames: np.ndarray | None = None  # uint8 [T, H, W, 3]
    fps: float = 2.0  # of `frames`


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
        return Conversation(turns, sample.frames, frames / SECONDS)


class VideoSource:
    """Conversations about video files, as in LLaVA-Video-178K: JSON or JSONL of {"video", "conversations"}.

    Raises SettingsError when the file cannot be used.
    """

    readers = 4  # decoding runs outside of Python's lock

    def __init__(self, settings: TrainSettings, processor: Any) -> None:
        self.settings, self.processor = settings, processor
        self.entries = read_conversations(Path(settings.data))
        self.steps = settings.steps or max(1, len(self.entries) // settings.batch_size)
        self.folder = Path(settings.video_folder or "")
        require(self.folder.is_dir(), "video_folder", str(self.folder), "an existing folder")

    def __getitem__(self, index: int) -> Conversation:
        """Each epoch has its own order. A sample whose video cannot be read is replaced by the next one that can."""
        for attempt in range(SUBSTITUTES):
            entry = self.entries[self._place(index + attempt)]
            try:
                return self._load(entry)
            except Exception as error:  # decoders raise whatever they like
                problem = f"video {entry.get('video')}: {' '.join(str(error).split())[:200] or type(error).__name__}"
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
        path = self.folder / entry["video"]
        if not path.is_file():
            raise FileNotFoundError("there is no such file")
        frames, metadata = load_video(str(path), backend="pyav", sample_indices_fn=self._choose_frames)
        video, wanted = np.asarray(frames), len(set(metadata.frames_indices))
        if len(video) < max(1, ENOUGH * wanted):
            raise ValueError(f"{len(video)} of {wanted} frames could be decoded")
        seconds = (metadata.total_num_frames or wanted) / (metadata.fps or self.settings.fps)
        return Conversation(turns, video, wanted / seconds)

    def _choose_frames(self, metadata: Any, **_: Any) -> np.ndarray:
        """Indices at the wanted rate, evenly fewer where the sample would have too many tokens; an even number."""
        total, rate = metadata.total_num_frames, metadata.fps or self.settings.fps
        video = self.processor.video_processor
        factor = video.patch_size * video.merge_size
        limits = video_size(self.processor, self.settings.pixels_per_frame)
        height, width = smart_resize(
            metadata.height, metadata.width, factor, limits["shortest_edge"], limits["longest_edge"]
        )
        tokens = height * width // factor**2  # of a patch of two frames
        affordable = 2 * max(1, (self.settings.max_tokens - TEXT_TOKENS) // tokens)
        wanted = min(round(total / rate * self.settings.fps), affordable, total)
        return np.linspace(0, total - 1, max(2, wanted - wanted % 2)).round().astype(int)


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
