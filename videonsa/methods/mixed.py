"""Attention over vision and text together: NSA among the vision tokens, dense for text (paper, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from videonsa.kernels import nsa_attention
from videonsa.kernels.text import text_attention
from videonsa.methods.contract import broken_keys
from videonsa.methods.layout import TokenLayout


def mixed_attention(
    query: Tensor, key: Tensor, value: Tensor, gates: Tensor, layout: TokenLayout, scale: float
) -> Tensor:
    """Vision tokens attend to their sample's earlier vision tokens by NSA, text tokens to all earlier tokens.

    query [B, L, Hq, D]; key, value [B, L, Hkv, D]; gates of the vision tokens, [vision_batch, Nv / vision_batch, Hq, 3]
    -> [B, L, Hq, D], 0 for padding.
    """
    vision_query, text_query = layout.part(query)
    vision = nsa_attention(
        vision_query,
        layout.pack(key),
        layout.pack(value),
        gates,
        block_size=layout.nsa.block_size,
        block_count=layout.nsa.block_count,
        window=layout.nsa.window,
        branches=layout.nsa.branches,
        cu_seqlens=layout.cu_seqlens,
        scale=scale,
        backend=layout.nsa.backend,
    )
    attend = text_by_spans if layout.text_mask is None else text_by_mask
    text = attend(text_query, key, value, layout, scale)
    return layout.unpack(vision.flatten(0, 1), text).view(query.shape)


def text_by_mask(query: Tensor, key: Tensor, value: Tensor, layout: TokenLayout, scale: float) -> Tensor:
    """Dense causal attention of the text tokens' queries [B, T, Hq, D] over all earlier tokens of their sample, whose
    keys and values are [B, L, Hkv, D]; [B*T, Hq, D]. No output depends on a later token, be it NaN."""
    assert layout.text_mask is not None
    broken = broken_keys(key, value)
    if broken is not None:
        key, value = (tensor.masked_fill(broken[..., None], 0) for tensor in (key, value))
    output = scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=layout.text_mask,
        scale=scale,
        enable_gqa=True,
    ).transpose(1, 2)
    if broken is not None:
        reached = (layout.text_mask[:, 0].float() @ broken.float() > 0).repeat_interleave(
            query.shape[2] // key.shape[2], dim=2
        )
        output = output.masked_fill(reached[..., None], torch.nan)
    return output.flatten(0, 1)


def text_by_spans(query: Tensor, key: Tensor, value: Tensor, layout: TokenLayout, scale: float) -> Tensor:
    """As `text_by_mask`, with no mask and no copied heads: for few queries of long videos, all samples in one call."""
    query, key, value = (tensor.flatten(0, 1) for tensor in (query, key, value))
    return text_attention(query, key, value, layout.text_positions, scale, layout.nsa.backend, layout.text_spans)
