"""What a new token attends to while an answer is decoded: a prompt's cache, and the tokens since; in plain torch.

decode_triton.py computes the same on CUDA, and reads the cache by its address.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

FIELDS = 7  # of a table's row: key, value, mask (addresses), length, strides of row, head, token


@dataclass(frozen=True)
class Prompt:
    """One layer's cache: keys and values [B, Hkv, >= length, D]; which of the `length` tokens are seen."""

    key: Tensor
    value: Tensor
    length: int
    is_token: Tensor | None  # bool [B, length]; None: all are


def make_table(prompts: Sequence[Prompt]) -> Tensor:
    """int64 [layers, FIELDS], on the CPU. The tensors must outlive its use.

    Raises ValueError for keys and values that do not lie alike, for heads whose numbers are not side by side, and for
    rows that do not begin at 16 numbers.
    """
    rows = []
    for prompt in prompts:
        key, value, mask = prompt.key, prompt.value, prompt.is_token
        if key.stride() != value.stride() or key.stride(3) != 1 or any(n % 16 for n in key.stride()[:3]):
            raise ValueError(f"keys and values lie apart: strides {key.stride()} and {value.stride()}")
        if mask is not None and (not mask.is_contiguous() or mask.shape[1] != prompt.length):
            raise ValueError(f"the mask of {prompt.length} tokens must be contiguous; got {list(mask.shape)}")
        address = 0 if mask is None else mask.data_ptr()
        rows.append([key.data_ptr(), value.data_ptr(), address, prompt.length, *key.stride()[:3]])
    return torch.tensor(rows, dtype=torch.int64)


def decode_reference(query: Tensor, prompt: Prompt, recent: Tensor, step: int, scale: float) -> Tensor:
    """As `decode_attention`, in plain torch, of the prompt itself and of `step` + 1 recent tokens."""
    key, value = (
        torch.cat([held[:, :, : prompt.length], new[:, :, : step + 1]], 2)
        for held, new in zip((prompt.key, prompt.value), recent, strict=True)
    )
    mask = None
    if prompt.is_token is not None:
        mask = pad(prompt.is_token, (0, step + 1), value=True)[:, None, None]
    return scaled_dot_product_attention(query[:, :, None], key, value, attn_mask=mask, scale=scale, enable_gqa=True)[
        :, :, 0
    ]
