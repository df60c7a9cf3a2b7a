"""What a drawn video shows, as numbers: some hundred bytes for thousands of frames, which videonsa/drawing.py makes."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from videonsa.config import SettingsError

FPS = 2  # frames a second: a frame patch lasts one, and a longer video lasts longer
SUFFIX = ".scene.json"  # of files that hold a scene


class Box(NamedTuple):
    """A square of one colour, in the frames from `first` up to `end`; lengths in units of 1/56 frame."""

    first: int
    end: int
    top: int
    left: int
    side: int
    red: int
    green: int
    blue: int


@dataclass(frozen=True)
class Scene:
    """Squares on flickering grey frames. A later square hides an earlier one."""

    frames: int
    size: int  # width and height of a frame, px
    key: int  # of the background's random numbers, 64 bits
    boxes: tuple[Box, ...]

    @property
    def seconds(self) -> float:
        return self.frames / FPS


def write_scene(scene: Scene) -> str:
    """As a file holds it."""
    return json.dumps(dataclasses.asdict(scene)) + "\n"


def read_scene(path: Path) -> Scene:
    """Raises SettingsError for a file that holds none; OSError."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        boxes = tuple(Box(*map(int, box)) for box in said["boxes"])
        return Scene(int(said["frames"]), int(said["size"]), int(said["key"]), boxes)
    except (ValueError, TypeError, KeyError) as error:
        raise SettingsError(f"{path.name}: no scene: {type(error).__name__}: {error}") from None
