"""The release's semantics in the model: which tokens are vision, and the attention of each sample."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from videonsa.config import NSASettings, differences
from videonsa.kernels.release import mixed_attention, vision_by_position
from videonsa.modeling.samples import Samples, find_samples


@dataclass(frozen=True)
class ReleaseLayout:
    """The tokens of a batch [B, L] under semantics other than the paper's; stands where `TokenLayout` does."""

    nsa: NSASettings
    gates: Tensor | None  # [layers, heads, 3] in place of the gates of the hidden states; None: dynamic
    is_vision: Tensor  # bool [B, L]
    is_token: Tensor  # bool [B, L], False is padding
    samples: Samples  # one a row, or several packed into it

    def with_positions(self, position_ids: Tensor | None) -> ReleaseLayout:
        """The layout under modality_by_position, from M-RoPE positions [3 or 4, B, L], time, height, width last."""
        if "modality_by_position" not in differences(self.nsa.semantics):
            return self
        if position_ids is None or position_ids.dim() != 3 or position_ids.shape[0] < 3:
            raise ValueError(
                "modality_by_position tells vision from text by positions of three axes, and these have one: "
                "give position_ids [3, B, L], or none, and they are worked out"
            )
        return dataclasses.replace(self, is_vision=vision_by_position(position_ids[-3:]) & self.is_token)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, gates: Tensor, scale: float) -> Tensor:
        """Attention of each sample: query [B, L, Hq, D], gates [B, L, Hq, 3] -> [B, L, Hq, D]; 0 for padding."""
        output = torch.zeros_like(query, memory_format=torch.contiguous_format)
        for tokens, is_vision in self._alike:
            attended = mixed_attention(
                query.flatten(0, 1)[tokens],
                key.flatten(0, 1)[tokens],
                value.flatten(0, 1)[tokens],
                gates.flatten(0, 1)[tokens],
                is_vision,
                block_size=self.nsa.block_size,
                block_count=self.nsa.block_count,
                window=self.nsa.window,
                branches=self.nsa.branches,
                differences=differences(self.nsa.semantics),
                scale=scale,
            )
            output.flatten(0, 1)[tokens] = attended  # a view
        return output

    @functools.cached_property
    def _alike(self) -> list[tuple[Tensor, Tensor]]:
        """Samples whose tokens are alike in kind, together: flat indices [n, length] and which are vision, [length]."""
        tokens = self.is_token.flatten().nonzero().squeeze(1)
        is_vision = self.is_vision.flatten()[tokens]
        lengths = self.samples.count(self.is_token).tolist()
        patterns = [pattern.numpy().tobytes() for pattern in is_vision.cpu().split(lengths)]
        alike: dict[bytes, list[int]] = {}
        for sample, pattern in enumerate(patterns):
            if pattern:
                alike.setdefault(pattern, []).append(sample)
        places, kinds = tokens.split(lengths), is_vision.split(lengths)
        return [
            (torch.stack([places[i] for i in group]), kinds[group[0]]) for group in alike.values() if lengths[group[0]]
        ]

    def pack(self, tensor: Tensor) -> Tensor:
        """The vision tokens of [B, L, ...] as one row [1, Nv, ...]."""
        return tensor[self.is_vision][None]

    def vision_bounds(self) -> Tensor:
        """Where each sample's vision tokens begin and end in that row, int32 [samples + 1]."""
        counts = self.samples.count(self.is_vision)
        return torch.nn.functional.pad(counts[counts > 0].cumsum(0), (1, 0)).int()


def release_layout(
    is_vision: Tensor,
    attention_mask: Tensor | None,
    nsa: NSASettings,
    gates: Tensor | None,
    text_positions: Tensor | None = None,
) -> ReleaseLayout:
    """Lay out a batch, with the arguments of `token_layout`."""
    is_token = torch.ones_like(is_vision) if attention_mask is None else attention_mask.bool()
    return ReleaseLayout(nsa, gates, is_vision & is_token, is_token, find_samples(is_token, text_positions))
