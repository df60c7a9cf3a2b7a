"""Readings of the vision tower: what its own attention says, in the order of the tokens that it returns."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
    apply_rotary_pos_emb_vision,
)
from transformers.vision_utils import get_vision_window_index

from tests.helpers import TOLERANCE, relative_error
from videonsa.methods import tower as tower_module
from videonsa.methods.tokens import last_token_scores
from videonsa.methods.tower import attention_received, reading, window_order
from videonsa.modeling import vision as vision_module
from videonsa.modeling.vision import speed_up_vision

# Two videos and an image; windows of 4 x 4 tokens leave rests on every side.
GRIDS = [[3, 4, 4], [2, 12, 20], [1, 10, 6]]


@pytest.fixture(scope="module")
def vision():
    torch.manual_seed(0)
    config = Qwen2_5_VLVisionConfig(
        depth=3,
        hidden_size=32,
        intermediate_size=48,
        num_heads=2,
        window_size=112,
        out_hidden_size=24,
        fullatt_block_indexes=[1, 2],
        initializer_range=0.3,
    )
    config._attn_implementation = "eager"
    return Qwen2_5_VisionTransformerPretrainedModel(config).eval().requires_grad_(False)


def pixels(grids, seed=0):
    patches = sum(time * height * width for time, height, width in grids)
    return torch.randn(patches, 3 * 2 * 14 * 14, generator=torch.Generator().manual_seed(seed))


def slow_readings(vision, grids):
    """Sums of weights with every pair in memory, of one temporal patch at a time, by token."""
    found = {"local": [], "last": []}
    sizes = [[1, height, width] for time, height, width in grids for _ in range(time)]
    for part, size in zip(pixels(grids).split([height * width for _, height, width in sizes]), sizes, strict=True):
        order, _ = get_vision_window_index(torch.tensor([size]), 2, 112, 14)
        hooks = [
            vision.blocks[block].attn.register_forward_pre_hook(partial(_weigh, found[name], order), with_kwargs=True)
            for name, block in (("local", 1), ("last", 2))
        ]
        vision(part, grid_thw=torch.tensor([size]))
        for hook in hooks:
            hook.remove()
    return {name: torch.cat(parts) for name, parts in found.items()}


def _weigh(found, order, attention, args, kwargs):
    query, key, _ = attention.qkv(args[0]).view(len(args[0]), 3, attention.num_heads, -1).unbind(1)
    query, key = apply_rotary_pos_emb_vision(query, key, *kwargs["position_embeddings"])
    weights = (query.transpose(0, 1) @ key.permute(1, 2, 0) * attention.head_dim**-0.5).softmax(dim=-1)
    received = weights.mean(dim=0).sum(dim=0).view(-1, 4).mean(dim=1)
    found.append(torch.empty_like(received).index_copy_(0, order, received))


@pytest.mark.parametrize("fast", [False, True], ids=["stock", "sped-up"])
def test_readings_equal_the_weights_of_each_temporal_patch(vision, fast, monkeypatch):
    used = copy.deepcopy(vision)
    if fast:
        speed_up_vision(used)
    expected = slow_readings(vision, GRIDS)
    monkeypatch.setattr(tower_module, "CHUNK", 500)  # pieces of rows, and of segments
    monkeypatch.setattr(vision_module, "largest_piece", lambda *_: 100)  # pieces of temporal patches
    plain = used(pixels(GRIDS), grid_thw=torch.tensor(GRIDS)).pooler_output
    with reading(used, {"local": 1, "last": 2}) as found:
        read = used(pixels(GRIDS), grid_thw=torch.tensor(GRIDS)).pooler_output
    assert torch.equal(read, plain)
    for name in ("local", "last"):
        assert relative_error(found[name], expected[name]) < TOLERANCE[torch.float32]
    assert found["last.keys"].shape == (len(plain), 16)
    assert found.clock.milliseconds > 0
    assert not used.blocks[1].attn._forward_pre_hooks
    assert not used._forward_pre_hooks


def test_a_key_reading_is_the_mean_of_a_tokens_patches(vision):
    with reading(vision, {"last": 2}) as found:
        vision(pixels(GRIDS), grid_thw=torch.tensor(GRIDS))
    with reading(vision, {"last": 2}) as alone:
        vision(pixels(GRIDS)[:48], grid_thw=torch.tensor(GRIDS[:1]))
    assert relative_error(found["last.keys"][:12], alone["last.keys"]) < TOLERANCE[torch.float32]
    assert torch.equal(found["pixels"], pixels(GRIDS)[::4, 0])


def test_attention_received_by_hand():
    """Two segments of two patches, one head: queries of 0 spread evenly; (ln 3, 0) gives 3/4 to the first key."""
    query = torch.tensor([[[0.0]], [[torch.log(torch.tensor(3.0))]], [[0.0]], [[0.0]]])
    key = torch.tensor([[[1.0]], [[0.0]], [[5.0]], [[7.0]]])
    received = attention_received(query, key, [2, 2], scale=1.0)
    torch.testing.assert_close(received, torch.tensor([0.5 + 0.75, 0.5 + 0.25, 1.0, 1.0]))


class Largest(TorchDispatchMode):
    """The most numbers in a tensor that is made while the context lasts."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **kwargs or {})
        self.numbers = max([self.numbers, *(each.numel() for each in tree_flatten(made)[0] if torch.is_tensor(each))])
        return made


def test_no_more_than_a_piece_is_in_memory(monkeypatch):
    """1,000 patches, of which 800 are one image; one last token over 1,000 keys."""
    query, key = torch.randn(2, 1000, 2, 4)
    monkeypatch.setattr(tower_module, "CHUNK", 20_000)
    with Largest() as largest:
        attention_received(query, key, [800] + [8] * 25, scale=0.5)
    assert largest.numbers <= 20_000
    with Largest() as largest:
        last_token_scores(query[:1].repeat(1, 2, 1), key, scale=0.5)
    assert largest.numbers <= 8_000


def test_segments_of_any_lengths():
    generator = torch.Generator().manual_seed(1)
    query, key = torch.randn(2, 20, 3, 4, generator=generator)
    whole = attention_received(query, key, [2, 2, 7, 1, 4, 4], scale=0.5)
    for start, stop in ((0, 2), (2, 4), (4, 11), (11, 12), (12, 16), (16, 20)):
        alone = attention_received(query[start:stop], key[start:stop], [stop - start], scale=0.5)
        torch.testing.assert_close(whole[start:stop], alone)


@pytest.mark.parametrize("grids", [GRIDS, [[2, 8, 16]], [[1, 2, 2], [1, 2, 18], [4, 18, 2]]], ids=str)
def test_window_order_is_that_of_transformers(grids):
    order, _ = get_vision_window_index(torch.tensor(grids), spatial_merge_size=2, window_size=112, patch_size=14)
    assert torch.equal(window_order(grids, merge=2, window=4), order)
