"""What a training's data file holds, how many steps that is, and how long these take: estimates, without torch.

A large file is not read for it: its first entries stand for all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from ablations.cell import Training
from ablations.recorded import MODEL, training_seconds
from videonsa.config import TrainSettings
from videonsa.training.conversations import HEAD, Head, read_head
from videonsa.video.clip import TEMPORAL_PATCH, smart_size

SOME = 16  # videos of the first entries whose headers are read
TOKEN = 28  # pixels of a vision token's side, and the least of a frame, as Qwen2.5-VL's processor has them
LEAST = 128 * TOKEN**2
BYTES = 4  # of a text's token, about
TEXT = 1024  # of max_tokens, that the text has at least


class Tokens(NamedTuple):
    """Of a sample, on average."""

    number: float
    basis: str


def data_lines(trainings: Mapping[str, Training]) -> list[str]:
    """One line for each data file and recipe of these trainings."""
    recipes = [training.settings for training in trainings.values() if training.settings]
    lines = Counter(line for settings in recipes if settings.data != "synth" and (line := _line(settings)))
    return [f"Data: {line}" + f" each of {number} trainings" * (number > 1) for line, number in lines.items()]


def steps_of(settings: TrainSettings) -> int | None:
    """Steps of a training; None where that depends on a file that is not here."""
    if settings.steps or settings.data == "synth":
        return settings.steps
    head = head_of(settings.data)
    return None if head is None else max(1, head.samples // settings.batch_size)


def head_of(data: str) -> Head | None:
    """What is known of a data file; None where it is not here."""
    try:
        found = Path(data).stat()
        return _head(data, found.st_mtime_ns, found.st_size)
    except OSError:
        return None


@lru_cache(maxsize=8)
def _head(data: str, *_: int) -> Head:
    return read_head(Path(data))


def _line(settings: TrainSettings) -> str | None:
    head, steps = head_of(settings.data), steps_of(settings)
    if head is None or steps is None:
        return None
    part = f" (by its first {HEAD >> 20} MiB: {len(head.entries):,} entries, checked; a run reads and checks all)"
    tokens, shown = tokens_of(settings, head), steps * settings.batch_size
    most = f"max_tokens={settings.max_tokens:,} are the decoder's, two frames a patch"
    samples = f"{head.samples:,} samples, checked" if head.whole else f"about {head.samples:,} samples{part}"
    parts = [
        f"{settings.data}: {samples}",
        f"{steps:,} steps of {settings.batch_size}, {shown / head.samples:.3g} x all of them",
        f"about {tokens.number:,.0f} tokens a sample ({tokens.basis}; {most}), {tokens.number * shown:.2g} in all",
        _hours(settings, tokens.number, shown),
    ]
    return "; ".join(parts)


def _hours(settings: TrainSettings, tokens: float, samples: int) -> str:
    rate = training_seconds(round(tokens), settings.nsa.attention) if settings.model == MODEL else None
    if rate is None:
        return f"GPU hours not known of {settings.model}"
    return f"about {rate.seconds * samples / 3600:,.3g} GPU hours ({rate.where})"


def tokens_of(settings: TrainSettings, head: Head) -> Tokens:
    """By the headers of some of the first entries' videos, and the lengths of their texts."""
    texts = [sum(len(turn["value"].encode()) for turn in entry["conversations"]) for entry in head.entries]
    names = list(dict.fromkeys(entry["video"] for entry in head.entries if entry.get("video")))
    share = sum(bool(entry.get("video")) for entry in head.entries) / len(head.entries)
    found = _videos(settings, names)
    room = max(1, settings.max_tokens - TEXT)
    text = min(fmean(texts) / BYTES, settings.max_tokens)
    basis = f"{BYTES} bytes of text a token"
    if share and not found:
        return Tokens(text + share * room, f"at most: no video that was tried is here, {basis}")
    vision = share * fmean(found) if found else 0.0
    return Tokens(text + vision, f"headers of {len(found)} videos, {basis}" if found else basis)


def _videos(settings: TrainSettings, names: list[str]) -> list[int]:
    """Vision tokens of some videos that are here."""
    from videonsa.video.header import read_header
    from videonsa.video.index import VideoError

    found = []
    for name in names[:: max(1, len(names) // SOME)][:SOME]:
        try:
            header = read_header(Path(settings.video_folder or "") / name)
            most = settings.pixels_per_frame
            height, width = smart_size(header.height, header.width, TOKEN, min(LEAST, most), most)
        except (VideoError, ValueError, OSError):
            continue
        patch = height * width // TOKEN**2
        patches = max(1, round(header.seconds * settings.fps) // TEMPORAL_PATCH)
        found.append(patch * min(patches, max(1, (settings.max_tokens - TEXT) // patch)))
    return found
