"""The vision tower in fewer, larger operations and in memory that does not grow with the video; the same mathematics
and the same weights.

A temporal patch of a video (an image has one) attends to itself alone, in windows or whole, so the tower takes some of
them at a time. On CUDA in half precision all windows of a piece are one call, whatever their sizes: frames of 16:9 have
smaller ones at their edges.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad, scaled_dot_product_attention
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionPatchEmbed,
    Qwen2_5_VisionTransformerPretrainedModel,
    Qwen2_5_VLMLP,
    Qwen2_5_VLVisionAttention,
    Qwen2_5_VLVisionBlock,
    apply_rotary_pos_emb_vision,
)
from transformers.utils.output_capturing import _CAN_RECORD_REGISTRY

from videonsa.methods.tower import window_order
from videonsa.modeling.layers import VisionFeedForward, add_norm, rotate

PATCHES = 16384  # of a piece, 4,096 tokens: enough to fill a GPU, and 1 GiB of activations
# Numbers of a piece's hidden states where gradients are wanted: 65,536 patches of Qwen2.5-VL's 1,280. What a backward
# pass needs is kept anyway, so small pieces save little; and of two GPUs that share 32K tokens launches took most time.
TRAINED = 65536 * 1280
WHOLE = ("output_hidden_states", "output_attentions")  # what a caller may ask that pieces do not give

Grid = tuple[int, int, int]  # time, height, width in patches


@dataclass(frozen=True)
class Windows:
    """Runs of patches that attend each within itself."""

    lengths: tuple[int, ...]
    bounds: Tensor  # int32 [windows + 1]

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Windows:
        ends = torch.tensor(lengths, dtype=torch.int32).cumsum(0, dtype=torch.int32)
        return cls(tuple(lengths), pad(ends, (1, 0)).to(device))

    @cached_property
    def by_length(self) -> dict[int, Any]:
        """For each length the patches of all windows of that length, one window after the other; to index with."""
        if len(set(self.lengths)) == 1:
            return {self.lengths[0]: slice(None)}
        with torch.inference_mode(False):
            each = torch.tensor(self.lengths)
            of_patch = each.repeat_interleave(each).to(self.bounds.device)
            return {length: (of_patch == length).nonzero()[:, 0] for length in sorted(set(self.lengths))}

    @cached_property
    def places(self) -> Tensor | None:
        """Where each patch is when they are ordered by length; None where they are as they were."""
        if len(self.by_length) == 1:
            return None
        with torch.inference_mode(False):
            return torch.cat(list(self.by_length.values())).argsort()


@dataclass(frozen=True)
class Layout:
    """How the tower orders the patches of a piece: by temporal patch, window, and within it by token."""

    order: Tensor  # [tokens] the place among the given tokens of each
    inverse: Tensor  # [tokens]
    places: Tensor  # [patches, 2] row and column in their frame, in the tower's order
    windows: Windows
    frames: Windows  # temporal patches, each whole


def pieces(grids: Sequence[Sequence[int]], most: int) -> Iterator[tuple[Grid, ...]]:
    """The temporal patches of all grids in order, in runs of at most `most` patches; of one, where it has more."""
    piece: list[Grid] = []
    for time, height, width in grids:
        while time > 0:
            room = (most - sum(t * h * w for t, h, w in piece)) // (height * width)
            if room < 1 and piece:
                yield tuple(piece)
                piece = []
                continue
            taken = min(time, max(room, 1))
            piece.append((taken, height, width))
            time -= taken
    if piece:
        yield tuple(piece)


def largest_piece(hidden_size: int, training: bool) -> int:
    """Patches of a piece at most."""
    return max(PATCHES, TRAINED // hidden_size) if training else PATCHES


def shares_of(grids: Sequence[Sequence[int]], count: int) -> list[list[Grid]]:
    """The temporal patches of all grids in order, in `count` runs of about equally many patches; a run may be empty."""
    whole = sum(time * height * width for time, height, width in grids)
    shares: list[list[Grid]] = [[] for _ in range(count)]
    first = 0
    for time, height, width in grids:
        middles = [first + (2 * index + 1) * height * width / 2 for index in range(time)]
        for share, taken in Counter(int(middle * count / whole) for middle in middles).items():
            shares[share].append((taken, height, width))
        first += time * height * width
    return shares


def share_of(grids: Sequence[Sequence[int]], rank: int, count: int) -> tuple[list[Grid], slice]:
    """The share that a process encodes, and which of all patches it is.

    A process whose share is empty encodes the first temporal patch, in vain: the tower's weights are used in all
    processes or in none.
    """
    shares = shares_of(grids, count)
    own = shares[rank] or [(1, grids[0][1], grids[0][2])]
    first = sum(math.prod(grid) for share in shares[:rank] for grid in share) if shares[rank] else 0
    return own, slice(first, first + sum(map(math.prod, own)))


@lru_cache(maxsize=16)  # the pieces of a video are alike, but for the last
@torch.inference_mode(False)  # training and inference share them
def make_layout(grids: tuple[Grid, ...], merge: int, window: int, device: torch.device) -> Layout:
    """The layout of grids; merge^2 patches are a token, and window^2 tokens at most a window."""
    order = window_order([list(grid) for grid in grids], merge, window)
    places, windows, frames = [], [], []
    for time, height, width in grids:
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        by_token = (
            each.unflatten(1, (-1, merge)).unflatten(0, (-1, merge)).transpose(1, 2).flatten()
            for each in (rows, columns)
        )
        places.append(torch.stack(list(by_token), 1).repeat(time, 1))
        sides = [
            [min(window, side - at) for at in range(0, side, window)] for side in (height // merge, width // merge)
        ]
        windows += [tall * wide * merge**2 for tall in sides[0] for wide in sides[1]] * time
        frames += [height * width] * time
    in_order = torch.cat(places).unflatten(0, (-1, merge**2))[order].flatten(0, 1)
    return Layout(
        order.to(device), order.argsort().to(device), in_order.to(device), Windows.of(windows, device),
        Windows.of(frames, device),
    )  # fmt: skip


class PiecewiseTower(Qwen2_5_VisionTransformerPretrainedModel):
    """The stock tower, some temporal patches at a time."""

    def forward(
        self, hidden_states: Tensor, grid_thw: Tensor, keep_states: bool = True, fuse: bool = True, **kwargs: Any
    ) -> BaseModelOutputWithPooling | tuple:
        """As the stock tower: pixels of patches [patches, pixels] and grids [items, 3] -> features of tokens.

        keep_states: False leaves out `last_hidden_state`, [patches, hidden], which no one reads in a prefill.
        fuse: see layers.py.
        Hidden states of all layers and attention weights are had of the stock tower: `output_hidden_states` and
        `output_attentions` go there.
        """
        if any(kwargs.get(name) or getattr(self.config, name, False) for name in WHOLE):
            return super().forward(hidden_states, grid_thw, **kwargs)
        states, pooled, first = [], [], 0
        for piece in pieces(grid_thw.tolist(), largest_piece(self.config.hidden_size, torch.is_grad_enabled())):
            last = first + sum(time * height * width for time, height, width in piece)
            state, features = self._encode(hidden_states[first:last], piece, fuse)
            states += [state] * keep_states
            pooled.append(features)
            first = last
        output = BaseModelOutputWithPooling(
            last_hidden_state=torch.cat(states) if keep_states else None, pooler_output=torch.cat(pooled)
        )
        return output if kwargs.get("return_dict", True) is not False else output.to_tuple()

    def _encode(self, pixels: Tensor, grids: tuple[Grid, ...], fuse: bool) -> tuple[Tensor, Tensor]:
        window = self.window_size // self.spatial_merge_size // self.patch_size
        layout = make_layout(grids, self.spatial_merge_size, window, pixels.device)
        hidden = self.patch_embed(pixels).unflatten(0, (-1, self.spatial_merge_unit))[layout.order].flatten(0, 1)
        rotary = self._angles(layout.places)
        for number, block in enumerate(self.blocks):
            windows = layout.frames if number in self.fullatt_block_indexes else layout.windows
            hidden = block(hidden, cu_seqlens=windows.bounds, position_embeddings=rotary, windows=windows, fuse=fuse)
        return hidden, self.merger(hidden)[layout.inverse]

    @torch.no_grad()
    def _angles(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [patches, D], float32: half of the angles the row's, half the column's, and all twice."""
        angles = (places[..., None].float() * self.rotary_pos_emb.inv_freq.float()).flatten(1).repeat(1, 2)
        return angles.cos(), angles.sin()


# transformers looks up by a class's name what can be captured, and enters it where a model is built.
dict.__setitem__(_CAN_RECORD_REGISTRY, str(PiecewiseTower), PiecewiseTower._can_record_outputs)


class VisionBlock(Qwen2_5_VLVisionBlock):
    """The stock block, in fewer passes over its hidden states."""

    def forward(self, hidden_states: Tensor, cu_seqlens: Tensor, fuse: bool = True, **kwargs: Any) -> Tensor:
        """[patches, hidden] -> [patches, hidden]."""
        normed, _ = add_norm(self.norm1, hidden_states, None, fuse)
        attended = self.attn(normed, cu_seqlens=cu_seqlens, fuse=fuse, **kwargs)
        normed, hidden_states = add_norm(self.norm2, hidden_states, attended, fuse)
        return hidden_states + self.mlp(normed, fuse)


class WindowAttention(Qwen2_5_VLVisionAttention):
    """Attends to all windows at once, on a CPU to all of one length; the stock layer makes one call a window.

    A batch of 18 videos of 32 frames has 288 windows of 16 patches: 3 ms instead of 25 on two CPU cores.
    """

    def forward(
        self,
        hidden_states: Tensor,
        cu_seqlens: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        windows: Windows | None = None,
        fuse: bool = True,
        **kwargs: Any,
    ) -> Tensor:
        """hidden_states [patches, hidden]; cu_seqlens [windows + 1], their bounds, which `windows` hold too."""
        if position_embeddings is None or self.config._attn_implementation not in ("sdpa", "eager"):
            return super().forward(hidden_states, cu_seqlens, position_embeddings=position_embeddings, **kwargs)
        if windows is None:
            windows = Windows.of(cu_seqlens.diff().tolist(), cu_seqlens.device)
        query, key, value = self.qkv(hidden_states).unflatten(1, (3, self.num_heads, -1)).unbind(1)
        query, key = rotate(query, key, *position_embeddings, stock=apply_rotary_pos_emb_vision, fuse=fuse)
        return self.proj(attend(query, key, value, windows, fuse).flatten(1))


def attend(query: Tensor, key: Tensor, value: Tensor, windows: Windows, fuse: bool) -> Tensor:
    """Attention of each window to itself, [patches, heads, D]."""
    half = query.is_cuda and query.dtype in (torch.float16, torch.bfloat16)
    if fuse and half and query.shape[2] % 8 == 0:
        from torch.nn.attention.varlen import varlen_attn  # imports what CUDA needs

        longest = max(windows.lengths)
        return cast(Tensor, varlen_attn(query, key, value, windows.bounds, windows.bounds, longest, longest))
    outputs: list[Tensor] = []
    for length, patches in windows.by_length.items():
        parts = (tensor[patches].unflatten(0, (-1, length)).transpose(1, 2) for tensor in (query, key, value))
        outputs.append(scaled_dot_product_attention(*parts).transpose(1, 2).flatten(0, 1))
    return outputs[0] if windows.places is None else torch.cat(outputs)[windows.places]


class LinearPatchEmbed(Qwen2_5_VisionPatchEmbed):
    """A convolution whose kernel is as large as its input is a matrix product, which is faster."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Pixels of patches [patches, channels * frames * height * width] -> [patches, hidden]."""
        weight = self.proj.weight
        return linear(hidden_states.to(weight.dtype), weight.flatten(1))


FASTER: dict[type, type[nn.Module]] = {
    Qwen2_5_VisionTransformerPretrainedModel: PiecewiseTower,
    Qwen2_5_VLVisionBlock: VisionBlock,
    Qwen2_5_VLVisionAttention: WindowAttention,
    Qwen2_5_VLMLP: VisionFeedForward,
    Qwen2_5_VisionPatchEmbed: LinearPatchEmbed,
}


def speed_up_vision(model: nn.Module) -> None:
    """Let the vision tower and its layers compute in the faster way. They keep their weights, names and outputs."""
    for module in model.modules():
        if type(module) in FASTER:
            module.__class__ = FASTER[type(module)]
