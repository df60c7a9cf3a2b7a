"""What an observer must do: it looks at each layer of each video as it runs, and keeps no more than sums.

A probe gives every observer each layer's inputs once and forgets them. Whatever an observer keeps must not grow with
the tokens of a video, but where its docstring says how far: a video may have 131,072 of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from evals.question import Question
from videonsa.config import NSASettings
from videonsa.methods.contract import LayerCall, Method
from videonsa.modeling import AttentionInputs

T = TypeVar("T")


@dataclass(frozen=True)
class Piece:
    """An image or a video of a question."""

    kind: Literal["image", "video"]
    grid: tuple[int, int, int]  # time, height, width in tokens; its tokens stand in this order
    first: int  # its first token among the question's vision tokens
    patch: int  # its first token among all of its kind: the place of its pixels
    seconds: float | None  # from one temporal patch to the next; None where that is not known

    @property
    def tokens(self) -> int:
        """Vision tokens."""
        return int(np.prod(self.grid))


@dataclass(frozen=True)
class SeenVideo:
    """What one question of a probe shows: its images and videos, in the order of their tokens."""

    index: int  # among the suite's questions
    suite: str
    question: Question  # on the CPU, but for pixels of scenes
    layers: int  # of the model
    merge: int  # patches of a side of a token
    frames: int  # of a temporal patch

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """Images and videos. A piece has T x H x W tokens, one after the other."""
        inputs, found = self.question.inputs, []
        kinds = inputs["mm_token_type_ids"][0]
        kinds = kinds[kinds > 0].tolist()
        grids = {kind: iter(_rows(inputs.get(f"{kind}_grid_thw"))) for kind in ("image", "video")}
        seconds = iter(_rows(inputs.get("second_per_grid_ts")))
        at, patch = 0, {"image": 0, "video": 0}
        while at < len(kinds):
            kind: Literal["image", "video"] = "image" if kinds[at] == 1 else "video"
            time, height, width = next(grids[kind])
            grid = (time, height // self.merge, width // self.merge)
            apart = next(seconds, None) if kind == "video" else None
            found.append(Piece(kind, grid, at, patch[kind], None if apart is None else float(apart)))
            at += found[-1].tokens
            patch[kind] += found[-1].tokens
        return tuple(found)

    def pixels(self, piece: Piece, times: slice) -> Tensor:
        """Pixels of these temporal patches, as the model's processor scaled them (about 0, a spread of about 1).

        [times, height, width, channels, frames, y, x]: grid places in tokens, then a token's own pixels.
        """
        time, height, width = piece.grid
        of_time, merge = height * width, self.merge
        name = "pixel_values_videos" if piece.kind == "video" else "pixel_values"
        start = piece.patch + times.start * of_time
        end = piece.patch + min(times.stop, time) * of_time
        rows = self.question.inputs[name][start * merge**2 : end * merge**2]  # a token's patches stand together
        side = round((rows.shape[1] / 3 / self.frames) ** 0.5)
        patches = rows.view(-1, height, width, merge, merge, 3, self.frames, side, side)
        return patches.permute(0, 1, 2, 5, 6, 3, 7, 4, 8).reshape(
            -1, height, width, 3, self.frames, merge * side, merge * side
        )


@dataclass(frozen=True)
class SeenLayer:
    """What NSA of one layer is given for one question, a batch of one; it is gone once the observers have looked."""

    inputs: AttentionInputs
    nsa: NSASettings
    places: Tensor  # [N], of each row of the inputs its place among the question's vision tokens; -1: it is text
    found: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def number(self) -> int:
        """Of the layer, from 0."""
        return self.inputs.layer

    def once(self, find: Callable[[SeenLayer], T]) -> T:
        """What `find` gives of this layer, found once for all observers that ask for it."""
        if find not in self.found:
            self.found[find] = find(self)
        return self.found[find]


class Observer:
    """Looks at layers as they run. Subclasses override what they need; what they keep is summed over videos."""

    def __init__(self, nsa: NSASettings) -> None:
        self.nsa = nsa

    def look(self, layer: SeenLayer, video: SeenVideo) -> None:
        """One layer of one question under NSA, as it runs: layers in order, then the next question."""

    def choose(self, way: str, method: Method, call: LayerCall) -> None:
        """One layer of one question under any method, before it attends; way: 'nsa', or what the method is called."""

    def by_layer(self) -> Mapping[int, Any]:
        """JSON values of each layer: the record's layers[...][NAME]."""
        return {}

    def whole(self) -> Mapping[str, Any]:
        """JSON values that stand in the record for themselves, by their names there."""
        return {}

    def arrays(self) -> Mapping[str, np.ndarray]:
        """What is saved beside the record, by name, there NAME/name: numbers alone."""
        return {}


def seen_video(index: int, suite: str, question: Question, config: Any) -> SeenVideo:
    """config: the model's, with its `vision_config` and `text_config`."""
    vision = config.vision_config
    layers = config.text_config.num_hidden_layers
    return SeenVideo(index, suite, question, layers, vision.spatial_merge_size, vision.temporal_patch_size)


def places(method: Method, question: Question) -> Tensor:
    """[N] of each token that NSA is given, in order, its place among the question's vision tokens; -1 where it is text.

    Some semantics take other tokens for vision than those that stand for pixels.
    """
    given = method.batch.is_vision[0]
    shows = question.inputs["mm_token_type_ids"][0].to(given.device) > 0
    return torch.where(shows, shows.cumsum(0) - 1, -1)[given]


def _rows(values: Any) -> list[Any]:
    if values is None:
        return []
    return values.tolist() if torch.is_tensor(values) else list(values)
