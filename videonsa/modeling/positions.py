"""Positions of Qwen2.5-VL's rotary encoding: time, height and width of every token, by the rule of its own code.

A vision token at temporal patch i, row h and column w of a video has the positions

    (start + floor(i * seconds of a patch * tokens_per_second), start + h, start + w)

one of an image the same with i = 0, a text token one number on all three axes. What follows a video or an image starts
at the largest position that it used on any axis, plus 1 (Qwen2-VL, arXiv 2409.12191, section 2.1).
transformers 5.3 and later start it at the larger of height and width instead, amid a long video's times, and some of
them cut a patch's seconds to whole ones. So nothing of theirs is called here, whatever the version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationMixin
from transformers.cache_utils import Cache

from videonsa.config import differences
from videonsa.modeling.passage import tokens_seen

TEXT, IMAGE, VIDEO = 0, 1, 2  # as in mm_token_type_ids
PADDING = 1  # the position of padding, as of transformers 4; no token attends to it


class ModelPositions:
    """For the model: positions of its inputs, at the start of a sequence or behind a cache."""

    config: Any
    rope_deltas: Tensor | None  # [B, 1], what `get_rope_index` returns second, of the latest call

    def get_rope_index(
        self,
        input_ids: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        second_per_grid_ts: Sequence[float] | Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        """Positions of whole sequences, int64 [3, B, L]: time, height, width; and what places the tokens after them.

        Args:
            input_ids: [B, L].
            mm_token_type_ids: [B, L], 0 text, 1 image, 2 video; None: `input_ids` say what is what.
            image_grid_thw, video_grid_thw: patches [images or videos, 3], in the order of samples and tokens.
            second_per_grid_ts: seconds that a temporal patch of each video lasts; None: 1.
            attention_mask: [B, L], 1 token, 0 padding; None: no padding.
        Returns:
            The positions, 1 at padding; and deltas [B, 1]: the number of a later token in its sample plus its sample's
            delta is its position.
        Raises:
            ValueError: an image or video has fewer tokens than its grid makes, or a video has no seconds.
        """
        kinds = self.token_kinds(input_ids, mm_token_type_ids)
        grids = self._grids(image_grid_thw, video_grid_thw, second_per_grid_ts)
        is_token = torch.ones_like(kinds, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        positions, ends = place(kinds, is_token, grids, [0] * len(kinds))
        return positions, ends - is_token.sum(dim=1, keepdim=True)

    def compute_3d_position_ids(
        self,
        input_ids: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        attention_mask: Any = None,
        past_key_values: Cache | None = None,
        second_per_grid_ts: Sequence[float] | Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """Positions [3, B, L] of the L tokens of a call, behind those in the cache. A mask [B, cached + L] may be
        given; masks of other shapes say nothing of padding."""
        shown = input_ids if input_ids is not None else inputs_embeds
        assert shown is not None
        batch, length = shown.shape[:2]
        cached = tokens_seen(past_key_values)
        if input_ids is None and mm_token_type_ids is None:
            mm_token_type_ids = shown.new_zeros(batch, length, dtype=torch.long)
        kinds = self.token_kinds(input_ids, mm_token_type_ids)[:, -length:]
        mask = torch.ones(batch, cached + length, dtype=torch.bool, device=kinds.device)
        if isinstance(attention_mask, Tensor) and attention_mask.shape == mask.shape:
            mask = attention_mask.bool()
        earlier = mask[:, :cached].sum(dim=1, keepdim=True)
        starts = earlier
        if cached and self.rope_deltas is not None:
            starts = earlier + self.rope_deltas.repeat_interleave(batch // len(self.rope_deltas), dim=0).to(mask.device)
        grids = self._grids(image_grid_thw, video_grid_thw, second_per_grid_ts)
        is_token = mask[:, cached:]
        positions, ends = place(kinds, is_token, grids, starts.flatten().tolist())
        self.rope_deltas = ends - earlier - is_token.sum(dim=1, keepdim=True)
        return positions

    def token_kinds(self, input_ids: Tensor | None, mm_token_type_ids: Tensor | None) -> Tensor:
        """TEXT, IMAGE or VIDEO for each token, [B, L]."""
        if mm_token_type_ids is not None:
            return mm_token_type_ids
        if input_ids is None:
            raise ValueError("positions need input_ids or mm_token_type_ids, which say what is vision")
        return IMAGE * (input_ids == self.config.image_token_id) + VIDEO * (input_ids == self.config.video_token_id)

    def _grids(self, images: Tensor | None, videos: Tensor | None, seconds: Any) -> dict[int, Iterator[np.ndarray]]:
        """The positions of each image's and each video's tokens, counted from its start."""
        vision = self.config.vision_config
        image_grids = [] if images is None else images.tolist()
        video_grids = [] if videos is None else videos.tolist()
        steps = [step * vision.tokens_per_second for step in self._seconds(seconds, len(video_grids))]
        return {
            IMAGE: (grid_positions(tuple(grid), 0.0, vision.spatial_merge_size) for grid in image_grids),
            VIDEO: (
                grid_positions(tuple(grid), step, vision.spatial_merge_size)
                for grid, step in zip(video_grids, steps, strict=True)
            ),
        }

    def _seconds(self, seconds: Any, videos: int) -> list[float]:
        """Seconds of a temporal patch of each video, under the semantics and the habits of the checkpoint."""
        if seconds is None or "grid_seconds" in differences(self.config.nsa.semantics):
            return [1.0] * videos
        if len(seconds) < videos:
            raise ValueError(
                f"second_per_grid_ts holds the seconds of {len(seconds)} videos; video_grid_thw has {videos}"
            )
        listed = seconds.tolist() if isinstance(seconds, Tensor) else seconds  # at once: they may be on a GPU
        given = [float(each) for each in listed[:videos]]
        return [float(int(each)) for each in given] if self.config.whole_seconds else given


class GenerationPositions:
    """For generate(): the prompt's positions, and those of the tokens that it adds."""

    model: ModelPositions

    def _prepare_position_ids_for_generation(self, inputs_tensor: Tensor, model_kwargs: dict[str, Any]) -> Tensor:
        """[4, B, L]: each token's number in its sample, then time, height and width."""
        model = self.model
        numbers = GenerationMixin._prepare_position_ids_for_generation(self, inputs_tensor, model_kwargs)
        input_ids = model_kwargs.get("input_ids")
        if input_ids is None or input_ids.shape[1] == 0:
            input_ids = None if inputs_tensor.is_floating_point() else inputs_tensor
        kinds = model_kwargs.get("mm_token_type_ids")
        if kinds is None and input_ids is not None:
            kinds = model.token_kinds(input_ids, None)
        cache = model_kwargs.get("past_key_values")
        cached = tokens_seen(cache)
        if cache is not None and cached > cache.get_seq_length():
            raise ValueError(
                "a cache whose prompt lost tokens before the first layer is not gone on with by another call of "
                "generate: give the whole prompt, without the cache"
            )
        if cached and model.rope_deltas is not None and (kinds is None or not kinds[:, cached:].any()):
            positions = (numbers + model.rope_deltas).expand(3, -1, -1)
        elif kinds is None:
            positions = numbers.expand(3, len(inputs_tensor), -1)
            model.rope_deltas = numbers.new_zeros(len(inputs_tensor), 1)
        else:
            positions, model.rope_deltas = model.get_rope_index(**{**model_kwargs, "mm_token_type_ids": kinds})
        return torch.cat([numbers.expand(1, positions.shape[1], -1), positions])

    def _update_model_kwargs_for_generation(
        self, outputs: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """As for every model; but a new token stands behind the largest position so far, also where the prompt ends in
        padding."""
        before, mask = model_kwargs.get("position_ids"), model_kwargs.get("attention_mask")
        updated = super()._update_model_kwargs_for_generation(outputs, model_kwargs, *args, **kwargs)  # type: ignore[misc]
        if before is not None and before.dim() == 3:
            after = updated["position_ids"]
            if isinstance(mask, Tensor) and mask.shape == before.shape[1:]:  # padding has a position that is no token's
                before = before.masked_fill(mask == 0, 0)
            largest = before[-3:].amax(dim=(0, 2))[:, None]
            after[-3:, :, before.shape[-1] :] = largest + torch.arange(
                1, after.shape[-1] - before.shape[-1] + 1, device=largest.device
            )
        return updated


@lru_cache(maxsize=8)  # samples of a batch, and steps of a training, show alike videos
def grid_positions(grid: tuple[int, ...], step: float, merge: int) -> np.ndarray:
    """Positions int64 [3, tokens] in a grid of patches (time, height, width), from 0, `step` a temporal patch.

    The product is rounded in float32, as Qwen2.5-VL's code does, before its fraction is cut off.
    """
    frames, height, width = grid[0], grid[1] // merge, grid[2] // merge
    time = (np.arange(frames, dtype=np.float32) * np.float32(step)).astype(np.int64)
    axes = np.meshgrid(time, np.arange(height), np.arange(width), indexing="ij")
    return np.stack(axes).reshape(3, -1)


def place(
    kinds: Tensor, is_token: Tensor, grids: Mapping[int, Iterator[np.ndarray]], starts: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Positions [3, B, L] of samples that begin at `starts`, and [B, 1] where each goes on. The grids are used up.

    By numpy: a batch of 64 samples would be two thousand operations of torch, as many as the rest of a small model.
    """
    positions = np.full((3, *kinds.shape), PADDING)
    ends = []
    rows = zip(kinds.cpu().numpy(), is_token.cpu().numpy(), starts, strict=True)
    for row, (kind, held, start) in enumerate(rows):
        parts = []
        for part in runs(kind[held], grids):
            parts.append(part + start)
            start = int(parts[-1].max()) + 1
        if parts:
            positions[:, row, held] = np.concatenate(parts, axis=1)
        ends.append([start])
    return torch.from_numpy(positions).to(kinds.device), torch.tensor(ends, device=kinds.device)


def runs(kinds: np.ndarray, grids: Mapping[int, Iterator[np.ndarray]]) -> Iterator[np.ndarray]:
    """Positions [3, n] of each run of text and of each image or video in one sample's tokens [L], each from 0.

    Vision tokens for which no grid is left, such as generated ones, count as text.
    """
    bounds = [0, *(np.flatnonzero(np.diff(kinds)) + 1).tolist(), len(kinds)]
    for first, last in pairwise(bounds if len(kinds) else ()):
        kind, count = int(kinds[first]), last - first
        while count:  # images side by side make one run
            part = next(grids[kind], None) if kind != TEXT else None
            if part is None:
                part = np.broadcast_to(np.arange(count), (3, count))
            if part.shape[1] > count:
                name = {IMAGE: "an image", VIDEO: "a video"}[kind]
                raise ValueError(f"{name} has {count} tokens in the prompt; its grid makes {part.shape[1]}")
            yield part
            count -= part.shape[1]
